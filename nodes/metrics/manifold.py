"""Manifolds of k nearest neighbours: balls around a set's features, and the features of another set inside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple, TypeAlias

from guidegraph.graph.types import Tensor

FLOOR = 1e-12
"""Squared distances below this fraction of the squared norms are rounding errors and count as 0."""
MAX_KEPT = 2**25
"""The largest number of distances kept in memory for resampling; beyond it they are recomputed each time."""

Blocks: TypeAlias = Iterable[tuple[int, Tensor]]
"""Blocks of rows of a matrix of squared distances, each with the index of its first row."""


class Fidelity(NamedTuple):
    precision: float
    recall: float
    density: float
    coverage: float


def fidelities(x: Tensor, y: Tensor, k: int, chunk: int, halves: Iterable[tuple[Tensor, Tensor]]) -> list[Fidelity]:
    """Precision, recall, density and coverage of samples x (N, D) against real ones y (M, D), both float64.

    The first result is for all samples, the others for each pair of halves, given as row indices (n) of x and (m) of y.
    Distances are computed for `chunk` rows at a time, so memory is bounded by chunk · max(N, M), and `MAX_KEPT`.
    """
    import torch

    x, y = x - y.mean(0), y - y.mean(0)
    n, m = len(x), len(y)
    if n * n + m * m + n * m > MAX_KEPT:
        sets = chain([(x, y)], ((x[i], y[j]) for i, j in halves))
        return [fidelity(distances(a, a, chunk), distances(b, b, chunk), distances(a, b, chunk), k) for a, b in sets]
    pairs = ((x, x), (y, y), (x, y))
    xx, yy, xy = (torch.cat([block for _, block in distances(a, b, chunk)]) for a, b in pairs)
    of_all = [fidelity([(0, xx)], [(0, yy)], [(0, xy)], k)]
    return of_all + [fidelity([(0, xx[i][:, i])], [(0, yy[j][:, j])], [(0, xy[i][:, j])], k) for i, j in halves]


def fidelity(xx: Blocks, yy: Blocks, xy: Blocks, k: int) -> Fidelity:
    """The four metrics from squared distances within x (N, N), within y (M, M), and from x to y (N, M)."""
    import torch

    x_radius, y_radius = radii(xx, k), radii(yy, k)
    recalled, covered = torch.zeros(2, len(y_radius), dtype=torch.bool)
    precise, balls = 0, 0
    for start, block in xy:
        inside = block <= y_radius
        precise += int(inside.any(1).sum())
        balls += int(inside.sum())
        covered |= inside.any(0)
        recalled |= (block <= x_radius[start : start + len(block), None]).any(0)
    n, (recall, coverage) = len(x_radius), (float(s.double().mean()) for s in (recalled, covered))
    return Fidelity(precise / n, recall, balls / (k * n), coverage)


def radii(blocks: Blocks, k: int) -> Tensor:
    """The squared distance (N) of each feature to its k-th nearest other feature, from distances (N, N) in the set."""
    import torch

    squared_radii = []
    for _, block in blocks:
        squared_radii.append(block.kthvalue(k + 1, dim=1).values)  # the first is the distance to itself, 0
    return torch.cat(squared_radii)


def distances(a: Tensor, b: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """Squared distances (≤ chunk, M) of rows of a (N, D) to rows of b (M, D), with the index of the first row."""
    of_b = b.square().sum(1)
    for start in range(0, len(a), chunk):
        rows = a[start : start + chunk]
        norms = rows.square().sum(1)[:, None] + of_b
        squares = norms - 2 * rows @ b.T
        yield start, squares.where(squares > FLOOR * norms, 0)
