"""Watched numbers of a loop: nodes report them with ``watch_size``, and they are read once, after the loop has ended.

Until then they stay on their device. A number beyond its limit at the end of the loop is a warning of the run and never
changes a result. Outside of loops, and while a graph is traced, nothing is watched.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from guidegraph.graph.ir import Call
from guidegraph.graph.late import torch

if TYPE_CHECKING:
    from torch import Tensor
from typing import Any

Decisive: TypeAlias = "Callable[[], Tensor]"
"""Whether a size that is the last one counts: a flag that is computed after the loop."""
Measure: TypeAlias = "Callable[[Tensor], Tensor]"
"""Computes the size of each sample (B) from a value (B, …)."""
KEPT_BYTES, MOST_KEPT_BYTES = 64 << 10, 1 << 20
"""The largest value that is kept to be measured later, and the most that all of a node's are."""


@dataclass
class WatchedSizes:
    """The sizes that calls of one node reported, with their iterations, the limit, and the message of the warning.

    Small values are measured later, several in a row: a few operations in the middle of a step, between the weights of
    a network, take several times as long. waiting: the latest values, all alike, to compute sizes of with ``measure``;
    without it, sizes. waiting_bytes: their bytes. largest: the largest size of each call before those, as vectors.
    """

    call: Call
    limit: float
    message: str
    iterations: list[int] = field(default_factory=list)
    waiting: list[Tensor] = field(default_factory=list)
    waiting_bytes: int = 0
    measure: Measure | None = None
    largest: list[Tensor] = field(default_factory=list)
    decisive: Decisive | None = None

    def add(self, value: Tensor, measure: Measure | None) -> None:
        """Add a size or, with ``measure``, a value to compute one from. A subclass of tensor is measured at once."""
        if measure is not None and (value.nbytes > KEPT_BYTES or type(value) is not torch.Tensor):
            value, measure = measure(value), None
        is_same_kind = (measure is None) == (self.measure is None)
        if self.waiting and not (is_same_kind and _is_alike(self.waiting[-1], value)):
            self.find_largest()
        self.waiting.append(value)
        self.measure = measure
        self.waiting_bytes += value.nbytes
        if self.waiting_bytes > MOST_KEPT_BYTES:
            self.find_largest()

    def find_largest(self) -> None:
        """Find the largest size of each call whose value waits for it, as one batch."""
        if not self.waiting:
            return
        values = torch.stack(self.waiting)
        sizes = values if self.measure is None else self.measure(values.flatten(0, 1))
        self.largest.append(sizes.reshape(len(self.waiting), -1).amax(dim=1))
        self.waiting, self.waiting_bytes = [], 0


def _is_alike(value: Tensor, other: Tensor) -> bool:
    """Whether two values can be measured as one batch."""
    return value.shape == other.shape and value.dtype == other.dtype and value.device == other.device


@dataclass
class LoopWatch:
    """The sizes watched in one loop. call, iteration: the current ones. warned: nodes that the run has warned about."""

    warned: set[str]
    call: Call | None = None
    iteration: int = 0
    watched: dict[str, WatchedSizes] = field(default_factory=dict)

    def add(
        self, value: Tensor, limit: float, message: str, decisive: Decisive | None, measure: Measure | None = None
    ) -> None:
        """Add a size of the current call or, with ``measure``, a value to compute it from."""
        call = self.call
        if call is None or call.key in self.warned:
            return
        watched_sizes = self.watched.get(call.key)
        if watched_sizes is None:
            watched_sizes = self.watched[call.key] = WatchedSizes(call, limit, message)
        watched_sizes.iterations.append(self.iteration)
        watched_sizes.add(value.detach() if value.requires_grad else value, measure)
        watched_sizes.decisive = decisive

    def finish(self, total: int) -> None:
        """Warn of the nodes whose last size is beyond its limit. total: the loop's number of iterations."""
        for key, watched_sizes in self.watched.items():
            watched_sizes.find_largest()
            sizes: list[float] = torch.cat(watched_sizes.largest).tolist()
            first = _beyond_since(sizes, watched_sizes.limit)
            if first is not None and (watched_sizes.decisive is None or bool(watched_sizes.decisive())):
                self.warned.add(key)
                step = f"step {watched_sizes.iterations[first] + 1} of {total}"
                location = f"{watched_sizes.call.mark}: nodes.{key} ({watched_sizes.call.spec.id})"
                warnings.warn(
                    f"{location}: from {step} on {watched_sizes.message.format(size=sizes[-1])}", stacklevel=2
                )


def _beyond_since(sizes: Sequence[float], limit: float) -> int | None:
    """The position from which all sizes are above the limit or NaN; ``None`` if the last is within it."""
    within = [i for i, size in enumerate(sizes) if size <= limit]
    first = within[-1] + 1 if within else 0
    return first if first < len(sizes) else None


_watch: ContextVar[LoopWatch | None] = ContextVar("guidegraph_watch", default=None)


@contextmanager
def use_watch(watch: LoopWatch | None) -> Iterator[None]:
    """Let nodes called in this context watch sizes; with None, nothing is watched."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def is_watching() -> bool:
    """Whether a loop watches sizes, so that they are worth computing."""
    return _watch.get() is not None


def watch_size(
    value: Tensor, limit: float, message: str, decisive: Decisive | None = None, measure: Measure | None = None
) -> None:
    """Warn once after the loop if a size is above a limit or NaN from some step to the end.

    value: the size, a tensor of any shape, of which the largest value counts. decisive: called after the loop if this
    size is the last one; without the flag that it returns, a tensor, there is no warning. measure: computes the size
    of each sample from the value, now or later; nothing may change the value in place.
    message: continues "from step 3 of 30 on"; ``{size:.3g}`` in it is the last size. Does nothing outside of a loop.
    """
    if (watch := _watch.get()) is not None:
        watch.add(value, limit, message, decisive, measure)


Viewer: TypeAlias = Callable[[Any], object]

_viewer: ContextVar[Viewer | None] = ContextVar("guidegraph_viewer", default=None)


@contextmanager
def use_viewer(viewer: Viewer) -> Iterator[None]:
    """Context manager: runs in the block, on this thread, pass the values that their nodes offer to ``viewer``."""
    token = _viewer.set(viewer)
    try:
        yield
    finally:
        _viewer.reset(token)


def offer_value(value: Any) -> None:
    """Pass a value to the viewer of the run, if it has one. For values that are computed, not traced."""
    if (viewer := _viewer.get()) is not None:
        viewer(value)
