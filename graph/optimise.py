"""The graph passes in the order in which they are listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from guidegraph.graph.digest import Digests
from guidegraph.graph.ir import Loop, Op, Source
from guidegraph.graph.passes import aliased, hoist, merge, prune, rewrite, skip
from guidegraph.graph.types import PortType

Wanted: TypeAlias = tuple[Source, PortType]
"""What an output is: where its value comes from, and its type."""


@dataclass
class Optimised:
    """A graph after the passes. effects: what each pass did, for people, by its name."""

    ops: dict[str, Op]
    outputs: dict[str, Wanted]
    effects: dict[str, str] = field(default_factory=dict)


def optimise(
    ops: Mapping[str, Op], outputs: Mapping[str, Wanted], digests: Digests, passes: frozenset[str], *, only: bool
) -> Optimised:
    """Apply the graph passes. only: the outputs are all that is wanted, and nodes with effects are not."""
    found = Optimised(dict(ops), dict(outputs))
    aliases: dict[Source, Source] = {}

    def apply(name: str, after: Mapping[str, Op]) -> None:
        found.effects[name] = f"{_size(found.ops)} -> {_size(after)} operations"
        found.ops = dict(after)

    if "skip" in passes:
        after, aliases = skip(found.ops, {})
        apply("skip", _follow(after, aliases))
    if "hoist" in passes:
        apply("hoist", hoist(found.ops))
    if "merge" in passes:
        after, twins = merge(found.ops, digests)
        aliases = {**aliases, **twins}
        apply("merge", _follow({key: _merge_body(op, digests, aliases) for key, op in after.items()}, aliases))
    change = aliased(aliases)
    found.outputs = {name: (change(source), kind) for name, (source, kind) in outputs.items()}
    if "prune" in passes or only:
        roots = [source for source, _ in found.outputs.values()]
        apply("prune", drop_unneeded(found.ops, roots, effects=not only))
    return found


def drop_unneeded(ops: Mapping[str, Op], roots: Sequence[Source], *, effects: bool) -> dict[str, Op]:
    """Drop what no root needs, in the bodies of loops too."""
    after = {key: _prune_body(op) for key, op in prune(ops, roots, effects=effects).items()}
    return prune(after, roots, effects=effects)


def _size(ops: Mapping[str, Op]) -> int:
    return sum(1 + (_size(op.body) if isinstance(op, Loop) else 0) for op in ops.values())


def _follow(ops: Mapping[str, Op], aliases: Mapping[Source, Source]) -> dict[str, Op]:
    if not aliases:
        return dict(ops)
    change = aliased(aliases)
    return {key: rewrite(op, change) for key, op in ops.items()}


def _merge_body(op: Op, digests: Digests, aliases: dict[Source, Source]) -> Op:
    if not isinstance(op, Loop):
        return op
    body, twins = merge(op.body, digests)
    aliases.update(twins)
    body = {key: _merge_body(inner, digests, aliases) for key, inner in body.items()}
    return replace(op, body=body)


def _prune_body(op: Op) -> Op:
    if not isinstance(op, Loop):
        return op
    body = {key: _prune_body(inner) for key, inner in prune(op.body, op.roots()).items()}
    return replace(op, body=prune(body, op.roots()))
