"""The graph passes, applied in the order in which they are listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from guidegraph.graph.ir import GraphTraits, Op
from guidegraph.graph.planning.digest import Digests
from guidegraph.graph.planning.passes import follow_aliases, hoist, merge, prune, rewrite_sources, skip
from guidegraph.graph.sources import Source
from guidegraph.graph.types import PortType

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
    if not _has_loops(needed):
        return needed
    return prune({key: _prune_body(op) for key, op in needed.items()}, roots, effects=effects)


def _has_loops(ops: Mapping[str, Op]) -> bool:
    return any(op.has_blocks for op in ops.values())


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
