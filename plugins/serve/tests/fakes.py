"""Stand-ins for a bundle and its shelf, whose time is a count of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import Limits
from guidegraph_runtime.open_runs.open_run import OpenRun
from guidegraph_runtime.running.bundle import Prepared
from guidegraph_runtime.running.rehearse import Demand
from guidegraph_serve.jobs import Job
from guidegraph_serve.worker import SteppedBundle, Worker, WorkerSettings


class FakeRun:
    """A run of some steps that draws its own number of steps; it fails at step ``fails_at``.

    loops: the steps of each of its loops, which it enters one after the other.
    """

    def __init__(self, loops: Sequence[int], fails_at: int | None) -> None:
        self.loops, self.fails_at, self.count = loops, fails_at, 0

    @property
    def total(self) -> int:
        entered = next((i for i in range(len(self.loops)) if self.count < sum(self.loops[: i + 1])), len(self.loops))
        return sum(self.loops[: entered + 1])

    @property
    def done(self) -> bool:
        return self.count >= sum(self.loops)

    @property
    def failed(self) -> bool:
        return self.count == self.fails_at

    def check_open(self) -> None:
        if self.failed:
            raise BundleError("fake", "operation-failed", "the run has failed")

    def finish(self) -> dict[str, NDArray[Any]]:
        return {"steps": np.array(self.total)}


class FakeBundle:
    """A bundle that counts its steps, and calls ``on_step`` with their number before each."""

    def __init__(self, on_step: Callable[[int], None] = lambda count: None) -> None:
        self.steps, self.on_step = 0, on_step
        self.batches: list[int] = []

    def start_with(self, params: Mapping[str, Any], *, prepared: Prepared) -> OpenRun:
        if prepared.values.get("broken"):
            raise BundleError("fake", "operation-failed", "it cannot be started")
        loops = prepared.values.get("loops", [prepared.demand.steps])
        return cast(OpenRun, FakeRun(loops, prepared.values.get("fails_at")))

    def step(self, runs: Sequence[OpenRun]) -> None:
        self.on_step(self.steps)
        self.steps += 1
        self.batches.append(len(runs))
        for run in runs:
            cast(FakeRun, run).count += 1
        for run in runs:
            run.check_open()


class FakeShelf:
    """A shelf with one bundle, which is always open."""

    def __init__(self, bundle: SteppedBundle) -> None:
        self.bundle, self.is_wanted = bundle, False

    def acquire(self, name: str, timeout: float) -> SteppedBundle | None:
        return self.bundle

    def release(self, name: str) -> None: ...

    def leave_queue(self, name: str) -> None: ...

    def is_due(self, name: str) -> bool:
        return self.is_wanted


def make_job(steps: int, samples: int = 1, nbytes: int = 0, priority: int = 0, **fields: Any) -> Job:
    """A job of so many steps. Other fields are values of its run, which ``FakeBundle`` reads, or the deadline."""
    deadline = fields.pop("deadline", float("inf"))
    prepared = Prepared({}, (), fields, {}, Demand(steps, samples, nbytes))
    return Job("fake", {}, prepared, priority, deadline)


def make_worker(bundle: SteppedBundle, batch: int = 1, clock: Callable[[], float] = lambda: 0.0) -> Worker:
    """A worker, not yet started, whose jobs give the number of their steps."""

    def encode(job: Job, outputs: Mapping[str, NDArray[Any]]) -> tuple[Mapping[str, Any], int]:
        return {"steps": int(outputs["steps"])}, 8

    settings = WorkerSettings(batch, 1000, Limits(), max_steps=1000, encode=encode)
    return Worker("fake", FakeShelf(bundle), settings, clock=clock)
