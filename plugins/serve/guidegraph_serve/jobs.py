"""Requests to draw: their state, which any thread may read or wait for, and the jobs that the server remembers."""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any, Literal

from guidegraph_runtime.open_runs.open_run import OpenRun
from guidegraph_runtime.running.bundle import Prepared
from guidegraph_runtime.sessions.call_limits import WATCH

Status = Literal["queued", "running", "done", "failed", "cancelled"]

MAX_KEPT = 200
"""The most jobs that are remembered after their end."""
MAX_KEPT_BYTES = 256 << 20
"""The most bytes of outputs that are remembered."""


@dataclass(frozen=True)
class Failure:
    """Why a job failed.

    status: of the answer over HTTP. code: a word for programs. retry_after: seconds after which it may be sent again; 0
    if that is not known.
    """

    message: str
    code: str = "operation-failed"
    status: int = 500
    retry_after: int = 0


@dataclass(frozen=True)
class JobEnd:
    """The end of a job. outputs: by name, as JSON, of a job that is done. output_bytes: their size."""

    status: Literal["done", "failed", "cancelled"]
    failure: Failure | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    output_bytes: int = 0


STOPPED = Failure("the server was stopped", "stopped", 503)
"""Why a job was cancelled when the server ended."""
LATE = Failure("the deadline has passed", "deadline", 504)


@dataclass(eq=False)
class Job:
    """A request to one bundle.

    params, nodes: from the request. prepared: the checked run, until the job has ended. priority: higher goes
    first. deadline: the monotonic time by which it must have ended. samples, nbytes, call_bytes: of its run.
    step_seconds: of one of its steps, as the export measured them, or 1. step, steps: iterations done, of all.
    warnings: about the request, for its client. waited: rounds in which others were stepped and it was not. run: while
    it is open. result: how it ended. preview: the newest, as the step after which it was made and a PNG, which is empty
    before the first. partials: how many pictures of the unfinished sample are wanted; partial_pictures: those that were
    made, as PNGs. held: the bytes of its files and of the values made from them. created: the time of day of its
    acceptance. began, ended_at: the monotonic times of its acceptance and its end.
    """

    bundle: str
    params: Mapping[str, Any]
    prepared: Prepared | None
    priority: int = 0
    deadline: float = float("inf")
    nodes: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    status: Status = "queued"
    step: int = 0
    steps: int = 0
    waited: int = 0
    run: OpenRun | None = None
    result: JobEnd | None = None
    preview: tuple[int, bytes] = (0, b"")
    partials: int = 0
    partial_pictures: list[bytes] = field(default_factory=list)
    ended_at: float = 0.0
    ended: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        assert self.prepared is not None
        demand = self.prepared.demand
        self.samples, self.nbytes, self.steps = demand.samples, demand.nbytes, self.steps or demand.steps
        self.call_bytes = demand.call_bytes
        self.step_seconds = demand.seconds / max(demand.steps, 1) or 1.0
        sent = (file for value in self.params.values() for file in (value if isinstance(value, list) else [value]))
        made = (array for values in self.prepared.ready.values() for array in values.values())
        self.held = sum(len(file) for file in sent if isinstance(file, bytes))
        self.held += sum(getattr(array, "nbytes", 0) for array in made)
        self._lock = Lock()
        self._listeners: list[tuple[Callable[[], object], bool]] = []

    @property
    def is_open(self) -> bool:
        """Whether its run has been started."""
        return self.run is not None

    @property
    def remaining(self) -> int:
        """The iterations that are left."""
        return self.steps - self.step

    @property
    def failure(self) -> Failure | None:
        """Why it failed, if it has."""
        return None if self.result is None else self.result.failure

    @property
    def outputs(self) -> Mapping[str, Any]:
        """Its outputs by name, as JSON; empty before its end."""
        return {} if self.result is None else self.result.outputs

    @property
    def output_bytes(self) -> int:
        """The size of its outputs."""
        return 0 if self.result is None else self.result.output_bytes

    @property
    def needs_previews(self) -> bool:
        """Whether anybody looks at previews."""
        with self._lock:
            return any(previews for _, previews in self._listeners)

    def listen(self, listener: Callable[[], object], previews: bool = False) -> Callable[[], None]:
        """Call ``listener`` after each change, on any thread. Returns a function that ends this.

        previews: whether the listener needs previews.
        """
        with self._lock:
            self._listeners.append((listener, previews))

        def stop() -> None:
            with self._lock:
                self._listeners.remove((listener, previews))

        return stop

    def report(self) -> None:
        """Tell the listeners that something has changed."""
        with self._lock:
            listeners = [listener for listener, _ in self._listeners]
        for listener in listeners:
            listener()

    def begin(self, run: OpenRun) -> None:
        """Set the run, which has been started. A job that has ended stays as it is."""
        with self._lock:
            if self.ended.is_set():
                return
            self.run, self.status = run, "running"
            self.count_steps(run)
        self.report()

    def count_steps(self, run: OpenRun) -> None:
        """Set the steps done, and those in all: as foreseen, or more if the loops entered so far take more."""
        self.step, self.steps = run.count, max(self.steps, run.total)

    @property
    def is_partial_due(self) -> bool:
        """Whether the next picture of the unfinished sample should be made now."""
        made = len(self.partial_pictures)
        return made < self.partials and self.step * (self.partials + 1) >= self.steps * (made + 1)

    def follow(
        self, status: Status, step: int, steps: int, preview: tuple[int, bytes], partials: Sequence[bytes] = ()
    ) -> None:
        """Set the state that another process reports; partials: the new ones. A job that has ended stays as it is."""
        with self._lock:
            if self.ended.is_set():
                return
            self.status, self.step, self.steps, self.preview = status, step, steps or self.steps, preview
            self.partial_pictures += partials
        self.report()

    def end(self, end: JobEnd) -> bool:
        """End the job; its first end counts. Returns whether this was the first. See also ``end_job``."""
        with self._lock:
            if self.ended.is_set():
                return False
            self.result = end
            self.status = end.status  # after the result, since others read both without the lock
            self.run = self.prepared = None
            self.params, self.held = {}, 0
            self.ended_at = time.monotonic()
            self.ended.set()
        WATCH.end_unwanted()
        self.report()
        return True

    def still_waits(self) -> bool:
        """Whether it has not ended, so that somebody waits for its result."""
        return not self.ended.is_set()


class JobStore:
    """Jobs by id: those that have not ended, and the last of those that have."""

    def __init__(self, max_kept: int = MAX_KEPT, max_bytes: int = MAX_KEPT_BYTES):
        self._max_kept, self._max_bytes = max_kept, max_bytes
        self._jobs: dict[str, Job] = {}
        self._lock = Lock()

    def find(self, key: str) -> Job | None:
        """The job of an id, if it is remembered."""
        with self._lock:
            return self._jobs.get(key)

    def list_open(self) -> list[Job]:
        """The jobs that have not ended, oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if not job.ended.is_set()]

    def add(self, job: Job, limit: int) -> bool:
        """Remember a job, unless ``limit`` jobs have not ended. Returns whether it was added."""
        with self._lock:
            if sum(not other.ended.is_set() for other in self._jobs.values()) >= limit:
                return False
            self._jobs[job.id] = job
            self._forget()
            return True

    def forget(self) -> None:
        """Forget the jobs that ended first, beyond the limits; the last one that has ended stays."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        ended = sorted((job for job in self._jobs.values() if job.ended.is_set()), key=lambda job: job.ended_at)
        count, size = len(ended), sum(job.output_bytes for job in ended)
        for job in ended[:-1]:
            if count <= self._max_kept and size <= self._max_bytes:
                break
            count, size = count - 1, size - job.output_bytes
            del self._jobs[job.id]


HEARTBEAT = 15.0
"""Seconds without a change after which watchers are woken."""


class JobWatch:
    """Waits, in an event loop, for the changes of a job that other threads report. previews: whether it needs them."""

    def __init__(self, job: Job, previews: bool = True):
        self._previews = previews
        self._job, self._changed = job, asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stop: Callable[[], None] = lambda: None

    def __enter__(self) -> JobWatch:
        def notify() -> None:
            with suppress(RuntimeError):  # the loop has ended with the server
                self._loop.call_soon_threadsafe(self._changed.set)

        self._stop = self._job.listen(notify, self._previews)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change; False if there is none within the time."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    async def wait_for_end(self) -> None:
        """Wait until the job has ended."""
        while not self._job.ended.is_set():
            await self.wait(HEARTBEAT)


_REMEDY = re.compile(r"\. If [a-z ]+, raise (it|the limit).*")
"""The end of a message about a limit, for the person who may raise it."""


@dataclass(frozen=True)
class DrawRequest:
    """A request to a bundle.

    nodes: overrides by ``node.setting``. deadline: seconds from now; None for the longest. is_watched: whether anybody
    may look at its previews: the id of a job that is waited for is not known before its end. partials: how many
    pictures of the unfinished sample its client wants. work: its iterations times its samples, by which a front
    chooses a replica.
    """

    bundle: str
    params: Mapping[str, Any]
    nodes: Mapping[str, Any] | None = None
    priority: int = 0
    deadline: float | None = None
    is_watched: bool = False
    partials: int = 0
    work: int = 1


class RequestRefused(Exception):
    """A request that is not queued. status: of the answer over HTTP. param: the parameter that is wrong.

    retry_after: seconds after which it may be sent again.
    """

    def __init__(
        self, message: str, param: str | None = None, code: str = "bad-request", status: int = 400, retry_after: int = 0
    ):
        super().__init__(message)
        self.message, self.param, self.code, self.status, self.retry_after = message, param, code, status, retry_after


def describe_steps(count: int, allowed: int) -> str:
    """The message about a request of too many steps."""
    return f"it takes {count} steps, and this server allows {allowed}"


def drop_remedy(message: str) -> str:
    """A message about a limit without the advice to raise it, which a client cannot follow."""
    return _REMEDY.sub("", message)


LEVELS = ("debug", "info", "warning", "error")
"""Of the lines of the log, the least first."""
MAX_COUNT = 1_000_000
MAX_PIXELS = 1 << 40
MAX_SECONDS = 1e6
MAX_DIGITS = 15


@dataclass(frozen=True)
class ServeOptions:
    """Limits of a server.

    batch: samples in one step, and of one request. run_memory: bytes of the values of all open runs of a bundle.
    queue: requests that have not ended. steps: iterations of a request. seconds: from a request's arrival to its end.
    body_bytes: of a request; upload_bytes: of one to a bundle that takes pictures or tensors. pixels: of a picture that
    is sent or asked for. bundle_memory: bytes of the files of all open bundles; None for no limit.
    """

    batch: int = 8
    run_memory: int = 1 << 30
    queue: int = 64
    steps: int = 200
    seconds: float = 600.0
    body_bytes: int = 1 << 16
    upload_bytes: int = 16 << 20
    pixels: int = 1 << 24
    bundle_memory: int | None = None


def parse_count(text: str, low: int = 1) -> int:
    """A whole number from ``low`` to a million. Raises ``ValueError``."""
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= MAX_COUNT:
        raise ValueError(f"expected a number from {low} to {MAX_COUNT}, found {text!r:.80}")
    return int(text)


def parse_pixels(text: str) -> int:
    """A number of pixels, such as 16777216, or WIDTHxHEIGHT. Raises ``ValueError``."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(
        side.isascii() and side.isdigit() and len(side) <= MAX_DIGITS for side in sides
    ):
        raise ValueError(f"expected a number of pixels or WIDTHxHEIGHT, found {text!r:.80}")
    if not 1 <= (pixels := math.prod(map(int, sides))) <= MAX_PIXELS:
        raise ValueError(f"expected from 1 to {MAX_PIXELS} pixels, found {text!r:.80}")
    return pixels


def parse_seconds(text: str) -> float:
    """Seconds above 0. Raises ``ValueError``."""
    return parse_amount(text, "seconds above 0", MAX_SECONDS)


def parse_amount(text: str, expected: str, high: float, zero: bool = False) -> float:
    """A number above 0, or from 0 where ``zero``, up to ``high``. Raises ``ValueError``."""
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not (0 < amount <= high or (zero and amount == 0)):
        raise ValueError(f"expected {expected}, found {text!r:.80}")
    return amount
