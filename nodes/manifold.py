"""Manifolds of k nearest neighbours: the balls around a set's features, and what lies in those of another set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple, TypeAlias

from guidegraph.graph.types import Tensor

FLOOR = 1e-12
"""Squared distances below this share of the squared norms are rounding alone: the distance is 0."""
KEPT = 2**25
"""How many distances are kept in memory for resampling, at most; more are made anew each time."""

Blocks: TypeAlias = Iterable[tuple[int, Tensor]]
"""Rows of a matrix of squared distances, some at a time, each with the first row's number."""


class Fidelity(NamedTuple):
    precision: float
    recall: float
    density: float
    coverage: float


def fidelities(x: Tensor, y: Tensor, k: int, chunk: int, halves: Iterable[tuple[Tensor, Tensor]]) -> list[Fidelity]:
    """Precision, recall, density and coverage of samples x (N, D) against real ones y (M, D), both float64.

    First of all of them, then of each of the parts (n) of x and (m) of y, as numbers of rows. Distances are made for
    `chunk` rows at a time, so memory is bounded by chunk · max(N, M), and `KEPT`.
    """
    import torch

    x, y = x - y.mean(0), y - y.mean(0)
    n, m = len(x), len(y)
    if n * n + m * m + n * m > KEPT:
        sets = chain([(x, y)], ((x[i], y[j]) for i, j in halves))
        return [fidelity(distances(a, a, chunk), distances(b, b, chunk), distances(a, b, chunk), k) for a, b in sets]
    pairs = ((x, x), (y, y), (x, y))
    xx, yy, xy = (torch.cat([block for _, block in distances(a, b, chunk)]) for a, b in pairs)
    every = [fidelity([(0, xx)], [(0, yy)], [(0, xy)], k)]
    return every + [fidelity([(0, xx[i][:, i])], [(0, yy[j][:, j])], [(0, xy[i][:, j])], k) for i, j in halves]


def fidelity(xx: Blocks, yy: Blocks, xy: Blocks, k: int) -> Fidelity:
    """The four from squared distances: within x (N, N), within y (M, M), and from x to y (N, M)."""
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
    """The squared distance (N) of each feature to its k-th nearest other one, from those within the set (N, N)."""
    import torch

    found = []
    for _, block in blocks:
        found.append(block.kthvalue(k + 1, dim=1).values)  # its distance to itself, 0, is the first
    return torch.cat(found)


def distances(a: Tensor, b: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """Squared distances (≤ chunk, M) of the rows of a (N, D) to those of b (M, D), with the first row's number."""
    of_b = b.square().sum(1)
    for start in range(0, len(a), chunk):
        part = a[start : start + chunk]
        norms = part.square().sum(1)[:, None] + of_b
        squares = norms - 2 * part @ b.T
        yield start, squares.where(squares > FLOOR * norms, 0)
