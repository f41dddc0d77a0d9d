"""The loop that a run stops in or resumes, and the graph with that loop changed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError, suggest
from guidegraph.graph.ir import Graph, Op, find_loops
from guidegraph.graph.planning.passes import make_effect_test
from guidegraph.graph.planning.plan import find_needed_ops
from guidegraph.graph.planning.topological_order import find_dependencies
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Literal, find_value
from guidegraph.graph.stopping.loop_state import LoopState

STOP = "--stop-at"
_STOP = re.compile(r"(?:(.+):)?(\d{1,9})")


def find_stop(graph: Graph, values: Mapping[str, Any], config: RunConfig) -> tuple[str, int]:
    """The key of the loop that ``config.stop_at`` names, and the number of iterations. Raises ``WorkflowError``."""
    match = _STOP.fullmatch(config.stop_at)
    if match is None or int(match[2]) < 1:
        message = f"expected a number of iterations, or LOOP:ITERATIONS; found '{config.stop_at[:60]}'"
        raise WorkflowError([_problem("bad-stop", message)])
    loops = list_stoppable_loops(find_run_ops(graph, values, config.only))
    if not loops:
        raise WorkflowError([_problem("no-loop", "this run has no loop that it could stop in")])
    name = (match[1] or "").removeprefix("nodes.")
    if name and name not in loops:
        raise WorkflowError([_problem("no-loop", f"there is no loop '{name[:60]}'; {suggest(name, loops, 'loops')}")])
    if not name and len(loops) > 1:
        choices = " or ".join(f"{key}:{match[2]}" for key in loops)
        raise WorkflowError([_problem("ambiguous-stop", f"this run has {len(loops)} loops: write {choices}")])
    return name or loops[0], int(match[2])


def check_stop(graph: Graph, values: Mapping[str, Any], config: RunConfig) -> None:
    """Check ``config.stop_at`` of a run from the beginning. Raises ``WorkflowError``."""
    key, iterations = find_stop(graph, values, config)
    over = find_value(graph.loops[key].over, values)
    total = len(over) if isinstance(over, (list, tuple)) else over  # of anything else, only the run knows it
    if isinstance(total, int) and iterations > total:
        message = f"nodes.{key} has {max(total, 0)} iterations with these parameters; found {iterations}"
        raise WorkflowError([_problem("bad-stop", message)])


def list_stoppable_loops(ops: Mapping[str, Op]) -> list[str]:
    """The keys of the loops that can be stopped. ops: the operations of a workflow's top level.

    Training loops have checkpoints of their own, and loops inside of loops cannot be stopped.
    """
    return [key for key, loop in find_loops(ops.values()).items() if loop.can_stop]


def find_run_ops(graph: Graph, values: Mapping[str, Any], only: Collection[str] | None) -> dict[str, Op]:
    """The operations that a run of some outputs, by default of all and of the nodes with effects, computes."""
    ops = find_needed_ops(graph, only, values)
    if only is not None:
        return ops
    reached = {*find_needed_ops(graph, [*graph.outputs], values)}
    reached |= {*find_dependencies(ops, [], keep=make_effect_test(ops))}
    return {key: op for key, op in ops.items() if key in reached}


def stop_loop(graph: Graph, key: str, iterations: int) -> Graph:
    """The graph whose run ends after a number of iterations of a loop."""
    return _replace_loop(graph, key, stop_at=iterations)


def resume_loop(graph: Graph, state: LoopState, *, checks_names: bool = False) -> Graph:
    """The graph whose run resumes from the state of a loop, instead of starting the loop.

    checks_names: the start of a carry with values by name, such as the memory of a denoiser's rules, is computed all
    the same, and the loop compares the names with the state. A start that needs an earlier loop or a node with effects
    is not compared.
    """
    carry = {name: Literal(value) for name, value in state.read_carry().items()}
    starts = {
        name: source
        for name, source in graph.loops[state.loop].carry.items()
        if checks_names
        and state.has_names(name)
        and all(op.is_pure and not op.has_blocks for op in find_dependencies(graph.ops, [source]).values())
    }
    return _replace_loop(graph, state.loop, carry=carry, resumed=state, starts=starts)


def _replace_loop(graph: Graph, key: str, **changes: Any) -> Graph:
    return replace(graph, ops={**graph.ops, key: replace(graph.loops[key], **changes)})


def _problem(code: str, message: str) -> Problem:
    return Problem(Mark(STOP, 1, 1), code, message)
