"""The parts of a block: steps that can run as one graph, around at least one call of a model.

Steps of a run's top level that run as graphs: calls of a model from tensors to tensors, each on its own.

Such a step runs once in most runs, so its graph is used without another run in torch if an earlier process compared
both at the same sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from guidegraph.graph.ir import Call, Op
from guidegraph.graph.planning.digest import FRESH, spec_digest, value_digest
from guidegraph.graph.planning.steps import BlockPlan, Step, free_after_last_use, keeps_last_result
from guidegraph.graph.port import port_kinds
from guidegraph.graph.sources import Literal, Source, list_sources
from guidegraph.graph.types import SequenceOf

if TYPE_CHECKING:
    from torch import Tensor


MADE_IN_GRAPHS = {"tensor", "structured", "plain", "unknown"}
"""Kinds of outputs that a call in a part may have; those that leave the part must be tensors in fact."""

UNIDENTIFIED = "nothing identifies it in another run: its code is in no file, or it has an object from Python"


@dataclass(frozen=True)
class StepGroup:
    """A step on its own, or the steps of one part, in order."""

    steps: tuple[Step, ...]
    is_part: bool

    @property
    def ops(self) -> tuple[Op, ...]:
        return tuple(op for step in self.steps for op in step.ops)


def group_steps(block: BlockPlan, refused: Collection[str] = ()) -> list[StepGroup]:
    """The steps of a block in an order in which they can run, with the steps of each part together.

    The depth of a step is the largest number of changes from a part to a step outside on a path to it; steps of one
    depth that can be in a part form one. refused: keys of operations that must stay outside of parts.
    """
    depths: dict[int, int] = {}
    depth_of_slot: dict[int, tuple[int, bool]] = {}
    reasons = dict.fromkeys(refused, "refused")
    joins = [not any(explain_outside(op, reasons) for op in step.ops) for step in block.steps]
    for i, step in enumerate(block.steps):
        depth = 0
        for slot in step.reads:
            level, joined = depth_of_slot.get(slot, (0, False))
            depth = max(depth, level + (joined and not joins[i]))
        depths[i] = depth
        depth_of_slot.update(dict.fromkeys(step.outs, (depth, joins[i])))
    groups: list[StepGroup] = []
    for level in range(max(depths.values(), default=-1) + 1):
        on_level = [i for i in range(len(block.steps)) if depths[i] == level]
        groups += [StepGroup((block.steps[i],), False) for i in on_level if not joins[i]]
        joined_steps = tuple(block.steps[i] for i in on_level if joins[i])
        if any(calls_model(op) for step in joined_steps for op in step.ops):
            groups.append(StepGroup(joined_steps, True))
        else:
            groups += [StepGroup((step,), False) for step in joined_steps]
    return groups


def explain_outside(op: Op, refused: Mapping[str, str]) -> str:
    """The reason why an operation cannot be in a part; empty if it can."""
    if op.key in refused:
        return refused[op.key]
    if op.has_blocks:
        return "it is a loop, whose own body has parts"
    if op.has_branches:
        return "it chooses between branches"
    if not op.spec.pure:
        return "it is not pure"
    if op.spec.host or op.spec.io or op.spec.split is not None:
        return "it works on the host"
    if keeps_last_result(op):
        return "it is computed once"
    made = {kind for port in op.outputs.values() for kind in port_kinds(port)}
    if not made <= MADE_IN_GRAPHS:
        return "it makes a model"
    literals = [value_digest(source.value) for source in op.sources() if isinstance(source, Literal)]
    return UNIDENTIFIED if any(digest.startswith(FRESH) for digest in (spec_digest(op.spec, ""), *literals)) else ""


def join_block(block: BlockPlan, steps: list[Step]) -> BlockPlan:
    """The block with other steps in place of its own, which read and write the same slots.

    The steps are copied, since a plan keeps its own for the next run.
    """
    steps = [replace(step) for step in steps]
    free_after_last_use(steps, {*block.results.values(), *(slot for slot, _ in block.constants)})
    return BlockPlan(block.size, block.constants, block.inputs, steps, block.results)


def calls_model(op: Op) -> bool:
    """Whether a call takes a model."""
    return any(model_sources(op))


def model_sources(op: Op) -> Iterator[Source]:
    """The sources that a call takes models from."""
    if op.has_blocks:
        return
    for name, sources in op.inputs.items():
        port = op.spec.ports.get(name)
        if port is not None and "model" in port_kinds(port.type):
            yield from list_sources(sources)


def list_single_steps(block: BlockPlan, refused: Collection[str] = ()) -> list[Step]:
    """The steps of a block of the top level that can run as graphs. refused: keys of operations that must not."""
    return [step for step in block.steps if not any(explain_single(op, refused) for op in step.ops)]


def explain_single(op: Op, refused: Collection[str] = ()) -> str:
    """The reason why an operation of the top level runs in torch; empty if it can run as a graph."""
    if reason := explain_outside(op, dict.fromkeys(refused, "refused")):
        return reason
    if op.has_blocks or not calls_model(op):
        return "it calls no model"
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
        port = call.spec.ports.get(name)
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
