"""Layered layout of a directed acyclic graph of boxes with ports, from left to right (Sugiyama's method).

Layers are assigned by longest path, ordered by barycentres, and then given heights that straighten the wires. Wires
that span several layers pass through waypoints, shared by all wires of a port.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from guidegraph.graph.planning.topological_order import order_by_edges

Key: TypeAlias = Hashable
SWEEPS = 12
GAP = 22.0
WAYPOINT_GAP = 12.0
MAX_WAYPOINTS = 20_000


@dataclass(frozen=True)
class Size:
    """The size of a box, and the distances of its ports below its top."""

    width: float
    height: float
    ins: Mapping[str, float] = field(default_factory=dict)
    outs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Wire:
    """A wire from an output port of one box to an input port of another."""

    source: Key
    out: str
    target: Key
    into: str


@dataclass(frozen=True)
class Layout:
    """A finished layout: the top left corner of every box, and the waypoints of every wire."""

    width: float
    height: float
    corners: dict[Key, tuple[float, float]]
    ways: dict[Wire, list[tuple[float, float]]]


@dataclass(frozen=True)
class _Edge:
    """An edge between boxes or waypoints of neighbouring layers."""

    source: Key
    source_height: float
    target: Key
    target_height: float
    weight: float


def lay_out(
    sizes: Mapping[Key, Size], wires: Sequence[Wire], first: Collection[Key] = (), last: Collection[Key] = ()
) -> Layout:
    """Lay out boxes; those in ``first`` (``last``) share the leftmost (rightmost) layer."""
    if not sizes:
        return Layout(0, 0, {}, {})
    layer = _assign_layers(sizes, wires, set(first), set(last))
    count = max(layer.values()) + 1
    rows: list[list[Key]] = [[] for _ in range(count)]
    for key in sizes:
        rows[layer[key]].append(key)
    all_sizes = dict(sizes)
    edges, chains = _add_waypoints(all_sizes, wires, layer, rows)
    rows = _order_rows(rows, edges, all_sizes)
    tops = _assign_tops(rows, edges, all_sizes)
    lefts, width = _assign_columns(rows, edges, sizes)
    lowest = min(tops.values())
    corners = {k: (lefts[layer[k]][0], tops[k] - lowest) for k in sizes}
    # Boxes are centred in their column, except the first and last ones, which are aligned with the border.
    for key, (x, y) in corners.items():
        slack = lefts[layer[key]][1] - sizes[key].width
        shift = 0 if key in first else slack if key in last else slack / 2
        corners[key] = (x + shift, y)
    ways: dict[Wire, list[tuple[float, float]]] = {wire: [] for wire in chains}
    for wire, chain in chains.items():
        for point in chain:
            (left, across), y = lefts[point[2]], tops[point] - lowest
            ways[wire] += [(left, y), (left + across, y)]
    height = max(tops[k] - lowest + all_sizes[k].height for k in tops)
    return Layout(width, height, corners, ways)


def _assign_layers(sizes: Mapping[Key, Size], wires: Iterable[Wire], first: set[Key], last: set[Key]) -> dict[Key, int]:
    """The layer of each box: longest path from the left, moved right if that shortens its wires."""
    before: dict[Key, set[Key]] = {key: set() for key in sizes}
    following: dict[Key, set[Key]] = {key: set() for key in sizes}
    for wire in wires:
        before[wire.target].add(wire.source)
        following[wire.source].add(wire.target)
    layer: dict[Key, int] = {}
    order = order_by_edges(following)
    start = 1 if first else 0
    for key in order:
        layer[key] = 0 if key in first else max((layer[p] + 1 for p in before[key]), default=start)
    for key in reversed(order):
        after = [layer[s] for s in following[key] if s not in last]
        if key not in first and after and len(following[key]) >= len(before[key]):
            layer[key] = max(layer[key], min(after) - 1)
    end = max((n for key, n in layer.items() if key not in last), default=-1) + 1
    layer |= dict.fromkeys(last, end)
    used = {n: i for i, n in enumerate(sorted(set(layer.values())))}
    return {key: used[n] for key, n in layer.items()}


Waypoint = tuple[Key, str, int]


def _add_waypoints(
    sizes: dict[Key, Size], wires: Sequence[Wire], layer: Mapping[Key, int], rows: list[list[Key]]
) -> tuple[list[_Edge], dict[Wire, list[Waypoint]]]:
    """Edges between neighbouring layers, and each wire's waypoints, which are added to ``sizes`` and ``rows``."""
    edges: dict[_Edge, None] = {}
    chains: dict[Wire, list[Waypoint]] = {}
    needed = sum(max(0, layer[w.target] - layer[w.source] - 1) for w in wires)
    for wire in wires:
        chain: list[Waypoint] = []
        previous: Key = wire.source
        height = sizes[wire.source].outs[wire.out]
        if needed <= MAX_WAYPOINTS:
            for n in range(layer[wire.source] + 1, layer[wire.target]):
                point: Waypoint = (wire.source, wire.out, n)
                if point not in sizes:
                    sizes[point] = Size(0, 0, {"": 0}, {"": 0})
                    rows[n].append(point)
                edges[_Edge(previous, height, point, 0, 4 if chain else 2)] = None
                chain.append(point)
                previous, height = point, 0
        if layer[wire.target] == layer[wire.source] + 1 or chain:
            edges[_Edge(previous, height, wire.target, sizes[wire.target].ins[wire.into], 2 if chain else 1)] = None
        chains[wire] = chain
    return list(edges), chains


def _group_edges(edges: Iterable[_Edge]) -> tuple[dict[Key, list[_Edge]], dict[Key, list[_Edge]]]:
    before: dict[Key, list[_Edge]] = defaultdict(list)
    after: dict[Key, list[_Edge]] = defaultdict(list)
    for edge in edges:
        before[edge.target].append(edge)
        after[edge.source].append(edge)
    return before, after


def _order_rows(rows: list[list[Key]], edges: Sequence[_Edge], sizes: Mapping[Key, Size]) -> list[list[Key]]:
    """The order with the fewest crossings found by barycentre sweeps."""
    before, after = _group_edges(edges)
    best, fewest = rows, _count_crossings(rows, edges)
    for sweep in range(SWEEPS):
        if fewest == 0:
            break
        forward = sweep % 2 == 0
        rows = [list(row) for row in rows]
        for i in range(1, len(rows)) if forward else range(len(rows) - 2, -1, -1):
            fixed = {key: n for n, key in enumerate(rows[i - 1] if forward else rows[i + 1])}
            barycentres = {key: float(n) for n, key in enumerate(rows[i])}
            for key in rows[i]:
                ends = (
                    [(edge.source, edge.source_height) for edge in before[key]]
                    if forward
                    else [(edge.target, edge.target_height) for edge in after[key]]
                )
                if ends:
                    places = [fixed[end] + height / (sizes[end].height + 1) for end, height in ends]
                    barycentres[key] = sum(places) / len(places)
            rows[i].sort(key=barycentres.__getitem__)
        if (crossings := _count_crossings(rows, edges)) < fewest:
            best, fewest = rows, crossings
    return best


def _count_crossings(rows: list[list[Key]], edges: Sequence[_Edge]) -> int:
    """The number of pairs of edges that cross, counted with a Fenwick tree for each pair of layers."""
    position = {key: (i, n) for i, row in enumerate(rows) for n, key in enumerate(row)}
    by_layer: dict[int, list[_Edge]] = defaultdict(list)
    for edge in edges:
        by_layer[position[edge.source][0]].append(edge)
    total = 0
    for layer_edges in by_layer.values():
        ends = sorted({(position[e.target][1], e.target_height) for e in layer_edges})
        rank = {end: n + 1 for n, end in enumerate(ends)}
        layer_edges.sort(key=lambda e: (position[e.source][1], e.source_height, position[e.target][1], e.target_height))
        tree = [0] * (len(ends) + 1)
        for seen, edge in enumerate(layer_edges):
            end_rank = rank[(position[edge.target][1], edge.target_height)]
            below, i = 0, end_rank
            while i:
                below += tree[i]
                i -= i & -i
            total += seen - below
            i = end_rank
            while i < len(tree):
                tree[i] += 1
                i += i & -i
    return total


def _assign_tops(rows: list[list[Key]], edges: Sequence[_Edge], sizes: Mapping[Key, Size]) -> dict[Key, float]:
    """The top of each box: as near as possible to where its wires are straight, without overlaps."""
    before, after = _group_edges(edges)
    tops: dict[Key, float] = {}
    for row in rows:
        y = 0.0
        for key, below in zip(row, [*row[1:], None], strict=True):
            tops[key] = y
            y += sizes[key].height + _gap_below(key, below, sizes)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for row in rows if forward else reversed(rows):
            targets, weights = [], []
            for key in row:
                pulls = [(tops[e.source] + e.source_height - e.target_height, e.weight) for e in before[key]]
                opposite = [(tops[e.target] + e.target_height - e.source_height, e.weight) for e in after[key]]
                near, far = (pulls, opposite) if forward else (opposite, pulls)
                chosen = near or far if sweep < SWEEPS - 2 else near + far
                total = sum(w for _, w in chosen)
                targets.append(sum(y * w for y, w in chosen) / total if total else tops[key])
                weights.append(total or 0.1)
            tops |= zip(row, _space_out(row, targets, weights, sizes), strict=True)
    return tops


def _gap_below(key: Key, below: Key | None, sizes: Mapping[Key, Size]) -> float:
    are_boxes = sizes[key].height and (below is None or sizes[below].height)
    return GAP if are_boxes and sizes[key].height > 30 else WAYPOINT_GAP


def _space_out(row: list[Key], targets: list[float], weights: list[float], sizes: Mapping[Key, Size]) -> list[float]:
    """The tops nearest to ``targets`` (least squares) that keep order and gaps: isotonic regression."""
    offsets, total = [], 0.0
    for key, below in zip(row, [*row[1:], None], strict=True):
        offsets.append(total)
        total += sizes[key].height + _gap_below(key, below, sizes)
    blocks: list[list[float]] = []  # value, weight, count
    for target, weight, offset in zip(targets, weights, offsets, strict=True):
        blocks.append([target - offset, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            value, more, count = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + value * more) / (last[1] + more)
            last[1] += more
            last[2] += count
    values = [block[0] for block in blocks for _ in range(int(block[2]))]
    return [value + offset for value, offset in zip(values, offsets, strict=True)]


def _assign_columns(
    rows: list[list[Key]], edges: Sequence[_Edge], sizes: Mapping[Key, Size]
) -> tuple[list[tuple[float, float]], float]:
    """Left edge and width of each layer, and the total width; gaps grow with the number of wires that bend in them."""
    row_of = {key: i for i, row in enumerate(rows) for key in row}
    turning: dict[int, int] = defaultdict(int)
    for edge in edges:
        turning[row_of[edge.source]] += 1
    columns: list[tuple[float, float]] = []
    x = 0.0
    for i, row in enumerate(rows):
        width = max((sizes[k].width for k in row if k in sizes), default=0.0)
        columns.append((x, width))
        x += width + (min(110.0, 44.0 + 5 * turning[i]) if i + 1 < len(rows) else 0)
    return columns, x
