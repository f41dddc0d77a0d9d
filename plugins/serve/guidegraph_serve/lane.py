"""The order of the jobs of one bundle: which of them share the next step.

Runs are held open between steps, so the order is decided again before each step, and a run can be overtaken at any of
them. The job with the least time left goes first (shortest remaining processing time: its iterations times the seconds
of one, where the export measured them), and a job that waits ages, so that short jobs do not wait for long ones and
long ones do not wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Generic, Protocol, TypeVar

AGING = 0.25
"""Iterations by which a job's remaining ones seem fewer after each round in which it waited.

So a job waits at most four rounds for each iteration it has left until no new job goes before it.
"""


class Schedulable(Protocol):
    """A job as a lane reads it, with the rounds waited, which the lane counts."""

    waited: int

    @property
    def priority(self) -> int: ...
    @property
    def remaining(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def call_bytes(self) -> int: ...
    @property
    def step_seconds(self) -> float: ...
    @property
    def is_open(self) -> bool: ...


J = TypeVar("J", bound=Schedulable)


class Lane(Generic[J]):
    """The jobs of one bundle that have not ended, in the order of their arrival.

    batch: the most samples in one step. memory: the most bytes of the values of all open runs together; one run is
    open whatever it needs. call_memory: the most bytes of the calls of one step; None for no limit.
    """

    def __init__(self, batch: int, memory: int, call_memory: int | None = None):
        self.batch, self.memory, self.call_memory = batch, memory, call_memory
        self.jobs: list[J] = []

    def choose(self, admit: bool = True) -> list[J]:
        """The jobs to step now; the others have waited one more round. admit: whether new ones may begin.

        While the next job to begin waits for memory, none begins behind it.
        """
        open_bytes = sum(job.nbytes for job in self.jobs if job.is_open)
        chosen: list[J] = []
        samples = call_bytes = 0
        for job in sorted(self.jobs, key=lambda j: (-j.priority, (j.remaining - AGING * j.waited) * j.step_seconds)):
            if samples + job.samples > self.batch:
                continue
            if chosen and self.call_memory is not None and call_bytes + job.call_bytes > self.call_memory:
                continue
            if not job.is_open:
                if not admit:
                    continue
                if open_bytes and open_bytes + job.nbytes > self.memory:
                    admit = False  # those behind it would take the memory that it waits for
                    continue
                open_bytes += job.nbytes
            chosen.append(job)
            samples, call_bytes = samples + job.samples, call_bytes + job.call_bytes
        for job in self.jobs:
            job.waited += job not in chosen
        return chosen

    @property
    def has_open(self) -> bool:
        """Whether the run of any job is open."""
        return any(job.is_open for job in self.jobs)


LOOK_SECONDS = 0.2
"""How often a step that waits for the memory of its calls looks whether it is still wanted."""


class CallBudget:
    """The memory that the calls of all bundles share: calls that would exceed it wait, in the order of their arrival.

    limit: bytes. A call that is estimated to take more runs alone; one of unknown size (0) does not wait.
    """

    def __init__(self, limit: int):
        self.limit, self._held = limit, 0
        self._waiting: list[object] = []
        self._changed = Condition()

    @contextmanager
    def reserve(self, nbytes: int, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[bool]:
        """Wait for this much, and hold it for the block. Yields False, without it, once ``is_wanted`` is false."""
        turn, is_held = object(), False

        def has_room() -> bool:
            is_free = not self._held or self._held + nbytes <= self.limit
            return not nbytes or (self._waiting[0] is turn and is_free)

        with self._changed:
            self._waiting.append(turn)
        try:
            while not is_held and is_wanted():
                with self._changed:
                    is_held = self._changed.wait_for(has_room, LOOK_SECONDS)
                    if is_held:
                        self._held += nbytes
                        self._waiting.remove(turn)
                        self._changed.notify_all()
            yield is_held
        finally:
            with self._changed:
                if is_held:
                    self._held -= nbytes
                else:
                    self._waiting.remove(turn)
                self._changed.notify_all()
