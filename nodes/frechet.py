"""The Fréchet distance between two sets of features, from the features or from sums that were kept of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from guidegraph.graph.context import current_device
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor, structured
from guidegraph.nodes.bootstrap import Interval, Resamples, Seed, around, counts, two_sets


@structured
@dataclass(frozen=True, eq=False)
class Moments:
    """What the Fréchet distance needs of a set of features: how many, their mean and their scatter, float64.

    count (); mean (D); scatter (D, D), Σ (f − mean)(f − mean)ᵀ. Of no features yet, mean and scatter are 0 of shape ().
    """

    leaf_axes: ClassVar = {"count": (), "mean": ("D",), "scatter": ("D", "D")}

    count: Tensor
    mean: Tensor
    scatter: Tensor


@node("moments.empty")
def empty() -> Moments:
    """The moments of no features: where a loop over batches starts from."""
    import torch

    zero = torch.zeros((), dtype=torch.float64, device=current_device())
    return Moments(zero, zero, zero)


@node("moments.add")
def add(moments: Moments, features: Tensor) -> Moments:
    """The moments of those features and of these (N, D) too (Chan, Golub & LeVeque 1979).

    Memory is bounded by D² whatever the number of batches, and their sizes may differ.
    """
    if features.ndim != 2 or (moments.mean.ndim and moments.mean.shape[0] != features.shape[1]):
        before = f", D = {moments.mean.shape[0]} as before" if moments.mean.ndim else ""
        raise ValueError(f"expected features (N, D){before}, found shape {tuple(features.shape)}")
    f = features.detach().double()
    n, b = moments.count.to(f.device), f.shape[0]
    mean = f.mean(0)
    centred, shift = f - mean, mean - moments.mean.to(f.device)
    scatter = moments.scatter.to(f.device) + centred.T @ centred + shift.outer(shift) * (n * b / (n + b))
    return Moments(n + b, moments.mean.to(f.device) + shift * (b / (n + b)), scatter)


@node("moments.load", io=True, host=True)
def load(*, path: Path) -> Moments:
    """Moments from an .npz file, `path`, with `mu` (D) and `sigma` (D, D), as published reference statistics have them.

    Raises an error where the file does not hold both.
    """
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = file["mu"].astype(np.float64), file["sigma"].astype(np.float64)
    except Exception as error:
        raise ValueError(f"'{path}' is no .npz file with arrays 'mu' and 'sigma': {error}") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"'{path}': expected mu (D) and sigma (D, D), found shapes {mean.shape}, {covariance.shape}")
    count = torch.tensor(2.0, dtype=torch.float64)  # the file says not how many: 2 makes the scatter the covariance
    device = current_device()
    return Moments(*(part.to(device) for part in (count, torch.from_numpy(mean), torch.from_numpy(covariance))))


@node("metric.fid")
def frechet_distance(features: Tensor, reference: Tensor, *, resamples: Resamples = 20, seed: Seed = 0) -> Interval:
    """The Fréchet distance of Heusel et al. (2017, eq. 6) between features (N, D) and (M, D), lower is better.

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of two Gaussians with the sets' means and covariances, in float64. It is the
    papers' FID with the features of their Inception alone (`features.torchscript`); values over other features do not
    compare with those. It is biased upwards, the more so the fewer samples: compare sets of one size.
    The interval draws both sets again with replacement, `resamples` times (0: no interval); seed: of these draws. It
    says how far other samples would move the value, not how large the bias is.
    """
    x, y = two_sets(features, reference, least=2)
    value = _distance(x.mean(0), _root_of_rows(x - x.mean(0)), y.mean(0), _root_of_rows(y - y.mean(0)))
    return around(value, _resampled(x, y, resamples, seed), low=0.0)


@node("metric.fid_of_moments")
def frechet_distance_of_moments(moments: Moments, reference: Moments) -> float:
    """The value of `metric.fid` from moments that a loop added up, or that a file holds; it has no interval."""
    for name, given in (("moments", moments), ("reference", reference)):
        if float(given.count) < 2:
            raise ValueError(f"'{name}' is of {int(given.count)} features: a covariance takes two")
    if moments.mean.shape != reference.mean.shape:
        raise ValueError(
            f"moments of {moments.mean.shape[0]} and of {reference.mean.shape[0]} features cannot be compared: "
            "take both from one extractor"
        )
    parts = [(m.mean.cpu(), _root_of_covariance(m.scatter.cpu() / (m.count.cpu() - 1))) for m in (moments, reference)]
    return _distance(*parts[0], *parts[1])


def _distance(mean: Tensor, root: Tensor, other_mean: Tensor, other_root: Tensor) -> float:
    """The distance from means (D) and roots R (·, D) of covariances Σ = RᵀR.

    The eigenvalues of Σ₁Σ₂ are the squared singular values of R₁R₂ᵀ, so tr (Σ₁Σ₂)^½ is the sum of these. No square root
    is taken of what rounding leaves of a zero, of which there are many with fewer samples than features.
    """
    import torch

    cross = torch.linalg.svdvals(root @ other_root.T).sum()
    squares = (mean - other_mean).square().sum() + root.square().sum() + other_root.square().sum()
    return max(0.0, float(squares - 2 * cross))


def _root_of_rows(centred: Tensor) -> Tensor:
    """A root of the covariance of centred rows (N, D), of at most D rows."""
    import torch

    root = centred if centred.shape[0] <= centred.shape[1] else torch.linalg.qr(centred, mode="r").R
    return root / math.sqrt(centred.shape[0] - 1)


def _root_of_covariance(covariance: Tensor) -> Tensor:
    """A root (D, D) of a covariance; eigenvalues that are rounding alone count as 0."""
    import torch

    values, vectors = torch.linalg.eigh(covariance)
    floor = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = values.where(values > floor, 0).sqrt()[:, None] * vectors.T
    return root


def _resampled(x: Tensor, y: Tensor, resamples: int, seed: int) -> Iterator[float]:
    import torch

    for picks in zip(counts(seed, len(x), resamples), counts(seed + 1, len(y), resamples), strict=True):
        parts = []
        for f, drawn in zip((x, y), picks, strict=True):
            weight = torch.from_numpy(drawn[drawn > 0]).double()[:, None]
            kept = f[torch.from_numpy(drawn > 0)]
            mean = (weight * kept).sum(0) / len(f)
            root = weight.sqrt() * (kept - mean)
            reduced = root if root.shape[0] <= root.shape[1] else torch.linalg.qr(root, mode="r").R
            parts.append((mean, reduced / math.sqrt(len(f) - 1)))
        yield _distance(*parts[0], *parts[1])
