"""The batch pass: sibling calls of a batchable node on the same model become one call.

Siblings are calls of one node that agree in everything that is not batchable and do not depend on each other. At run
time their arguments are concatenated along the leading axis. The first batchable port sets the batch size; leading axes
of length 1 in the other ports are expanded to it. If structure, dtypes or the other axes do not match, the calls are
made one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from guidegraph.graph.ir import Call, Literal, Op, Output, Source, Sources, list_sources
from guidegraph.graph.planning.digest import FRESH, value_digest


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
        if nx.is_directed_acyclic_graph(_contract(ops, trial)):
            leader = trial
            batches[group[0].key] = BatchCall(group)
    positions = {key: i for i, key in enumerate(ops)}
    order = nx.lexicographical_topological_sort(_contract(ops, leader), key=positions.__getitem__)
    return [batches.get(key) or ops[key] for key in order]


def _contract(ops: Mapping[str, Op], leader: Mapping[str, str]) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(leader[key] for key in ops)
    for key, op in ops.items():
        for source in op.sources():
            if isinstance(source, Output) and source.op in ops:
                graph.add_edge(leader[source.op], leader[key])
    return graph


Arguments = tuple[Sequence[Any], Mapping[str, Any]]


def call_as_batch(
    function: Callable[..., Any], calls: Sequence[Arguments], batchable: Sequence[int | str]
) -> list[Any] | None:
    """Run several calls as one and split the result; ``None`` if their arguments cannot be joined.

    calls: the positional and keyword arguments of each. batchable: the arguments to join, by index if positional, else
    by name.
    """
    joined_args = list(calls[0][0])
    joined_named = dict(calls[0][1])
    sizes = [_batch_size([_pick(call, b) for b in batchable]) for call in calls]
    if None in sizes:
        return None
    lengths = [s for s in sizes if s is not None]
    for b in batchable:
        value = _join([_pick(call, b) for call in calls], lengths)
        if value is _UNFIT:
            return None
        if isinstance(b, int):
            joined_args[b] = value
        else:
            joined_named[str(b)] = value
    return _split(function(*joined_args, **joined_named), lengths)


_UNFIT = object()


def _pick(call: Arguments, which: Any) -> Any:
    return call[0][which] if isinstance(which, int) else call[1][which]


def _batch_size(values: Sequence[Any]) -> int | None:
    """The leading size of the first port's tensors; ``None`` if another tensor's is neither that nor 1."""
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    sizes = [[v.shape[0] if v.ndim else 0 for v in tree_leaves(value) if isinstance(v, Tensor)] for value in values]
    size: int = next((s for port in sizes for s in port), 0)
    return size if size and all(s in (1, size) for port in sizes for s in port) else None


def _join(values: Sequence[Any], lengths: Sequence[int]) -> Any:
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten

    flat = [tree_flatten(v) for v in values]
    spec = flat[0][1]
    if any(s != spec for _, s in flat[1:]):
        return _UNFIT
    leaves = []
    for column in zip(*(leaves for leaves, _ in flat), strict=True):
        first = column[0]
        if not isinstance(first, torch.Tensor):
            if any(type(v) is not type(first) or v != first for v in column[1:]):
                return _UNFIT
            leaves.append(first)
            continue
        if any(
            not isinstance(v, torch.Tensor)
            or v.dtype != first.dtype
            or v.device != first.device
            or v.shape[1:] != first.shape[1:]
            for v in column
        ):
            return _UNFIT
        leaves.append(torch.cat([v.expand(n, *v.shape[1:]) for v, n in zip(column, lengths, strict=True)]))
    return tree_unflatten(leaves, spec)


def _split(value: Any, lengths: Sequence[int]) -> list[Any]:
    from torch import Tensor
    from torch.utils._pytree import tree_flatten, tree_unflatten

    leaves, spec = tree_flatten(value)
    total = sum(lengths)
    for leaf in leaves:
        if isinstance(leaf, Tensor) and (leaf.ndim == 0 or leaf.shape[0] != total):
            raise ValueError(
                f"a batchable node must give outputs along the batch axis: expected leading size {total}, "
                f"found shape {tuple(leaf.shape)}"
            )
    results = []
    start = 0
    for n in lengths:
        rows = slice(start, start + n)
        results.append(tree_unflatten([v[rows] if isinstance(v, Tensor) else v for v in leaves], spec))
        start += n
    return results
