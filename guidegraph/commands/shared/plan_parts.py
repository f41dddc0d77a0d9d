"""The parts of a plan that an accelerated run would run as graphs, as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from guidegraph.graph.acceleration.part_values import Unsuitable, digest_model
from guidegraph.graph.acceleration.parts import StepGroup, explain_outside, group_steps, model_sources
from guidegraph.graph.acceleration.single_steps import list_single_steps
from guidegraph.graph.acceleration.store import store_folder
from guidegraph.graph.ir import Loop, Op
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BlockPlan
from guidegraph.graph.run_config import ACCELERATORS
from guidegraph.graph.sources import Output
from guidegraph.graph.training.fit import Fit

Row = dict[str, Any]

NO_MODEL = "no model is called with it"


def parts_json(plan: Plan) -> Row:
    """The parts of each loop, the nodes of its body that run in torch, with the reasons, and parts outside of loops."""
    block = plan.flatten_rest(plan.ops)
    loops = list(_loop_rows(block, plan))
    outside: list[list[str]] = []
    if plan.config.accelerate == "onnx" and store_folder(plan.config) is not None:
        steps = [step for step in list_single_steps(block) if not _explain_models(StepGroup((step,), True), plan)]
        outside = [[f"nodes.{op.key}" for op in step.ops] for step in steps]
    return {"with": ACCELERATORS[plan.config.accelerate], "loops": loops, "outside": outside}


def _loop_rows(block: BlockPlan, plan: Plan) -> Iterator[Row]:
    for step in block.steps:
        if step.body is None:
            continue
        loop = step.op
        assert isinstance(loop, Loop)
        if isinstance(loop, Fit):
            yield {"loop": f"nodes.{loop.key}", "parts": [], "torch": [_torch_row(loop, "it trains")]}
            continue
        before = [] if step.body.prologue is None else [step.body.prologue]
        for body in (*before, step.body.flatten()):
            yield _loop_row(loop, body, plan)
            yield from _loop_rows(body, plan)


def _loop_row(loop: Loop, block: BlockPlan, plan: Plan) -> Row:
    parts: list[list[str]] = []
    torch: list[Row] = []
    for group in group_steps(block):
        if group.is_part and not (reason := _explain_models(group, plan)):
            parts.append([f"nodes.{op.key}" for op in group.ops])
        elif group.is_part:
            torch += [_torch_row(op, reason) for op in group.ops]
        else:
            torch += [_torch_row(op, explain_outside(op, {}) or NO_MODEL) for op in group.ops]
    return {"loop": f"nodes.{loop.key}", "parts": parts, "torch": torch}


def _explain_models(group: StepGroup, plan: Plan) -> str:
    """The reason why a part's models from outside of all loops keep it in torch; empty if they do not."""
    try:
        for source in chain.from_iterable(map(model_sources, group.ops)):
            if isinstance(source, Output) and source.op in plan.ops:
                digest_model(source, plan)
    except Unsuitable as reason:
        return str(reason)
    return ""


def _torch_row(op: Op, reason: str) -> Row:
    return {"path": f"nodes.{op.key}", "node": op.node_id, "reason": reason}


def parts_text(rows: Mapping[str, Any]) -> Iterator[str]:
    """The lines of ``parts_json``."""
    yield ""
    yield f"accelerated with {rows['with']}:"
    for row in rows["loops"]:
        for i, paths in enumerate(row["parts"], 1):
            yield f"  {row['loop']}, part {i}: {', '.join(paths)}"
        for op in row["torch"]:
            yield f"  {row['loop']}, in torch: {op['path']} ({op['node']}): {op['reason']}"
    for paths in rows["outside"]:
        yield f"  outside of loops: {', '.join(paths)}"
    yield f"  outside of loops, in torch: all {'others' if rows['outside'] else 'nodes'}"
