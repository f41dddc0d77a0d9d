"""From a resolved graph to a plan: parameters bound, choices made, passes applied and digests computed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from guidegraph.graph.ir import Graph, GraphTraits, Op
from guidegraph.graph.memory.pause_collector import pause_collector
from guidegraph.graph.planning.admission import check_shapes, check_wiring, order_for_checks
from guidegraph.graph.planning.digest import Digests
from guidegraph.graph.planning.passes import (
    BlockAfterChoices,
    bind_params,
    follow_aliases,
    hoist,
    make_choices,
    make_parameter_choices,
    merge,
    prune,
    rewrite_sources,
    skip,
)
from guidegraph.graph.planning.steps import BlockPlan, flatten_block
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Literal, Param, Source
from guidegraph.graph.trust.policy import check_effects, list_parameter_paths
from guidegraph.graph.types import PortType
from guidegraph.graph.values.ownership import copy_parameter

OutputSource: TypeAlias = tuple[Source, PortType]
"""An output: the source of its value, and its type."""


@dataclass
class OptimisedGraph:
    """A graph after the passes. effects: a readable summary of each pass by its name."""

    ops: dict[str, Op]
    outputs: dict[str, OutputSource]
    effects: dict[str, str] = field(default_factory=dict)


def optimise(
    ops: Mapping[str, Op],
    outputs: Mapping[str, OutputSource],
    digests: Digests,
    passes: frozenset[str],
    traits: GraphTraits,
    *,
    only: bool,
) -> OptimisedGraph:
    """Apply the graph passes. traits: of the whole graph. only: keep the outputs alone, and drop nodes with effects."""
    optimised = OptimisedGraph(dict(ops), dict(outputs))
    aliases: dict[Source, Source] = {}
    measure: Callable[[Mapping[str, Op]], int] = _size if traits.loops else len
    size = measure(ops)

    def apply(name: str, new_ops: dict[str, Op]) -> None:
        nonlocal size
        old_size, size = size, measure(new_ops)
        optimised.effects[name] = f"{old_size} -> {size} operations"
        optimised.ops = new_ops

    if "skip" in passes:
        new_ops = optimised.ops
        if traits.skips:
            new_ops, aliases = skip(new_ops, {})
        apply("skip", _rewrite_ops(new_ops, aliases))
    if "hoist" in passes:
        apply("hoist", hoist(optimised.ops) if traits.loops else optimised.ops)
    if "merge" in passes:
        new_ops, merged = merge(optimised.ops, digests)
        aliases = {**aliases, **merged}
        if traits.loops:
            new_ops = {key: _merge_body(op, digests, aliases) for key, op in new_ops.items()}
        apply("merge", _rewrite_ops(new_ops, aliases))
    change = follow_aliases(aliases)
    optimised.outputs = {name: (change(source), kind) for name, (source, kind) in outputs.items()}
    if "prune" in passes or only:
        roots = [source for source, _ in optimised.outputs.values()]
        apply("prune", drop_unneeded(optimised.ops, roots, effects=not only and traits.effects))
    return optimised


def drop_unneeded(ops: Mapping[str, Op], roots: Sequence[Source], *, effects: bool) -> dict[str, Op]:
    """Drop the operations that no root needs, in loop bodies too."""
    needed = prune(ops, roots, effects=effects)
    if not any(op.has_blocks for op in needed.values()):
        return needed
    return prune({key: _prune_body(op) for key, op in needed.items()}, roots, effects=effects)


def _size(ops: Mapping[str, Op]) -> int:
    return len(ops) + sum([_size(op.blocks()[0].ops) for op in ops.values() if op.has_blocks])


def _rewrite_ops(ops: dict[str, Op], aliases: Mapping[Source, Source]) -> dict[str, Op]:
    if not aliases:
        return ops
    change = follow_aliases(aliases)
    return {key: rewrite_sources(op, change) for key, op in ops.items()}


def _merge_body(op: Op, digests: Digests, aliases: dict[Source, Source]) -> Op:
    def merge_inner(body: Mapping[str, Op]) -> dict[str, Op]:
        merged, twins = merge(body, digests)
        aliases.update(twins)
        return {key: _merge_body(inner, digests, aliases) for key, inner in merged.items()}

    return op.map_body(merge_inner)


def _prune_body(op: Op) -> Op:
    def prune_inner(body: Mapping[str, Op]) -> dict[str, Op]:
        (block,) = op.blocks()[:1]
        return prune({key: _prune_body(inner) for key, inner in prune(body, block.roots).items()}, block.roots)

    return op.map_body(prune_inner)


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
