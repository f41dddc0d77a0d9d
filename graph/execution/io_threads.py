"""Running steps that wait for disk or network on threads beside the computation."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from guidegraph.graph.execution.call import invoke
from guidegraph.graph.planning.steps import Step


class IoThreads:
    """A context that runs io steps on threads. It yields futures by the step's id, and joins the threads at the end."""

    def __init__(self, steps: Sequence[Step], slots: list[Any]):
        self._steps = steps
        self._slots = slots
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="guidegraph-io") if steps else None

    def __enter__(self) -> dict[int, Future[Any]]:
        if self._pool is None:
            return {}
        futures = {}
        for step in self._steps:
            context = contextvars.copy_context()
            futures[id(step)] = self._pool.submit(context.run, _invoke_without_gradients, step, self._slots)
        return futures

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _invoke_without_gradients(step: Step, slots: list[Any]) -> None:
    import torch

    with torch.no_grad():
        invoke(step, slots)
