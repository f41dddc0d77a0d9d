"""Intervals by resampling: how much a figure varies between sets of samples of the same size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple, TypeAlias

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from guidegraph.graph.types import Tensor
from guidegraph.nodes.metrics.metrics import Z95

Resamples: TypeAlias = Annotated[int, Ge(0)]
Seed: TypeAlias = Annotated[int, Ge(0)]


class Interval(NamedTuple):
    """A figure with its 95 % interval; both ends are NaN without one."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    value: float, resampled: Iterable[float], low: float = -math.inf, high: float = math.inf
) -> Interval:
    """value ± 1.96 standard deviations of the resampled figures, clipped to low and high; NaN for fewer than two.

    The interval is centred on the value, not taken from quantiles of the resampled figures, because a figure that is
    biased in small sets is more biased in sets with repeated samples.
    """
    values = np.array(list(resampled), dtype=np.float64)
    return normal_interval(value, float(values.std(ddof=1)) if values.size > 1 else math.nan, low, high)


def normal_interval(value: float, deviation: float, low: float, high: float) -> Interval:
    """value ± 1.96 deviations, clipped to low and high; NaN if the deviation is NaN."""
    if math.isnan(deviation):
        return Interval(value, math.nan, math.nan)
    return Interval(value, max(low, value - Z95 * deviation), min(high, value + Z95 * deviation))


def draw_counts(seed: int, size: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Draw `size` of `size` samples with replacement and count how often each is drawn (size) (Efron 1979)."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(size, size=size), minlength=size)


def draw_halves(seed: int, size: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Draw half of `size` samples without replacement, in order.

    A figure's deviation over halves estimates that over full sets: this is the delete-half jackknife (Shao & Wu 1989).
    It never takes a sample twice, which would be its own nearest neighbour.
    """
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.sort(generator.permutation(size)[: size // 2])


def prepare_feature_sets(features: Tensor, reference: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Features (N, D) and (M, D) in float64, on the CPU. Raises ``ValueError`` for other shapes, and for too few."""
    x, y = (f.detach().double().cpu() for f in (features, reference))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"expected features (N, D) and (M, D), found shapes {tuple(x.shape)} and {tuple(y.shape)}: of what a loop "
            "collected, tensor.merge makes one batch"
        )
    if min(len(x), len(y)) < least:
        raise ValueError(f"this metric needs at least {least} samples of each set; found {len(x)} and {len(y)}")
    for name, f in (("features", x), ("reference", y)):
        if not bool(f.isfinite().all()):
            raise ValueError(f"'{name}' has values that are not finite: look at the pictures that they are of")
    return x, y
