"""Events that a run sends to its observers.

An observer is any callable that takes an event. The progress bar, the JSON log and the report are observers. Events of
a loop's body are summarised as ``LoopProgress`` while it runs, and as ``NodeTotals`` when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Origin: TypeAlias = Literal["computed", "memory", "disk", "verified"]


@dataclass(frozen=True)
class RunStarted:
    """A run starts; ``total`` operations of the top level will be computed or taken from a cache."""

    workflow: str
    total: int


@dataclass(frozen=True)
class NodeStarted:
    path: str
    node: str


@dataclass(frozen=True)
class NodeFinished:
    """A node has finished.

    origin: whether its values were computed or came from a cache; ``verified``: they were computed, and are the same in
    the disk cache.
    """

    path: str
    node: str
    seconds: float
    origin: Origin
    digest: str


@dataclass(frozen=True)
class NodeTotals:
    """The number of calls and the total seconds of a node in the body of a loop that has ended.

    A loop that failed or was cancelled has ended too. The time of a batch is divided equally among its calls. On a GPU
    a call may return before its work is done; its time then counts for the call that waits for it.
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
    """A preview of the training loop at ``path`` has completed an output after ``step`` steps."""

    path: str
    name: str
    step: int


@dataclass(frozen=True)
class TrainingStarted:
    """The training loop at ``path`` begins, or resumes after ``step`` steps of its checkpoint.

    precision: of the computation, fp32 or bf16. asked: the workflow's setting, auto, fp32 or bf16.
    """

    path: str
    precision: str
    asked: str
    step: int


@dataclass(frozen=True)
class ModelMoved:
    """A model was moved to a device. ``path`` and ``output`` name the output that made it (``params`` for a parameter).

    model: its class. bytes: moved or freed; shared weights count for one model only.
    """

    path: str
    output: str
    model: str
    device: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class PartAccelerated:
    """Nodes of a loop's body that run as one graph are exported, or cannot be.

    backend: ``onnxruntime``, ``torch.compile``, or ``torch`` for nodes that are not accelerated; reason: why not.
    seconds: that the export took.
    """

    paths: tuple[str, ...]
    backend: str
    state: Literal["exporting", "exported", "refused"]
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class OutputReady:
    """A declared output of the workflow is complete."""

    name: str


@dataclass(frozen=True)
class RunFinished:
    """A run has ended. ``stopped``: between two iterations of a loop, as requested."""

    status: Literal["done", "failed", "cancelled", "stopped"]
    seconds: float


Event: TypeAlias = (
    RunStarted
    | NodeStarted
    | NodeFinished
    | NodeTotals
    | NodeFailed
    | LoopProgress
    | PartAccelerated
    | PreviewReady
    | TrainingStarted
    | ModelMoved
    | OutputReady
    | RunFinished
)
Observer: TypeAlias = Callable[[Event], None]
