"""Exporting a part to a graph for onnxruntime, and finding the call at fault if that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from guidegraph.graph.acceleration.part import Part, PartExample, WatchedSize
from guidegraph.graph.acceleration.part_values import FlatValue
from guidegraph.graph.acceleration.store import GraphDescription, KnownRefusal, Refusal
from guidegraph.graph.errors import NodeError
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.partition.subgraph import PartPlan
from guidegraph_runtime.error_text import describe_error, list_causes
from guidegraph_runtime.machine.shortages import explain_shortage

if TYPE_CHECKING:
    from torch import Tensor

    from guidegraph.graph.export.trace_parts import ExportedPart


LASTING: tuple[type[Exception], ...] = (
    ExportError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
)
"""Errors of nodes and of the trace, which depend on the part alone."""


def export_part(
    plan: PartPlan, watched: Sequence[WatchedSize], device: str, dtype: str
) -> tuple[GraphDescription, Callable[[Path], object]]:
    """Trace a part. Returns its interface, and a function that writes the graph to a path, without unread inputs.

    Raises ``ExportError`` if it cannot be traced, and other errors of its nodes when they run on other sizes.
    """
    from guidegraph.graph.export.onnx.model import save_part
    from guidegraph.graph.export.trace_parts import multiples, trace_parts

    exported: ExportedPart
    (exported,) = trace_parts([plan], device, {}, None, dtype=dtype)
    inputs = tuple(exported.traced.inputs.items())
    description = GraphDescription(inputs, tuple(exported.traced.outputs), multiples(exported), tuple(watched))
    graph = exported.traced.model.graph
    returned = {id(value) for value in graph.outputs}
    for value in [value for value in graph.inputs if not value.uses() and id(value) not in returned]:
        graph.inputs.remove(value)  # OpenVINO takes the next input for one that nothing reads
    return description, lambda path: save_part(exported.traced, path)


def explain_failure(part: Part, error: Exception) -> Refusal:
    """The call of a part that could not be traced, if the error names it, and the reason."""
    if isinstance(error, KnownRefusal):
        return error.refusal
    reason = error.reason if isinstance(error, ExportError) else describe_error(error).partition("\n")[0]
    paths = {f"nodes.{call.key}": i for i, call in enumerate(part.calls)}
    for link in list_causes(error):
        if isinstance(link, NodeError) and link.path in paths:
            return Refusal(paths[link.path], reason)
    return Refusal(None, reason)


def is_lasting(error: Exception) -> bool:
    """Whether a part would fail in the same way in another run: no lack of memory, and no fault of a device."""
    cause = error.cause if isinstance(error, NodeError) else error
    return isinstance(cause, LASTING) and not any(map(explain_shortage, list_causes(cause)))


class PartRunner(Protocol):
    """Runs a part on flat tensors. watched: the sizes that it watches, which are its last outputs."""

    @property
    def watched(self) -> Sequence[WatchedSize]: ...

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]: ...


class Backend(Protocol):
    """Finds or makes the runners of parts.

    lifts_numbers: numbers of parameters become inputs. keeps_graphs: what it makes is kept for other processes.
    """

    name: str
    lifts_numbers: bool

    @property
    def keeps_graphs(self) -> bool: ...

    def find(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> PartRunner | None:
        """The runner of a part that an earlier call or run made; None if there is none. Raises ``KnownRefusal``."""
        ...

    def make(self, part: Part, example: PartExample) -> PartRunner:
        """Make a runner, specialised on the plain values of an example."""
        ...

    def identify(self, part: Part, flat: Sequence[FlatValue]) -> str:
        """The digest of a part and the values that it was specialised on."""
        ...

    def keep_refusal(self, part: Part, flat: Sequence[FlatValue], refusal: Refusal) -> None:
        """Note that no runner can be made for a part."""
        ...

    def was_compared(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> bool:
        """Whether an earlier process on this machine compared the runner with torch at these sizes."""
        ...

    def note_compared(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> None:
        """Note that the runner gives torch's results at these sizes."""
        ...
