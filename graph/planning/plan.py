"""From a resolved graph to a plan: parameters bound, choices made, passes applied and digests computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidegraph.graph.ir import Graph, Op
from guidegraph.graph.memory.pause_collector import pause_collector
from guidegraph.graph.planning.admission import check_shapes
from guidegraph.graph.planning.digest import Digests
from guidegraph.graph.planning.make_choices import BlockAfterChoices, make_choices, make_parameter_choices
from guidegraph.graph.planning.optimise import OutputSource, drop_unneeded, optimise
from guidegraph.graph.planning.passes import bind_params, prune
from guidegraph.graph.planning.steps import BlockPlan, flatten_block
from guidegraph.graph.planning.wiring_checks import check_wiring, order_for_checks
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Literal, Param, Source
from guidegraph.graph.trust.policy import check_effects, list_parameter_paths
from guidegraph.graph.values.ownership import copy_parameter


@dataclass
class Plan:
    """A bound, optimised graph, ready to run with the settings ``config``.

    bound: the operations before the passes, after the choices that could be made. taken: the branches of those, by key.
    output_sources: the outputs' sources in ``bound``. effects: a readable summary of each graph pass.
    given_paths: files and folders that the user named for an untrusted workflow.
    """

    graph: Graph
    config: RunConfig
    bound: Mapping[str, Op]
    ops: dict[str, Op]
    outputs: dict[str, OutputSource]
    digests: Digests
    effects: dict[str, str]
    output_sources: Mapping[str, OutputSource]
    taken: dict[str, str]
    given_paths: tuple[Path, ...]
    _block: BlockPlan | None = field(default=None, init=False, repr=False, compare=False)

    @pause_collector()
    def flatten(self, ops: Mapping[str, Op], roots: Sequence[Source]) -> BlockPlan:
        """The steps that these sources need; operations whose values a wiring check needs come first."""
        ordered = order_for_checks(ops) if self.graph.traits.checks else ops
        return flatten_block(ordered, roots, self.config.passes, pruned=True)

    def flatten_rest(self, ops: Mapping[str, Op]) -> BlockPlan:
        """The steps of those of its operations that are left to compute; those of all of them are kept."""
        roots = [source for source, _ in self.outputs.values()]
        if len(ops) != len(self.ops):
            return self.flatten(ops, roots)
        if self._block is None:
            self._block = self.flatten(ops, roots)
        return self._block

    def with_branches(self, branches: Mapping[str, str]) -> Plan:
        """The plan after these choices, as if the workflow had the branches in place of the choices."""
        return _make_plan(self.graph, self.config, self.bound, self.output_sources, branches, self.given_paths)


@pause_collector()
def compile_plan(graph: Graph, values: Mapping[str, Any], config: RunConfig | None = None) -> Plan:
    """Bind the parameters, make the choices that they decide, and apply the graph passes as they are listed.

    values: a checked value for each parameter (``bind``). Raises ``KeyError`` for an output that does not exist, and
    ``WorkflowError`` for a file that the policy does not allow or a call that is wired wrong for these values.
    """
    config = config or RunConfig()
    only = config.only
    needed = find_needed_ops(graph, only, values)
    if graph.traits.files:
        check_effects(needed, values, config.policy)
    check_shapes(graph, values, only)
    literals = {name: Literal(copy_parameter(value)) for name, value in values.items()}
    ops = dict(graph.ops)
    for op in graph.parameter_readers if literals else ():
        if op.key in ops:
            ops[op.key] = bind_params(op, literals)
    outputs: dict[str, OutputSource] = {}
    for name in list(graph.outputs) if only is None else list(only):
        output = graph.outputs[name]
        source = literals[output.source.name] if isinstance(output.source, Param) else output.source
        outputs[name] = (source, output.type)
    return _make_plan(graph, config, ops, outputs, {}, list_parameter_paths(needed, values, config.policy))


def _make_plan(
    graph: Graph,
    config: RunConfig,
    bound: Mapping[str, Op],
    output_sources: Mapping[str, OutputSource],
    branches: Mapping[str, str],
    given_paths: tuple[Path, ...],
) -> Plan:
    roots, only = [source for source, _ in output_sources.values()], config.only is not None
    if config.prunes and graph.traits.choices:
        # Prune before choices are made: afterwards it is unknown which nodes with effects belong to a branch.
        bound = drop_unneeded(bound, roots, effects=not only and graph.traits.effects)
    after_choices = make_choices(bound, roots, branches) if graph.traits.choices else BlockAfterChoices(dict(bound))
    outputs = {name: (after_choices.source(source), kind) for name, (source, kind) in output_sources.items()}
    digests = Digests(config.device_key)
    digests.add(after_choices.ops)
    optimised = optimise(after_choices.ops, outputs, digests, config.passes, graph.traits, only=only)
    if graph.traits.checks:
        check_wiring(optimised.ops.values(), {})
    return Plan(
        graph,
        config,
        after_choices.ops,
        optimised.ops,
        optimised.outputs,
        digests,
        optimised.effects,
        outputs,
        after_choices.taken,
        given_paths,
    )


def find_needed_ops(graph: Graph, only: Collection[str] | None, values: Mapping[str, Any]) -> dict[str, Op]:
    """The operations that a run of these outputs needs; by default all outputs, and nodes with effects too.

    values: of the parameters. Of choices made by parameters, only the branches that are taken count.
    """
    roots = [graph.outputs[name].source for name in (graph.outputs if only is None else only)]
    after_choices = BlockAfterChoices(dict(graph.ops))
    if graph.traits.choices:
        after_choices = make_parameter_choices(graph.ops, roots, values)
    if only is None:
        return after_choices.ops
    return prune(after_choices.ops, map(after_choices.source, roots), effects=False)
