"""Steps of a run's top level that run as graphs: calls of a model from tensors to tensors, each on its own.

Such a step runs once in most runs, so its graph is used without another run in torch if an earlier process compared
both at the same sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from guidegraph.graph.acceleration.parts import calls_model, explain_outside
from guidegraph.graph.ir import Call, Op
from guidegraph.graph.planning.steps import BlockPlan, Step
from guidegraph.graph.port_kinds import port_kinds
from guidegraph.graph.sources import Literal, list_sources
from guidegraph.graph.types import SequenceOf

if TYPE_CHECKING:
    from torch import Tensor


def list_single_steps(block: BlockPlan, refused: Collection[str] = ()) -> list[Step]:
    """The steps of a block of the top level that can run as graphs. refused: keys of operations that must not."""
    return [step for step in block.steps if not any(explain_single(op, refused) for op in step.ops)]


def explain_single(op: Op, refused: Collection[str] = ()) -> str:
    """The reason why an operation of the top level runs in torch; empty if it can run as a graph."""
    if reason := explain_outside(op, dict.fromkeys(refused, "refused")):
        return reason
    if not calls_model(op):
        return "it calls no model"
    assert isinstance(op, Call)
    if not _reads_tensors(op):
        return "it reads something else than models and tensors"
    for output in op.outputs.values():
        has_lists = any(isinstance(kind, SequenceOf) for kind in output.alternatives)
        if port_kinds(output) != {"tensor"} or has_lists or output.optional:
            return "it returns something else than tensors"
    return ""


def _reads_tensors(call: Call) -> bool:
    """Whether a call reads models and tensors, and no text, for each of which it would need a graph."""
    for name, sources in call.inputs.items():
        port = call.spec.port(name)
        linked = not all(isinstance(source, Literal) for source in list_sources(sources))
        if port is None or (linked and not port_kinds(port.type) <= {"model", "tensor"}):
            return False
    return not any(_has_text(source.value) for source in call.sources() if isinstance(source, Literal))


def _has_text(value: object) -> bool:
    """Whether a literal is a text or a list of texts."""
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and any(map(_has_text, value)))


def explain_pieces(values: Sequence[Any], tensors: Sequence[Tensor]) -> str:
    """The reason why models among some values stay in torch at the sizes of some tensors; empty if they do not.

    A model may have a method ``computes_in_pieces``: whether it computes a tensor of a shape piece by piece, which
    bounds its memory. A graph computes it at once.
    """
    for value in values:
        check = getattr(value, "computes_in_pieces", None)
        if check is not None and any(check(tuple(tensor.shape)) for tensor in tensors):
            return f"{type(value).__name__} computes tensors of this size in pieces, which bounds its memory"
    return ""
