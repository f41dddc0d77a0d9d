"""The checks of ``validate``: everything about a workflow that can be known without a run."""

from __future__ import annotations

from typing import NamedTuple

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.node import Registry
from guidegraph.graph.planning.admission import MACHINE_CODES, list_admission_problems
from guidegraph.graph.trust.effects import Effect, list_effects
from guidegraph.graph.trust.limits import find_trip_problems
from guidegraph.graph.trust.policy import Policy, find_effect_problems
from guidegraph.graph.types import takes_literal
from guidegraph.runs.outputs import output_problems


class CheckedWorkflow(NamedTuple):
    """A valid workflow's files, and the problems that only this machine has with it."""

    effects: list[Effect]
    machine_problems: list[Problem]


def check_workflow(graph: Graph, registry: Registry, policy: Policy) -> CheckedWorkflow:
    """Check a workflow with the defaults of its parameters. Raises ``WorkflowError`` for what cannot go together."""
    defaults = {name: parameter.default for name, parameter in graph.params.items() if not parameter.required}
    effects = list_effects(graph.ops, defaults)
    # The outputs of a workflow whose required parameters cannot be set are not checked: no run would write them.
    can_run = all(takes_literal(p.port.type) for p in graph.params.values() if p.required)
    forbidden = output_problems(graph, registry, None) if can_run else []
    if forbidden := [*forbidden, *find_effect_problems(effects, policy), *find_trip_problems(graph.ops, defaults)]:
        raise WorkflowError(forbidden)
    problems = list_admission_problems(graph, defaults)
    if refused := [problem for problem in problems if problem.code not in MACHINE_CODES]:
        raise WorkflowError(refused)
    return CheckedWorkflow(effects, problems)
