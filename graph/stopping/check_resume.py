"""Checks that a run may resume from a loop's state: everything that belongs to the state must be unchanged."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError, suggest
from guidegraph.graph.ir import Graph, Loop, Op, walk
from guidegraph.graph.planning.plan import find_needed_ops
from guidegraph.graph.sources import Param
from guidegraph.graph.stopping.choose_loop import find_run_ops, list_stoppable_loops, resume_loop
from guidegraph.graph.stopping.loop_origin import Json, OriginComparison, describe_constant, describe_origin, is_same
from guidegraph.graph.stopping.loop_state import REFUSED, LoopState


def read_origin(graph: Graph, values: Mapping[str, Any], only: Collection[str] | None, loop: str) -> Json:
    """The origin of the state of a loop in this run."""
    needed = find_run_ops(graph, values, only)
    op = needed[loop]
    assert isinstance(op, Loop)
    return describe_origin(needed, values, op)


def check_resume(
    graph: Graph,
    values: Mapping[str, Any],
    only: Collection[str] | None,
    state: LoopState,
    origin: Json,
    changed: Collection[str],
) -> None:
    """Raise ``WorkflowError`` that names each change which the state cannot take.

    origin: of the state. changed: the parameters that have other values than in the run that was stopped. A
    change that only finished work would read is a problem too, since it would have no effect.
    """
    needed = find_run_ops(graph, values, only)
    loop = needed.get(state.loop)
    if not isinstance(loop, Loop) or not loop.can_stop:
        remedy = suggest(state.loop, list_stoppable_loops(needed), "loops")
        message = f"the state is of the loop '{state.loop}', which this run does not have; {remedy}"
        raise WorkflowError([Problem(Mark(str(graph.file), 1, 1), REFUSED, message)])
    now = describe_origin(needed, values, loop)
    remaining: dict[str, Op] = {}
    if {*now["carry"]} == {*state.read_carry()}:
        remaining = find_needed_ops(resume_loop(graph, state), only or [*graph.outputs], values)
    differences = OriginComparison(state.loop, origin, now, frozenset(remaining)).compare()
    belongs = f"the state after {state.done} of {state.total} iterations belongs to what it was"
    problems = [
        Problem(needed[key].mark_of(argument), REFUSED, f"nodes.{key}: {words}; {belongs}", f"nodes.{key}")
        for key, argument, words in differences
    ]
    if not problems:
        unread = f"nothing after {state.done} iterations of nodes.{state.loop} reads it"
        idle = _list_params(graph, needed) - _list_params(graph, remaining)
        problems = [
            Problem(graph.params[name].mark, REFUSED, f"'{name}' was changed, but {unread}", f"params.{name}")
            for name in changed
            if name in idle
        ]
    if problems:
        raise WorkflowError(problems)


def find_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of the values that two sets do not share or in which they differ."""
    described = [{name: describe_constant(value) for name, value in values.items()} for values in (before, now)]
    return sorted(
        name
        for name in {*before, *now}
        if name not in before or name not in now or not is_same(described[0][name], described[1][name])
    )


def _list_params(graph: Graph, ops: Mapping[str, Op]) -> set[str]:
    """The parameters that operations or outputs read."""
    sources = [source for op in walk(ops) for source in op.sources()]
    sources += [output.source for output in graph.outputs.values()]
    return {source.name for source in sources if isinstance(source, Param)}
