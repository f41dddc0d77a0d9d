"""The kernel distance between two sets of features: KID over all pairs, and over random subsets."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph_lab.metrics.metrics import Seed, prepare_feature_sets

KERNEL_ROWS = 1024
"""Rows of a kernel matrix in memory at a time: the full matrix of 50,000 samples would take 20 GB."""


class KernelDistance(NamedTuple):
    """A kernel distance times 1,000, with its standard error."""

    value: float
    error: float


@node("metric.kid")
def kernel_distance(features: Tensor, reference: Tensor, *, blocks: Annotated[int, Ge(2)] = 20) -> KernelDistance:
    """The kernel distance of Bińkowski et al. (2018, eq. 4), times 1,000, between features (N, D) and (M, D).

    The unbiased estimate of MMD² with the kernel (xᵀy/D + 1)³, over all pairs; it may be negative. Its standard error
    is a jackknife that leaves out each of `blocks` blocks of either set; it is too large for very similar sets.
    The paper uses Inception features: values with others, such as EfficientNet's, are not comparable to its own.
    """
    x, y = (f.numpy() for f in prepare_feature_sets(features, reference, least=3))
    full, without_x, without_y = _mmd_with_blocks(x, y, blocks)
    variance = sum(_jackknife(np.array(values)) for values in (without_x, without_y))
    return KernelDistance(1000 * full, 1000 * math.sqrt(variance))


@node("metric.kid_subsets")
def kernel_distance_of_subsets(
    features: Tensor,
    reference: Tensor,
    *,
    subsets: Annotated[int, Ge(1)] = 100,
    subset_size: Annotated[int, Ge(2)] = 1000,
    seed: Seed = 0,
) -> KernelDistance:
    """KID as Bińkowski et al. (2018) and torchmetrics report it, times 1,000: the mean over random subsets.

    Each subset takes `subset_size` of features (N, D) and of (M, D), drawn as torchmetrics draws them after
    `torch.manual_seed(seed)`. `error` is the standard deviation over the subsets, as reported there: the error of a set
    of `subset_size`, not of the mean. `metric.kid` uses all pairs, and returns the error of its value.
    """
    x, y = prepare_feature_sets(features, reference, least=2)
    if subset_size > min(len(x), len(y)):
        raise ValueError(f"subsets of {subset_size} need as many samples of each set; found {len(x)} and {len(y)}")
    generator = torch.Generator().manual_seed(seed)
    estimates = []
    for _ in range(subsets):
        b, a = (f[torch.randperm(len(f), generator=generator)[:subset_size]] for f in (y, x))
        estimates.append(_mmd_squared(a, b))
    values = torch.stack(estimates)
    return KernelDistance(1000 * float(values.mean()), 1000 * float(values.std(correction=0)))


def _mmd_squared(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased estimate of MMD² with the kernel (xᵀy/D + 1)³ between two sets of n samples (eq. 4)."""
    n, d = a.shape
    means_within = [((k.sum() - k.diagonal().sum()) / (n * (n - 1))) for k in ((f @ f.T / d + 1) ** 3 for f in (a, b))]
    return means_within[0] + means_within[1] - 2 * ((a @ b.T / d + 1) ** 3).mean()


def _mmd_with_blocks(
    x: NDArray[np.float64], y: NDArray[np.float64], blocks: int
) -> tuple[float, list[float], list[float]]:
    """The estimate from all samples, and those without each block of x and of y, from kernel sums over blocks."""
    (xs, nx), (ys, ny) = _edges(len(x), blocks), _edges(len(y), blocks)

    def sums(
        a: NDArray[np.float64], b: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        parts = []
        for start in range(0, len(a), KERNEL_ROWS):
            kernel = (a[start : start + KERNEL_ROWS] @ b.T / a.shape[1] + 1) ** 3
            if a is b:
                np.fill_diagonal(kernel[:, start:], 0)
            parts.append(np.add.reduceat(kernel, columns, 1))
        totals: NDArray[np.float64] = np.add.reduceat(np.concatenate(parts), rows, 0)
        return totals

    xx, yy, xy = sums(x, x, xs, xs), sums(y, y, ys, ys), sums(x, y, xs, ys)

    def estimate(keep_x: NDArray[np.bool_], keep_y: NDArray[np.bool_]) -> float:
        n, m = nx[keep_x].sum(), ny[keep_y].sum()
        within = xx[np.ix_(keep_x, keep_x)].sum() / (n * (n - 1)) + yy[np.ix_(keep_y, keep_y)].sum() / (m * (m - 1))
        return float(within - 2 * xy[np.ix_(keep_x, keep_y)].sum() / (n * m))

    all_x, all_y = np.ones(len(xs), bool), np.ones(len(ys), bool)
    without_x = [estimate(np.arange(len(xs)) != i, all_y) for i in range(len(xs))]
    without_y = [estimate(all_x, np.arange(len(ys)) != i) for i in range(len(ys))]
    return estimate(all_x, all_y), without_x, without_y


def _edges(count: int, blocks: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The start and length of each block; at least two samples remain when one block is left out."""
    starts = np.arange(count) if blocks >= count - 1 else (np.arange(blocks) * count) // blocks
    return starts, np.diff(np.append(starts, count))


def _jackknife(without: NDArray[np.float64]) -> float:
    """The jackknife variance of an estimate, from its leave-one-block-out values (Efron & Stein 1981)."""
    blocks = len(without)
    return float((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum())
