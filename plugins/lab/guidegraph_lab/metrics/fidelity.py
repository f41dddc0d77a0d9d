"""The Inception score, and precision, recall, density and coverage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import Annotated, Literal, NamedTuple, TypeAlias

from annotated_types import Ge

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph_lab.metrics.metrics import (
    Interval,
    Resamples,
    Seed,
    bootstrap_interval,
    draw_halves,
    normal_interval,
    prepare_feature_sets,
)

Neighbours = Annotated[int, Ge(1)]
RowKind: TypeAlias = Literal["logits", "probabilities"]
SUM_ERROR = 0.01
"""Tolerance of the sum of probabilities, which may be in half precision."""
CHUNK = 1024


@node("metric.inception_score")
def inception_score(logits: Tensor, *, given: RowKind = "logits", splits: Annotated[int, Ge(1)] = 1) -> Interval:
    """The Inception score of Salimans et al. (2016, section 4), exp E KL(p(y|x) ‖ p(y)), from 1 to K, higher is better.

    logits (N, K) are from any classifier of the samples. With Inception's it is the papers' score; with another
    classifier it is not comparable to theirs, but still measures how sure the classifier is, and how evenly its classes
    occur. It does not use real pictures. The interval is from the leave-one-out jackknife; it is NaN if a split has
    one sample.
    given: whether the rows are logits, or already probabilities, as from Inception's TorchScript file.
    splits: average over this many consecutive splits of the set (the papers take 10): shuffle samples sorted by class.
    Raises ``ValueError`` for probabilities instead of logits, and vice versa.
    """
    if logits.ndim != 2 or len(logits) < splits or not logits.shape[1]:
        raise ValueError(f"expected logits (N, K) with N at least {splits}, found shape {tuple(logits.shape)}")
    rows = logits.detach().double().cpu()
    if not bool(rows.isfinite().all()):
        raise ValueError("the logits have values that are not finite: look at the pictures that they are of")
    p = rows.softmax(1) if given == "logits" else rows / rows.sum(1, keepdim=True)
    are_probabilities = bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < SUM_ERROR).all())
    if are_probabilities != (given == "probabilities") and rows.shape[1] > 1:
        property_of_rows = "are positive and sum to 1" if are_probabilities else "do not sum to 1 or are negative"
        raise ValueError(
            f"the rows {property_of_rows}: set `given` to {'probabilities' if are_probabilities else 'logits'}"
        )
    ends = [i * len(p) // splits for i in range(splits + 1)]
    scores = torch.tensor([_score_of_part(p[a:b]) for a, b in pairwise(ends)], dtype=torch.float64)
    value, deviation = float(scores[:, 0].mean()), float(scores[:, 1].sum().sqrt()) / splits
    return normal_interval(value, deviation, low=1.0, high=float(p.shape[1]))


def _score_of_part(p: Tensor) -> tuple[float, float]:
    """The score of probabilities (N, K), and its jackknife variance (Efron & Stein 1981)."""
    n, total = len(p), p.sum(0)
    own = torch.special.xlogy(p, p).sum(1)

    def score(own_mean: Tensor, mean: Tensor) -> Tensor:
        score_value: Tensor = (own_mean - torch.special.xlogy(mean, mean).sum(-1)).exp()
        return score_value

    value = float(score(own.mean(), total / n))
    if n == 1:
        return value, math.nan
    parts = zip(own.split(CHUNK), p.split(CHUNK), strict=True)
    leave_one_out = torch.cat([score((own.sum() - o) / (n - 1), (total - q).clamp(min=0) / (n - 1)) for o, q in parts])
    return value, float((leave_one_out - leave_one_out.mean()).square().sum()) * (n - 1) / n


class PrecisionRecall(NamedTuple):
    """Four proportions with their 95 % intervals, each as value, low and high."""

    precision: float
    precision_low: float
    precision_high: float
    recall: float
    recall_low: float
    recall_high: float
    density: float
    density_low: float
    density_high: float
    coverage: float
    coverage_low: float
    coverage_high: float


@node("metric.precision_recall")
def precision_recall(
    features: Tensor,
    reference: Tensor,
    *,
    k: Neighbours = 3,
    resamples: Resamples = 20,
    seed: Seed = 0,
    chunk: Annotated[int, Ge(1)] = 1024,
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 to 3), density and coverage (Naeem et al. 2020).

    A set's manifold is the union of balls around its features, each reaching to the k-th nearest other feature.
    seed: of the resampling for the interval.
    precision: proportion of features (N, D) inside the reference's (M, D) manifold; recall: proportion of the
    reference inside the features' manifold. density: mean number of the reference's balls that contain a feature,
    divided by k; it may be above 1. coverage: proportion of the reference's balls that contain a feature.
    The papers take k = 3, and k = 5 for density and coverage. All four depend on the sizes of both sets: compare sets
    of the same size. The interval takes a random half of either set, `resamples` times (0: no interval); chunk: rows of
    distances in memory at a time.
    """
    x, y = prepare_feature_sets(features, reference, least=2)
    if k >= min(len(x), len(y)):
        raise ValueError(f"a {k}-th nearest neighbour needs {k + 1} samples of each set; found {len(x)} and {len(y)}")
    if resamples and k >= min(len(x), len(y)) // 2:
        raise ValueError(
            f"half of {min(len(x), len(y))} samples have no {k}-th nearest neighbour: give more samples, or set "
            "resamples to 0 for no interval"
        )
    draws = zip(draw_halves(seed, len(x), resamples), draw_halves(seed + 1, len(y), resamples), strict=True)
    value, *resampled = fidelities(x, y, k, chunk, ((torch.from_numpy(a), torch.from_numpy(b)) for a, b in draws))
    bounds = {"density": math.inf}
    flat = [
        number
        for i, name in enumerate(Fidelity._fields)
        for number in bootstrap_interval(value[i], (r[i] for r in resampled), low=0.0, high=bounds.get(name, 1.0))
    ]
    return PrecisionRecall(*flat)


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
