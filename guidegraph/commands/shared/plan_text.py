"""A compiled plan as JSON and as text: the passes, and the steps in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from guidegraph.graph.acceleration.part_values import Unsuitable, digest_model
from guidegraph.graph.acceleration.parts import (
    StepGroup,
    explain_outside,
    group_steps,
    list_single_steps,
    model_sources,
)
from guidegraph.graph.acceleration.store import store_folder
from guidegraph.graph.hardware.policy import ComputePolicy
from guidegraph.graph.ir import Call, Loop, Op, find_loops, list_calls, walk
from guidegraph.graph.planning.passes import PASSES, find_branch_conditions
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BlockPlan, BodyPlan, Slot, flatten_block
from guidegraph.graph.run_config import ACCELERATORS
from guidegraph.graph.sources import Carry, Index, Item, Literal, Many, Output, Param, Source, Sources
from guidegraph.graph.training.fit import Fit
from guidegraph.graph.trust.effects import Effect
from guidegraph.graph.trust.policy import drop_dots
from guidegraph.graph.types import describe_value
from guidegraph.runs.recipe import portable_path

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
        loop = step.body.loop
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


WIDTH = 60

Row = dict[str, Any]
Items = Mapping[str, str]
"""The name of each loop's item, by the loop's key."""


def plan_json(plan: Plan, effects: Iterable[Effect] = ()) -> Row:
    """The whole plan. The step of a loop holds the steps of its body; a batch holds the calls merged into it.

    effects: the files that a run reads, writes and loads code from.
    """
    passes = [
        {"name": name, "does": does, "applied": name in plan.config.passes, "effect": plan.effects.get(name, "")}
        for name, does in PASSES.items()
    ]
    items = {key: loop.item for key, loop in find_loops(walk(plan.ops)).items()}
    roots = [source for source, _ in plan.outputs.values()]
    block = flatten_block(plan.ops, roots, plan.config.passes)
    outputs = {n: {"from": _link(source, items), "type": str(kind)} for n, (source, kind) in plan.outputs.items()}
    steps = _conditional(_rows(block, items), plan.ops, roots)
    computes: Row = {"device": plan.config.device, "dtype": plan.config.dtype}
    if note := ComputePolicy(plan.config.device).describe_emulation(plan.config.dtype):
        computes["warning"] = note  # the cost of a dtype that the device only emulates
    files = [
        {
            "does": effect.kind,
            "path": portable_path(path) if (path := drop_dots(effect.path)) else None,
            "node": effect.node,
            "setting": effect.setting,
        }
        for effect in effects
    ]
    return {
        "workflow": str(plan.graph.file),
        "computes": computes,
        "passes": passes,
        "choices": {f"nodes.{key}": branch for key, branch in plan.taken.items()},
        "steps": steps,
        "outputs": outputs,
        "files": files,
    }


def _rows(block: BlockPlan, items: Items) -> list[Row]:
    rows: list[Row] = []
    for step in block.steps:
        if step.body is not None:
            rows.append(_loop(step.body, step.closure, items))
            continue
        calls = [_call(call, items) for call in list_calls(step.ops)]
        if step.members:
            rows.append({"path": " + ".join(c["path"] for c in calls), "node": calls[0]["node"], "batched": calls})
        else:
            rows += calls
    return rows


def _conditional(rows: list[Row], ops: Mapping[str, Op], roots: Iterable[Source]) -> list[Row]:
    """Add to each row that only some branches of choices need the branches for which it is computed."""
    for key, branches in find_branch_conditions(ops, roots).items():
        for row in rows:
            if branches and row["path"] == f"nodes.{key}":
                row["if"] = [f"nodes.{choice} takes '{name}'" for choice, name in sorted(branches)]
    return rows


def _call(call: Call, items: Items) -> Row:
    row: Row = {"path": f"nodes.{call.key}", "node": call.spec.id}
    links = {name: _sources(source, items) for name, source in call.inputs.items()}
    settings = {name: _sources(source, items) for name, source in call.settings.items()}
    return row | {key: values for key, values in (("in", links), ("settings", settings)) if values}


def _loop(body: BodyPlan, closure: Iterable[tuple[Source, Slot]], items: Items) -> Row:
    loop = body.loop
    row: Row = {"path": f"nodes.{loop.key}", "node": "loop", "over": _link(loop.over, items), "as": loop.item}
    row["carry"] = {name: _link(source, items) for name, source in loop.carry.items()}
    row["takes"] = [_link(source, items) for source, _ in closure if not isinstance(source, Literal)]
    if body.prologue is not None:
        row["before"] = _rows(body.prologue, items)
    row["body"] = _conditional(_rows(body.flatten(), items), body.main_ops, body.roots)
    if body.calls_with_needs:
        row["decides"] = [f"nodes.{call.key}" for call in body.calls_with_needs]
    row["next"] = {name: _link(source, items) for name, source in loop.next.items()}
    if loop.collect:
        row["collect"] = {name: _link(source, items) for name, source in loop.collect.items()}
    if isinstance(loop, Fit):
        row["trains"] = {m.model: _link(m.loss, items) for m in loop.training.models}
        if preview := loop.preview:
            steps = _rows(flatten_block(*preview.block, body.passes), items)
            row["preview"] = {"every": _link(preview.every, items), "steps": steps}
    return row


def _sources(sources: Sources, items: Items) -> str:
    if isinstance(sources, Many):
        return f"[{', '.join(_link(source, items) for source in sources.sources)}]"
    return _link(sources, items)


def _link(source: Source, items: Items) -> str:
    match source:
        case Output(op, "out"):
            return op
        case Output(op, name):
            return f"{op}.{name}"
        case Param(name):
            return f"params.{name}"
        case Carry(_, name):
            return f"carry.{name}"
        case Item(loop, field):
            return f"loop.{items[loop]}.{field}" if field else f"loop.{items[loop]}"
        case Index():
            return "loop.index"
        case Literal(Path() as value):
            return portable_path(value)
        case Literal(value):
            return (
                repr(value) if isinstance(value, (bool, int, float, str, list, type(None))) else describe_value(value)
            )


def plan_text(plan: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a plan from ``plan_json``."""
    yield plan["workflow"]
    yield ""
    yield "computes on {device} in {dtype}".format_map(plan["computes"])
    if "warning" in plan["computes"]:
        yield f"  warning: {plan['computes']['warning']}"
    yield ""
    yield "passes:"
    for row in plan["passes"]:
        state = row["effect"] or "applied" if row["applied"] else "off"
        yield f"  {row['name']:<11} {state:<26} {row['does']}"
    if plan["choices"]:
        yield ""
        yield "choices:"
        yield from (f"  {path} takes '{branch}'" for path, branch in plan["choices"].items())
    yield ""
    yield "steps:"
    yield from _steps(plan["steps"], "  ")
    yield ""
    yield "outputs:"
    for name, output in plan["outputs"].items():
        yield f"  {name} = {output['from']}: {output['type']}"
    if plan["files"]:
        yield ""
        yield "files:"
    for row in plan["files"]:
        path = row["path"] or "a path that is computed in the run"
        yield f"  {row['does']:<5} {path} ({row['node']}, {row['setting']})"


def _steps(rows: list[Row], indent: str) -> Iterator[str]:
    for i, row in enumerate(rows, 1):
        if row["node"] == "loop":
            yield from _loop_lines(row, f"{indent}{i}. ", f"{indent}   ")
        elif "batched" in row:
            yield f"{indent}{i}. one batch of {len(row['batched'])} calls:"
            yield from (f"{indent}   - {_line(call)}" for call in row["batched"])
        else:
            yield f"{indent}{i}. {_line(row)}"


def _line(row: Row) -> str:
    links: dict[str, str] = {**row.get("in", {}), **row.get("settings", {})}
    short = {name: link if len(link) <= WIDTH else link[: WIDTH - 1] + "…" for name, link in links.items()}
    arguments = [f"{name}={link}" for name, link in short.items()]
    condition = f", where {' or '.join(row['if'])}" if "if" in row else ""
    return f"{row['path']} = {row['node']}({', '.join(arguments)}){condition}"


def _loop_lines(row: Row, first: str, indent: str) -> Iterator[str]:
    condition = f", where {' or '.join(row['if'])}" if "if" in row else ""
    yield f"{first}{row['path']}: for {row['as']} in {row['over']}{condition}"
    if row["carry"]:
        yield f"{indent}carries {_pairs(row['carry'])}"
    if row["takes"]:
        yield f"{indent}takes {', '.join(row['takes'])}"
    if "before" in row:
        yield f"{indent}once for each entry, before the loop:"
        yield from _steps(row["before"], f"{indent}  ")
    yield f"{indent}in each iteration:"
    yield from _steps(row["body"], f"{indent}  ")
    if "decides" in row:
        yield f"{indent}may leave out ports of {', '.join(row['decides'])}, as their settings allow"
    for key in ("next", "collect", "trains"):
        if row.get(key):
            yield f"{indent}{key} {_pairs(row[key])}"
    if "preview" in row:
        yield f"{indent}as a preview, every {row['preview']['every']} iterations:"
        yield from _steps(row["preview"]["steps"], f"{indent}  ")


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
