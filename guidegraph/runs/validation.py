"""The checks of a workflow that need no run: everything that ``guidegraph validate`` reports."""

from __future__ import annotations

from dataclasses import dataclass

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.planning.admission import MACHINE_CODES, admission_problems
from guidegraph.graph.registry import Registry
from guidegraph.graph.trust.effects import Effect, list_effects
from guidegraph.graph.trust.policy import Policy, find_effect_problems
from guidegraph.graph.types import takes_literal
from guidegraph.runs.outputs import output_problems


@dataclass(frozen=True)
class Validation:
    """A valid workflow. effects: the files of a run with the defaults. lacking: why this machine cannot run it."""

    effects: list[Effect]
    lacking: list[Problem]


def validate_graph(graph: Graph, registry: Registry, policy: Policy) -> Validation:
    """Check a graph with the defaults of its parameters. Raises ``WorkflowError`` for what is wrong on any machine."""
    defaults = {name: parameter.default for name, parameter in graph.params.items() if not parameter.required}
    effects = list_effects(graph.ops, defaults)
    if forbidden := _unwritable_problems(graph, registry) + find_effect_problems(effects, policy):
        raise WorkflowError(forbidden)
    problems = admission_problems(graph, defaults)
    if refused := [problem for problem in problems if problem.code not in MACHINE_CODES]:
        raise WorkflowError(refused)
    return Validation(effects, problems)


def _unwritable_problems(graph: Graph, registry: Registry) -> list[Problem]:
    """The outputs that ``run`` could not write. A workflow whose required parameters cannot be set is not checked."""
    if any(p.required and not takes_literal(p.port.type) for p in graph.params.values()):
        return []
    return output_problems(graph, registry, None)
