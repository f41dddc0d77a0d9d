"""What a run tells its observers, and how it is cancelled.

An observer is any callable that takes an event. The progress bar, the JSON log and the report are
observers. Events of a loop's body are folded into
``LoopProgress`` while it runs, and into ``NodeTotals`` when it ends.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from guidegraph.graph.errors import Cancelled

Origin: TypeAlias = Literal["computed", "memory", "disk"]


@dataclass(frozen=True)
class RunStarted:
    """``total`` operations of the top level will be computed or taken from a cache."""

    workflow: str
    total: int


@dataclass(frozen=True)
class NodeStarted:
    path: str
    node: str


@dataclass(frozen=True)
class NodeFinished:
    """``origin`` says whether the values were computed or came from a cache."""

    path: str
    node: str
    seconds: float
    origin: Origin
    digest: str


@dataclass(frozen=True)
class NodeTotals:
    """A node in the body of a loop that has ended: its calls, and the seconds of all of them together.

    A loop that fails or is cancelled has ended too. Calls that were batched share their time equally. On a GPU a call
    may return before its work is done; the time is then with the call that waits for it.
    """

    path: str
    node: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class NodeFailed:
    path: str
    node: str
    error: str


@dataclass(frozen=True)
class LoopProgress:
    """``done`` of ``total`` iterations of the loop at ``path``; ``values`` are numbers to show, such as losses."""

    path: str
    done: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PreviewReady:
    """An output of the preview of the training loop at ``path`` is complete, after ``step`` steps."""

    path: str
    name: str
    step: int


@dataclass(frozen=True)
class TrainingStarted:
    """The training loop at ``path`` begins, or goes on after ``step`` steps of its checkpoint.

    ``precision`` is what it computes in, fp32 or bf16; ``asked`` is what its workflow says: auto, fp32 or bf16.
    """

    path: str
    precision: str
    asked: str
    step: int


@dataclass(frozen=True)
class ModelMoved:
    """A model went to a device. ``path`` and ``output`` name where it was made (``params``: given from outside).

    ``model`` is its class; ``bytes`` is what was moved or freed: weights that it shares count for one model alone.
    """

    path: str
    output: str
    model: str
    device: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class OutputReady:
    """A declared output of the workflow is complete."""

    name: str


@dataclass(frozen=True)
class RunFinished:
    status: Literal["done", "failed", "cancelled"]
    seconds: float


Event: TypeAlias = (
    RunStarted
    | NodeStarted
    | NodeFinished
    | NodeTotals
    | NodeFailed
    | LoopProgress
    | PreviewReady
    | TrainingStarted
    | ModelMoved
    | OutputReady
    | RunFinished
)
Observer: TypeAlias = Callable[[Event], None]


def leave_to_token(number: int, frame: object) -> None:
    """The handler of SIGINT where Ctrl-C sets a token, by a thread that signals wake, and raises no exception."""


def is_interrupt(error: BaseException) -> bool:
    """Whether this is the person's Ctrl-C rather than a ``KeyboardInterrupt`` that a node's code raised.

    Python raises it in the main thread alone, and not where Ctrl-C sets a token.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGINT) is not leave_to_token


class CancelToken:
    """Set from any thread or a signal handler; a run checks it between nodes and at every iteration."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise ``Cancelled`` once the token is set."""
        if self._event.is_set():
            raise Cancelled("the run was cancelled")
