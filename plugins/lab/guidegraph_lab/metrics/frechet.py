"""The Fréchet distance between two sets of features, from the features or from their moments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from guidegraph.graph.device_context import current_device
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.trust.file_checks import open_regular, require_regular
from guidegraph.graph.types import Tensor, structured
from guidegraph.nodes.shape_checks import has_values
from guidegraph_lab.metrics.metrics import (
    Interval,
    Resamples,
    Seed,
    bootstrap_interval,
    draw_counts,
    prepare_feature_sets,
)
from guidegraph_runtime.files.npy import read_npz_member


@structured
@dataclass(frozen=True, eq=False)
class Moments:
    """The count, mean and scatter of a set of features, float64, from which the Fréchet distance is computed.

    count (); mean (D); scatter (D, D), Σ (f − mean)(f − mean)ᵀ. Without features, mean and scatter are 0 of shape ().
    """

    stored_as: ClassVar = "guidegraph.nodes.metrics.frechet.Moments"
    leaf_axes: ClassVar = {"count": (), "mean": ("D",), "scatter": ("D", "D")}

    count: Tensor
    mean: Tensor
    scatter: Tensor


@node("moments.empty")
def empty() -> Moments:
    """The moments of no features, to start a loop over batches with."""
    zero = torch.zeros((), dtype=torch.float64, device=current_device())
    return Moments(zero, zero, zero)


@node("moments.add")
def add(moments: Moments, features: Tensor) -> Moments:
    """Add features (N, D) to moments (Chan, Golub & LeVeque 1979).

    Memory is bounded by D² for any number of batches, which may differ in size.
    """
    if features.ndim != 2 or (moments.mean.ndim and moments.mean.shape[0] != features.shape[1]):
        before = f", D = {moments.mean.shape[0]} as before" if moments.mean.ndim else ""
        raise ValueError(f"expected features (N, D){before}, found shape {tuple(features.shape)}")
    if not features.shape[0]:
        return moments
    f = features.detach().double()
    if has_values(f) and not bool(f.isfinite().all()):
        raise ValueError("the features have values that are not finite: look at the pictures that they are of")
    n, b = moments.count.to(f.device), f.shape[0]
    mean = f.mean(0)
    centred, shift = f - mean, mean - moments.mean.to(f.device)
    scatter = moments.scatter.to(f.device) + centred.T @ centred + shift.outer(shift) * (n * b / (n + b))
    return Moments(n + b, moments.mean.to(f.device) + shift * (b / (n + b)), scatter)


@node("moments.load", io=True, host=True)
def load(*, path: Path) -> Moments:
    """Load moments from a file: an output of a run, or published reference statistics.

    path: a .safetensors file of `guidegraph run`, or an .npz file with `mu` (D) and `sigma` (D, D). An .npz file does
    not contain the number of features: compare with it, but do not add features to it.
    Raises an error if the file holds no moments, or values that are not finite.
    """
    count, mean, scatter = _read_written(path) if path.suffix.lower() == ".safetensors" else _read_published(path)
    if mean.ndim != 1 or scatter.shape != (len(mean), len(mean)):
        raise ValueError(
            f"'{path}': expected mu (D) and sigma (D, D), found shapes {tuple(mean.shape)}, {tuple(scatter.shape)}"
        )
    if not all(bool(part.isfinite().all()) for part in (mean, scatter)):
        raise ValueError(f"'{path}' has values that are not finite: the features that it was made of had, too")
    if not torch.allclose(scatter, scatter.T, rtol=1e-3, atol=1e-6 * float(scatter.abs().max())):
        raise ValueError(f"'{path}': a covariance is symmetric, and its sigma is not")
    device = current_device()
    return Moments(count.to(device), mean.to(device), scatter.to(device))


def _read_published(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Read count, mean and scatter from an .npz file. It has no count: with 2, the scatter is the covariance."""
    try:
        with open_regular(path) as stream, np.load(stream, allow_pickle=False) as file:
            arrays = [read_npz_member(file, name, path.name).astype(np.float64) for name in ("mu", "sigma")]
        mean, covariance = map(torch.from_numpy, arrays)
    except Exception as error:
        raise ValueError(f"'{path}' is no .npz file with arrays 'mu' and 'sigma': {error}") from error
    return torch.tensor(2.0, dtype=torch.float64), mean, covariance


def _read_written(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Read count, mean and scatter from a .safetensors file, for any name of the output."""
    from safetensors import safe_open

    try:
        require_regular(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name.rpartition(".")[2]: file.get_tensor(name).double() for name in file.keys()}  # noqa: SIM118
        return tensors["count"], tensors["mean"], tensors["scatter"]
    except Exception as error:
        raise ValueError(f"'{path}' holds no moments that a run wrote: {error}") from error


@node("metric.fid")
def frechet_distance(features: Tensor, reference: Tensor, *, resamples: Resamples = 20, seed: Seed = 0) -> Interval:
    """The Fréchet distance of Heusel et al. (2017, eq. 6) between features (N, D) and (M, D), lower is better.

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of two Gaussians with the sets' means and covariances, in float64. Only with
    the features of the papers' Inception (`features.inception`) is it their FID; values with other features are not
    comparable. It is biased upwards, more so for fewer samples: compare sets of the same size.
    The interval resamples both sets with replacement, `resamples` times (0: no interval); seed: of these draws. It
    covers the variation between samples, not the bias.
    """
    x, y = prepare_feature_sets(features, reference, least=2)
    value = _distance(x.mean(0), _root_of_rows(x - x.mean(0)), y.mean(0), _root_of_rows(y - y.mean(0)))
    return bootstrap_interval(value, _resample(x, y, resamples, seed), low=0.0)


@node("metric.fid_of_moments")
def frechet_distance_of_moments(moments: Moments, reference: Moments) -> float:
    """The value of `metric.fid` from moments, accumulated in a loop or loaded from a file; without an interval."""
    for name, side in (("moments", moments), ("reference", reference)):
        if not all(bool(part.isfinite().all()) for part in (side.count, side.mean, side.scatter)):
            raise ValueError(f"'{name}' has values that are not finite: look at the pictures that it is of")
        if float(side.count) < 2:
            raise ValueError(f"'{name}' is of {int(side.count)} features: a covariance takes two")
    if moments.mean.shape != reference.mean.shape:
        raise ValueError(
            f"moments of {moments.mean.shape[0]} and of {reference.mean.shape[0]} features cannot be compared: "
            "take both from one extractor"
        )
    parts = [(m.mean.cpu(), _root_of_covariance(m.scatter.cpu() / (m.count.cpu() - 1))) for m in (moments, reference)]
    return _distance(*parts[0], *parts[1])


def _distance(mean: Tensor, root: Tensor, other_mean: Tensor, other_root: Tensor) -> float:
    """The distance from means (D) and roots R (·, D) of covariances Σ = RᵀR.

    The eigenvalues of Σ₁Σ₂ are the squared singular values of R₁R₂ᵀ, so tr (Σ₁Σ₂)^½ is the sum of the singular values.
    This avoids square roots of rounded zeros, of which there are many with fewer samples than features.
    """
    cross = torch.linalg.svdvals(root @ other_root.T).sum()
    squares = (mean - other_mean).square().sum() + root.square().sum() + other_root.square().sum()
    return max(0.0, float(squares - 2 * cross))


def _root_of_rows(centred: Tensor, count: int | None = None) -> Tensor:
    """A root of the covariance of centred rows (N, D) of `count` samples, by default N; it has at most D rows."""
    root = centred if centred.shape[0] <= centred.shape[1] else torch.linalg.qr(centred, mode="r").R
    return root / math.sqrt((count or centred.shape[0]) - 1)


def _root_of_covariance(covariance: Tensor) -> Tensor:
    """A root (D, D) of a covariance; eigenvalues within rounding error count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    floor = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = values.where(values > floor, 0).sqrt()[:, None] * vectors.T
    return root


def _resample(x: Tensor, y: Tensor, resamples: int, seed: int) -> Iterator[float]:
    for picks in zip(draw_counts(seed, len(x), resamples), draw_counts(seed + 1, len(y), resamples), strict=True):
        parts = []
        for f, times_drawn in zip((x, y), picks, strict=True):
            weight = torch.from_numpy(times_drawn[times_drawn > 0]).double()[:, None]
            distinct = f[torch.from_numpy(times_drawn > 0)]
            mean = (weight * distinct).sum(0) / len(f)
            parts.append((mean, _root_of_rows(weight.sqrt() * (distinct - mean), len(f))))
        yield _distance(*parts[0], *parts[1])
