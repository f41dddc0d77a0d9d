"""The batch pass: sibling calls of a batchable node on the same model become one call.

Siblings are calls of one node that agree in everything that is not batchable and do not depend on each other. At run
time their arguments are concatenated along the leading axis (``call_as_batch``). If structure, dtypes or the other axes
do not match, the calls are made one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guidegraph.graph.ir import Call, Op
from guidegraph.graph.planning.digest import FRESH, value_digest
from guidegraph.graph.planning.topological_order import order_by_edges
from guidegraph.graph.sources import Literal, Output, Source, Sources, list_sources


@dataclass(frozen=True)
class BatchCall:
    """Several calls that can run as one."""

    calls: tuple[Call, ...]

    @property
    def key(self) -> str:
        return self.calls[0].key


def group_siblings(ops: Mapping[str, Op]) -> list[Op | BatchCall]:
    """The operations in topological order, with siblings as one ``BatchCall``."""
    families: dict[Any, list[Call]] = {}
    for op in ops.values():
        if isinstance(op, Call) and op.spec.batchable and op.spec.pure:
            families.setdefault(_family_key(op), []).append(op)
    groups: list[tuple[Call, ...]] = []
    for family in families.values():
        if len(family) > 1:
            groups += [tuple(g) for g in _group_independent(ops, {c.key for c in family}).values() if len(g) > 1]
    return _sort_batches(ops, groups) if groups else list(ops.values())


def _family_key(call: Call) -> Any:
    fixed = [(n, _sources_key(s)) for n, s in call.inputs.items() if n not in call.spec.batchable]
    ports = tuple(n for n in call.inputs if n in call.spec.batchable)
    return call.spec.id, ports, tuple(fixed), tuple(sorted((n, _sources_key(s)) for n, s in call.settings.items()))


def _sources_key(sources: Sources) -> str:
    return "|".join(map(_source_key, list_sources(sources)))


def _source_key(source: Source) -> str:
    if not isinstance(source, Literal):
        return repr(source)
    digest = value_digest(source.value)
    # Objects, such as models passed from Python, are compared by identity.
    return f"object {id(source.value)}" if digest.startswith(FRESH) else digest


def _group_independent(ops: Mapping[str, Op], family: set[str]) -> dict[int, list[Call]]:
    """Members by rank, the number of members on the longest path to each. Those of one rank are independent."""
    ranks: dict[str, int] = {}
    members: dict[int, list[Call]] = {}
    for key, op in ops.items():
        rank = max((ranks[s.op] for s in op.sources() if isinstance(s, Output) and s.op in ranks), default=0)
        ranks[key] = rank + (key in family)
        if key in family and isinstance(op, Call):
            members.setdefault(ranks[key], []).append(op)
    return members


def _sort_batches(ops: Mapping[str, Op], groups: Sequence[tuple[Call, ...]]) -> list[Op | BatchCall]:
    """Topological order with each group as one vertex; a group that would close a cycle is not joined."""
    leader = {key: key for key in ops}
    batches: dict[str, BatchCall] = {}
    for group in groups:
        trial = {**leader, **{call.key: group[0].key for call in group}}
        edges = _contract(ops, trial)
        if len(order_by_edges(edges)) == len(edges):
            leader = trial
            batches[group[0].key] = BatchCall(group)
    return [batches.get(key) or ops[key] for key in order_by_edges(_contract(ops, leader))]


def _contract(ops: Mapping[str, Op], leader: Mapping[str, str]) -> dict[str, set[str]]:
    """The operations that read each operation's outputs, with the members of a group as their leader, the first."""
    successors: dict[str, set[str]] = {leader[key]: set() for key in ops}
    for key, op in ops.items():
        for source in op.sources():
            if isinstance(source, Output) and source.op in ops:
                successors[leader[source.op]].add(leader[key])
    return successors
