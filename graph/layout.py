"""Layered layout of a directed acyclic graph of boxes with ports, from left to right (Sugiyama's method).

Layers by longest path, then an order in each layer by barycentres, then heights that pull wires straight. Wires
that span several layers pass through way points, shared by all wires of one port.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import networkx as nx

Key: TypeAlias = Hashable
SWEEPS = 12
GAP = 22.0
WAY_GAP = 12.0
MAX_WAY_POINTS = 20_000


@dataclass(frozen=True)
class Size:
    """A box's extent, and the height of its ports below its top."""

    width: float
    height: float
    ins: Mapping[str, float] = field(default_factory=dict)
    outs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Wire:
    """From an output port of one box to an input port of another."""

    source: Key
    out: str
    target: Key
    into: str


@dataclass(frozen=True)
class Placed:
    """Where everything went: the top left corner of every box, and the way points of every wire."""

    width: float
    height: float
    corners: dict[Key, tuple[float, float]]
    ways: dict[Wire, list[tuple[float, float]]]


@dataclass(frozen=True)
class _Edge:
    """Between neighbouring layers, in rows of boxes or way points."""

    source: Key
    at_source: float
    target: Key
    at_target: float
    weight: float


def place(
    sizes: Mapping[Key, Size], wires: Sequence[Wire], first: Collection[Key] = (), last: Collection[Key] = ()
) -> Placed:
    """Lay out boxes; those in ``first`` (``last``) share the leftmost (rightmost) layer."""
    if not sizes:
        return Placed(0, 0, {}, {})
    layer = _layers(sizes, wires, set(first), set(last))
    count = max(layer.values()) + 1
    rows: list[list[Key]] = [[] for _ in range(count)]
    for key in sizes:
        rows[layer[key]].append(key)
    all_sizes = dict(sizes)
    edges, chains = _way_points(all_sizes, wires, layer, rows)
    rows = _ordered(rows, edges, all_sizes)
    tops = _heights(rows, edges, all_sizes)
    lefts, width = _columns(rows, edges, layer, sizes)
    lowest = min(tops.values())
    corners = {k: (lefts[layer[k]][0], tops[k] - lowest) for k in sizes}
    # Boxes of one column are centred in it, except at the edges of the picture, where they sit on the border.
    for key, (x, y) in corners.items():
        slack = lefts[layer[key]][1] - sizes[key].width
        shift = 0 if key in first else slack if key in last else slack / 2
        corners[key] = (x + shift, y)
    ways = {w: [p for k in c for p in _across(lefts[k[2]], tops[k] - lowest)] for w, c in chains.items()}
    height = max(tops[k] - lowest + all_sizes[k].height for k in tops)
    return Placed(width, height, corners, ways)


def _across(column: tuple[float, float], y: float) -> list[tuple[float, float]]:
    return [(column[0], y), (column[0] + column[1], y)]


def _layers(sizes: Mapping[Key, Size], wires: Iterable[Wire], first: set[Key], last: set[Key]) -> dict[Key, int]:
    """Longest path from the left; then a box moves right where that shortens its wires."""
    graph: nx.DiGraph[Key] = nx.DiGraph()
    graph.add_nodes_from(sizes)
    graph.add_edges_from((w.source, w.target) for w in wires)
    layer: dict[Key, int] = {}
    order = list(nx.topological_sort(graph))
    start = 1 if first else 0
    for key in order:
        layer[key] = 0 if key in first else max((layer[p] + 1 for p in graph.pred[key]), default=start)
    for key in reversed(order):
        after = [layer[s] for s in graph.succ[key] if s not in last]
        if key not in first and after and graph.out_degree(key) >= graph.in_degree(key):
            layer[key] = max(layer[key], min(after) - 1)
    end = max((n for key, n in layer.items() if key not in last), default=-1) + 1
    layer |= dict.fromkeys(last, end)
    used = {n: i for i, n in enumerate(sorted(set(layer.values())))}
    return {key: used[n] for key, n in layer.items()}


WayPoint = tuple[Key, str, int]


def _way_points(
    sizes: dict[Key, Size], wires: Sequence[Wire], layer: Mapping[Key, int], rows: list[list[Key]]
) -> tuple[list[_Edge], dict[Wire, list[WayPoint]]]:
    """Edges between neighbouring layers. Way points are added to ``sizes`` and ``rows``."""
    edges: dict[_Edge, None] = {}
    chains: dict[Wire, list[WayPoint]] = {}
    needed = sum(max(0, layer[w.target] - layer[w.source] - 1) for w in wires)
    for wire in wires:
        chain: list[WayPoint] = []
        previous: Key = wire.source
        at = sizes[wire.source].outs[wire.out]
        if needed <= MAX_WAY_POINTS:
            for n in range(layer[wire.source] + 1, layer[wire.target]):
                point: WayPoint = (wire.source, wire.out, n)
                if point not in sizes:
                    sizes[point] = Size(0, 0, {"": 0}, {"": 0})
                    rows[n].append(point)
                edges[_Edge(previous, at, point, 0, 4 if chain else 2)] = None
                chain.append(point)
                previous, at = point, 0
        if layer[wire.target] == layer[wire.source] + 1 or chain:
            edges[_Edge(previous, at, wire.target, sizes[wire.target].ins[wire.into], 2 if chain else 1)] = None
        chains[wire] = chain
    return list(edges), chains


def _neighbours(edges: Iterable[_Edge]) -> tuple[dict[Key, list[_Edge]], dict[Key, list[_Edge]]]:
    before: dict[Key, list[_Edge]] = defaultdict(list)
    after: dict[Key, list[_Edge]] = defaultdict(list)
    for edge in edges:
        before[edge.target].append(edge)
        after[edge.source].append(edge)
    return before, after


def _ordered(rows: list[list[Key]], edges: Sequence[_Edge], sizes: Mapping[Key, Size]) -> list[list[Key]]:
    """The order with the fewest crossings that barycentre sweeps find."""
    before, after = _neighbours(edges)
    best, fewest = rows, _crossings(rows, edges)
    for sweep in range(SWEEPS):
        if fewest == 0:
            break
        forward = sweep % 2 == 0
        rows = [list(row) for row in rows]
        for i in range(1, len(rows)) if forward else range(len(rows) - 2, -1, -1):
            fixed = {key: n for n, key in enumerate(rows[i - 1] if forward else rows[i + 1])}
            place_now = {key: float(n) for n, key in enumerate(rows[i])}
            for key in rows[i]:
                found = before[key] if forward else after[key]
                ends = [_position(e, forward, fixed, sizes) for e in found]
                if ends:
                    place_now[key] = sum(ends) / len(ends)
            rows[i].sort(key=place_now.__getitem__)
        if (crossings := _crossings(rows, edges)) < fewest:
            best, fewest = rows, crossings
    return best


def _position(edge: _Edge, forward: bool, fixed: Mapping[Key, int], sizes: Mapping[Key, Size]) -> float:
    key, at = (edge.source, edge.at_source) if forward else (edge.target, edge.at_target)
    return fixed[key] + at / (sizes[key].height + 1)


def _crossings(rows: list[list[Key]], edges: Sequence[_Edge]) -> int:
    """How many pairs of edges cross, counted with a Fenwick tree for each pair of layers."""
    position = {key: (i, n) for i, row in enumerate(rows) for n, key in enumerate(row)}
    by_layer: dict[int, list[_Edge]] = defaultdict(list)
    for edge in edges:
        by_layer[position[edge.source][0]].append(edge)
    total = 0
    for found in by_layer.values():
        ends = sorted({(position[e.target][1], e.at_target) for e in found})
        rank = {end: n + 1 for n, end in enumerate(ends)}
        found.sort(key=lambda e: (position[e.source][1], e.at_source, position[e.target][1], e.at_target))
        tree = [0] * (len(ends) + 1)
        for seen, edge in enumerate(found):
            here = rank[(position[edge.target][1], edge.at_target)]
            below, i = 0, here
            while i:
                below += tree[i]
                i -= i & -i
            total += seen - below
            i = here
            while i < len(tree):
                tree[i] += 1
                i += i & -i
    return total


def _heights(rows: list[list[Key]], edges: Sequence[_Edge], sizes: Mapping[Key, Size]) -> dict[Key, float]:
    """Tops that pull the ends of each wire to one height, without overlaps."""
    before, after = _neighbours(edges)
    tops: dict[Key, float] = {}
    for row in rows:
        y = 0.0
        for key, below in zip(row, [*row[1:], None], strict=True):
            tops[key] = y
            y += sizes[key].height + _gap(key, below, sizes)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for row in rows if forward else reversed(rows):
            wanted, weights = [], []
            for key in row:
                pulls = [(tops[e.source] + e.at_source - e.at_target, e.weight) for e in before[key]]
                others = [(tops[e.target] + e.at_target - e.at_source, e.weight) for e in after[key]]
                near, far = (pulls, others) if forward else (others, pulls)
                chosen = near or far if sweep < SWEEPS - 2 else near + far
                total = sum(w for _, w in chosen)
                wanted.append(sum(y * w for y, w in chosen) / total if total else tops[key])
                weights.append(total or 0.1)
            tops |= zip(row, _spread(row, wanted, weights, sizes), strict=True)
    return tops


def _gap(key: Key, below: Key | None, sizes: Mapping[Key, Size]) -> float:
    both = sizes[key].height and (below is None or sizes[below].height)
    return GAP if both and sizes[key].height > 30 else WAY_GAP


def _spread(row: list[Key], wanted: list[float], weights: list[float], sizes: Mapping[Key, Size]) -> list[float]:
    """The tops nearest to the wanted ones (least squares) that keep order and gaps: isotonic regression."""
    offsets, total = [], 0.0
    for key, below in zip(row, [*row[1:], None], strict=True):
        offsets.append(total)
        total += sizes[key].height + _gap(key, below, sizes)
    blocks: list[list[float]] = []  # value, weight, count
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        blocks.append([want - offset, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            value, more, count = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + value * more) / (last[1] + more)
            last[1] += more
            last[2] += count
    values = [block[0] for block in blocks for _ in range(int(block[2]))]
    return [value + offset for value, offset in zip(values, offsets, strict=True)]


def _columns(
    rows: list[list[Key]], edges: Sequence[_Edge], layer: Mapping[Key, int], sizes: Mapping[Key, Size]
) -> tuple[list[tuple[float, float]], float]:
    """Left edge and width of each layer; the space between two grows with the wires that turn in it."""
    position = {key: i for i, row in enumerate(rows) for key in row}
    turning: dict[int, int] = defaultdict(int)
    for edge in edges:
        turning[position[edge.source]] += 1
    columns: list[tuple[float, float]] = []
    x = 0.0
    for i, row in enumerate(rows):
        width = max((sizes[k].width for k in row if k in sizes), default=0.0)
        columns.append((x, width))
        x += width + (min(110.0, 44.0 + 5 * turning[i]) if i + 1 < len(rows) else 0)
    return columns, x
