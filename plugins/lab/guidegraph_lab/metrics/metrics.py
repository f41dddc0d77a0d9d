"""Metrics of samples: proportions with intervals, means, distances between pictures, and the overlap of maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple, TypeAlias

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.shape_checks import check_finite, check_pairs, expand_mask
from guidegraph.nodes.types import Image, Label, Mask, SemanticMap, Table

Z95 = 1.959963984540054
PEAK = 2.0
"""The range of a picture in [-1, 1]."""
RESAMPLES = 1000


class Proportion(NamedTuple):
    """A proportion of successes with Wilson's 95 % interval."""

    value: float
    low: float
    high: float


class Mean(NamedTuple):
    """A mean, its standard error and the values (N) that it averages."""

    value: float
    error: float
    values: Tensor


class Overlap(NamedTuple):
    """Mean intersection over union with its 95 % interval, and the value of each class (K), NaN for an absent one."""

    value: float
    low: float
    high: float
    classes: Tensor


@node("metric.share")
def share(yes: Tensor) -> Proportion:
    """The proportion of true values, with Wilson's 95 % interval (Wilson 1927)."""
    count = yes.numel()
    if count == 0:
        raise ValueError("a share of no values is not defined: the tensor is empty")
    return wilson(int(yes.bool().sum()), count)


def wilson(hits: int, count: int) -> Proportion:
    """hits/count with the interval of all proportions p for which |hits/count − p| ≤ z √(p(1 − p)/count), z = 1.96."""
    p, spread = hits / count, Z95 * Z95 / count
    centre = (p + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(p * (1 - p) / count + spread / (4 * count))
    return Proportion(p, centre - half if hits else 0.0, centre + half if hits < count else 1.0)


@node("metric.accuracy")
def accuracy(logits: Tensor, label: Label) -> Proportion:
    """The proportion of samples whose largest logit (B, K) belongs to their label (B).

    Raises an error for logits that are not finite.
    """
    return share(_predict_labels(logits, label) == label.to(logits.device))


@node("metric.class_accuracy")
def class_accuracy(logits: Tensor, label: Label, *, names: list[str] | None = None) -> Table:
    """The accuracy of each class that occurs: columns class, count, accuracy, low and high (95 %).

    logits (B, K), label (B); names: the names of the K classes, to list in place of their indices.
    Raises an error for logits that are not finite.
    """
    right = _predict_labels(logits, label).cpu() == label.cpu()
    if names is not None and len(names) != logits.shape[1]:
        raise ValueError(f"{len(names)} names do not fit logits of {logits.shape[1]} classes")
    present = sorted(set(label.tolist()))
    shares = {k: share(right[label.cpu() == k]) for k in present}
    return Table(
        {
            "class": [names[k] if names else k for k in present],
            "count": [int((label == k).sum()) for k in present],
            "accuracy": [shares[k].value for k in present],
            "low": [shares[k].low for k in present],
            "high": [shares[k].high for k in present],
        }
    )


def _predict_labels(logits: Tensor, label: Tensor) -> Tensor:
    if logits.ndim != 2 or label.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (B, K) and labels (B), found shapes {tuple(logits.shape)} and {tuple(label.shape)}"
        )
    if label.numel() and not 0 <= int(label.min()) <= int(label.max()) < logits.shape[1]:
        raise ValueError(f"labels are 0 … {logits.shape[1] - 1}; found {int(label.min())} … {int(label.max())}")
    check_finite("the logits", logits)
    return logits.argmax(1)


@node("metric.mean")
def mean(values: Tensor) -> Mean:
    """The mean of values (N) and its standard error, their standard deviation over √N (NaN for one value)."""
    flat = values.detach().double().flatten()
    if flat.numel() == 0:
        raise ValueError("a mean of no values is not defined: the tensor is empty")
    return Mean(float(flat.mean()), float(flat.std()) / math.sqrt(flat.numel()) if flat.numel() > 1 else math.nan, flat)


@node("metric.gain")
def gain(values: Tensor, baseline: Tensor) -> Mean:
    """The mean difference of values (N) and a baseline's (N) on the same samples, with its standard error."""
    if values.shape != baseline.shape:
        raise ValueError(f"values of shapes {tuple(values.shape)} and {tuple(baseline.shape)} are of other samples")
    return mean(values.double() - baseline.to(values.device).double())


@node("metric.psnr")
def psnr(image: Image, reference: Image, mask: Mask | None = None) -> Mean:
    """Peak signal-to-noise ratio in dB, 10 log₁₀(4 / MSE) of each picture in [-1, 1], averaged over the pictures.

    image and reference (B, 3, H, W); mask (B, 1, H, W): compare only pixels with mask 1. Equal pictures give 100 dB.
    """
    error = _squares(image, reference)
    weight = error.new_ones(error[:, :1].shape) if mask is None else expand_mask(mask, error).double()
    area = weight.sum((1, 2, 3)) * error.shape[1]
    if bool((area == 0).any()):
        raise ValueError("the mask of a picture is empty: there is nothing to compare in it")
    mse = torch.where(weight > 0, error * weight, 0).sum((1, 2, 3)) / area
    return mean(10 * (PEAK**2 / mse.clamp(min=PEAK**2 * 1e-10)).log10())


@node("metric.largest_change")
def largest_change(image: Image, reference: Image, mask: Mask | None = None, *, outside: bool = False) -> float:
    """The largest absolute difference between pictures (B, 3, H, W), in 255ths of their range.

    mask (B, 1, H, W): compare only pixels with mask 1, or with `outside` mask 0. Raises an error if all are left
    out.
    """
    change = _squares(image, reference).sqrt()
    if mask is None and outside:
        raise ValueError("what is outside is not known without a mask: wire one to 'mask'")
    if mask is not None:
        compared = expand_mask(mask, change) == (0 if outside else 1)
        if not bool(compared.any()):
            raise ValueError(f"the mask is {0 if outside else 1} nowhere: there is nothing to compare")
        change = torch.where(compared.to(change.device), change, 0)
    return float(change.max()) * 255 / PEAK


def _squares(image: Tensor, reference: Tensor) -> Tensor:
    check_pairs(image, reference)
    return (image.double() - reference.to(image.device).double()).square()


@node("metric.miou")
def mean_iou(predicted: Tensor, map: SemanticMap, mask: Mask | None = None) -> Overlap:
    """Mean intersection over union of two class maps (B, K, H, W); `predicted` may be logits.

    The class of a pixel is its argmax. Intersections and unions are summed over all pictures, as in PASCAL VOC, and
    the mean is over the classes that occur in `map`. The interval resamples the pictures with counted pixels 1,000
    times. mask (B, 1, H, W): count only pixels with mask 1. Raises an error for values that are not finite in counted
    pixels, and if no pixel counts.
    """
    if predicted.shape != map.shape:
        raise ValueError(f"maps of shapes {tuple(predicted.shape)} and {tuple(map.shape)} cannot be compared")
    classes = map.shape[1]
    predicted_class, truth = (_classes_of(maps, mask) for maps in (predicted, map))
    counts = np.ones(truth.shape) if mask is None else expand_mask(mask, map)[:, 0].cpu().double().numpy()
    intersections, unions = np.zeros((2, len(truth), classes))
    for k in range(classes):
        a, b = predicted_class == k, truth == k
        intersections[:, k], unions[:, k] = ((s * counts).sum((1, 2)) for s in (a & b, a | b))
    present = np.array([bool(((truth == k) * counts).any()) for k in range(classes)])
    if not present.any():
        raise ValueError("no class occurs in the map where the mask is 1: there is nothing to compare")
    ratio = np.where(present, _ratios(intersections.sum(0), unions.sum(0)), np.nan)
    compared = unions.any(1)
    count = int(compared.sum())
    picks = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    resampled = np.nanmean(_ratios(picks @ intersections[compared], picks @ unions[compared])[:, present], axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Overlap(float(np.nanmean(ratio)), float(low), float(high), torch.from_numpy(ratio).to(map.device))


def _classes_of(maps: Tensor, mask: Mask | None) -> NDArray[np.int64]:
    """The class (B, H, W) of every pixel of maps (B, K, H, W).

    Raises ``ValueError`` for values that are not finite in pixels where the mask is not 0.
    """
    if mask is not None:
        maps = torch.where(expand_mask(mask, maps).to(maps.device) > 0, maps, 0)
    check_finite("the maps", maps)
    classes: NDArray[np.int64] = maps.argmax(1).cpu().numpy()
    return classes


def _ratios(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise quotients, NaN where the denominator is 0."""
    ratios: NDArray[np.float64] = np.divide(
        numerators, denominators, out=np.full(numerators.shape, np.nan), where=denominators > 0
    )
    return ratios


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
