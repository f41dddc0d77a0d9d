"""Whether a run may go on from a loop's state: what belongs to the state must be as it was."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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

    origin: of the state. changed: the parameters whose values differ from those of the run that was stopped.
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
    problems = [_make_problem(needed[key], argument, words, state) for key, argument, words in differences]
    if not problems:
        problems = [*_find_idle(graph, needed, remaining, changed, state)]
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


def _make_problem(op: Op, argument: str, words: str, state: LoopState) -> Problem:
    mark = op.mark_of(argument)
    message = (
        f"nodes.{op.key}: {words}; the state after {state.done} of {state.total} iterations belongs to what it was"
    )
    return Problem(mark, REFUSED, message, f"nodes.{op.key}")


def _find_idle(
    graph: Graph, needed: Mapping[str, Op], remaining: Mapping[str, Op], changed: Collection[str], state: LoopState
) -> Iterator[Problem]:
    """Parameters that were changed, and that only finished work has read."""
    before, after = _list_params(graph, needed), _list_params(graph, remaining)
    for name in changed:
        if name in before and name not in after:
            message = f"'{name}' was changed, but nothing after {state.done} iterations of nodes.{state.loop} reads it"
            yield Problem(graph.params[name].mark, REFUSED, message, f"params.{name}")


def _list_params(graph: Graph, ops: Mapping[str, Op]) -> set[str]:
    """The parameters that operations or outputs read."""
    sources = [source for op in walk(ops) for source in op.sources()]
    sources += [output.source for output in graph.outputs.values()]
    return {source.name for source in sources if isinstance(source, Param)}
