"""The throughput of a part of a workflow."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor, is_tensor

V = TypeVar("V")


class Started(NamedTuple, Generic[V]):
    """An unchanged value and the clock's reading, in seconds."""

    value: V
    start: float


class Throughput(NamedTuple):
    """Samples per second, and the total seconds."""

    value: float
    seconds: float


@node("metric.start_clock", pure=False, host=True)
def start_clock(value: V, after: Sequence[Any] | None = None) -> Started[V]:
    """Pass a value on and read the clock, to time all computation from `value` up to `metric.throughput`.

    after: values that must be ready before the clock starts, such as models. Timed values are never taken from the
    cache. A process's first call of a network is slower than later ones: time a second call.
    """
    wait([value, *(after or ())])
    return Started(value, time.perf_counter())


@node("metric.throughput", pure=False, host=True)
def throughput(samples: Tensor, start: float) -> Throughput:
    """The samples (B, …) made per second since `metric.start_clock`, by the wall clock."""
    wait([samples])
    seconds = time.perf_counter() - start
    return Throughput(len(samples) / seconds if seconds > 0 else math.inf, seconds)


def wait(values: Sequence[Any]) -> None:
    """Wait for the GPUs of the tensors, because calls return before their work on a GPU is done."""
    devices = {value.device for value in values if is_tensor(value) and value.device.type == "cuda"}
    if devices:
        for device in devices:
            torch.cuda.synchronize(device)
