"""How long a part of a workflow takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor, is_tensor

V = TypeVar("V")


class Started(NamedTuple, Generic[V]):
    """A value as it came, and when the clock was read, in seconds."""

    value: V
    start: float


class Throughput(NamedTuple):
    """Samples a second, and the seconds that all of them took."""

    value: float
    seconds: float


@node("metric.start_clock", pure=False, host=True)
def start_clock(value: V, after: Sequence[Any] | None = None) -> Started[V]:
    """Passes a value on and reads the clock: what is computed from `value` is timed, up to `metric.throughput`.

    after: values that must be there before the clock starts, such as models. What is timed is never taken from the
    cache. A process's first call of a network is slower than later ones: time a second one.
    """
    wait([value, *(after or ())])
    return Started(value, time.perf_counter())


@node("metric.throughput", pure=False, host=True)
def throughput(samples: Tensor, start: float) -> Throughput:
    """How many of the samples (B, …) were made in a second since `metric.start_clock`, by the wall clock."""
    wait([samples])
    seconds = time.perf_counter() - start
    return Throughput(len(samples) / seconds if seconds > 0 else math.inf, seconds)


def wait(values: Sequence[Any]) -> None:
    """Until the GPUs that tensors lie on are done; work on them goes on after its call returned."""
    devices = {value.device for value in values if is_tensor(value) and value.device.type == "cuda"}
    if devices:
        import torch

        for device in devices:
            torch.cuda.synchronize(device)
