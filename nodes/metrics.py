"""How good samples are: shares with their intervals, distances between pictures, and between sets of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

from annotated_types import Ge

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.shapes import check_floats, over_pictures
from guidegraph.nodes.types import FeatureExtractor, Image, Label, Mask, SemanticMap, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Z95 = 1.959963984540054
PEAK = 2.0
"""The range of a picture in [-1, 1]."""
RESAMPLES = 1000
KERNEL_ROWS = 1024
"""Rows of a kernel that are in memory at a time: all of 50,000 samples would take 20 GB."""


class Share(NamedTuple):
    """A share of yes among yes and no, with Wilson's 95 % interval."""

    value: float
    low: float
    high: float


class Mean(NamedTuple):
    """A mean with its standard error; the values (N) it is taken over."""

    value: float
    error: float
    values: Tensor


class Overlap(NamedTuple):
    """Mean intersection over union with its 95 % interval, and that of each class (K), NaN for one that is absent."""

    value: float
    low: float
    high: float
    classes: Tensor


class KernelDistance(NamedTuple):
    """A kernel distance times 1,000, with its standard error."""

    value: float
    error: float


@node("metric.share")
def share(yes: Tensor) -> Share:
    """The share of true values among all of them, with Wilson's 95 % interval (Wilson 1927)."""
    count = yes.numel()
    if count == 0:
        raise ValueError("a share of no values is not defined: the tensor is empty")
    return wilson(int(yes.bool().sum()), count)


def wilson(hits: int, count: int, z: float = Z95) -> Share:
    """hits of count, and the ends of the interval of all shares p for which |hits/count − p| ≤ z √(p(1 − p)/count)."""
    p, spread = hits / count, z * z / count
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / count + spread / (4 * count))
    return Share(p, centre - half if hits else 0.0, centre + half if hits < count else 1.0)


@node("metric.accuracy")
def accuracy(logits: Tensor, label: Label) -> Share:
    """The share of samples whose largest logit (B, K) is that of their label (B)."""
    return share(_chosen(logits, label) == label.to(logits.device))


@node("metric.class_accuracy")
def class_accuracy(logits: Tensor, label: Label, *, names: list[str] | None = None) -> Table:
    """The accuracy of each class that occurs: columns class, count, accuracy, low and high (95 %).

    logits (B, K), label (B); names: of the K classes, in place of their numbers.
    """
    right = _chosen(logits, label).cpu() == label.cpu()
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


def _chosen(logits: Tensor, label: Tensor) -> Tensor:
    if logits.ndim != 2 or label.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (B, K) and labels (B), found shapes {tuple(logits.shape)} and {tuple(label.shape)}"
        )
    if label.numel() and not 0 <= int(label.min()) <= int(label.max()) < logits.shape[1]:
        raise ValueError(f"labels are 0 … {logits.shape[1] - 1}; found {int(label.min())} … {int(label.max())}")
    return logits.argmax(1)


@node("metric.mean")
def mean(values: Tensor) -> Mean:
    """The mean of values (N) and its standard error, their deviation over √N (NaN for one value)."""
    flat = values.detach().double().flatten()
    if flat.numel() == 0:
        raise ValueError("a mean of no values is not defined: the tensor is empty")
    return Mean(float(flat.mean()), float(flat.std()) / math.sqrt(flat.numel()) if flat.numel() > 1 else math.nan, flat)


@node("metric.gain")
def gain(values: Tensor, baseline: Tensor) -> Mean:
    """The mean of how much values (N) are above a baseline's (N) on the same samples, and its standard error."""
    if values.shape != baseline.shape:
        raise ValueError(f"values of shapes {tuple(values.shape)} and {tuple(baseline.shape)} are of other samples")
    return mean(values - baseline.to(values.device))


@node("metric.psnr")
def psnr(image: Image, reference: Image, mask: Mask | None = None) -> Mean:
    """Peak signal-to-noise ratio in dB, 10 log₁₀(4 / MSE) of each picture in [-1, 1], averaged over the pictures.

    image and reference (B, 3, H, W); mask (B, 1, H, W): only where it is 1. Equal pictures count as 100 dB.
    """
    error = _squares(image, reference)
    weight = error.new_ones(error[:, :1].shape) if mask is None else over_pictures(mask, error).double()
    area = weight.sum((1, 2, 3)) * error.shape[1]
    if bool((area == 0).any()):
        raise ValueError("the mask of a picture is empty: there is nothing to compare in it")
    mse = (error * weight).sum((1, 2, 3)) / area
    return mean(10 * (PEAK**2 / mse.clamp(min=PEAK**2 * 1e-10)).log10())


@node("metric.largest_change")
def largest_change(image: Image, reference: Image, mask: Mask | None = None, *, outside: bool = False) -> float:
    """The largest difference of two pictures (B, 3, H, W) in 255ths of their range.

    mask (B, 1, H, W): only where it is 1, or with `outside` only where it is 0. Raises an error where it is so nowhere.
    """
    change = _squares(image, reference).sqrt()
    if mask is None and outside:
        raise ValueError("what is outside is not known without a mask: wire one to 'mask'")
    if mask is not None:
        seen = over_pictures(mask, change) == (0 if outside else 1)
        if not bool(seen.any()):
            raise ValueError(f"the mask is {0 if outside else 1} nowhere: there is nothing to compare")
        change = change * seen.to(change)
    return float(change.max()) * 255 / PEAK


def _squares(image: Tensor, reference: Tensor) -> Tensor:
    if image.shape != reference.shape:
        raise ValueError(f"pictures of shapes {tuple(image.shape)} and {tuple(reference.shape)} cannot be compared")
    check_floats(image, reference)
    return (image.double() - reference.to(image.device).double()).square()


@node("metric.miou")
def mean_iou(predicted: Tensor, map: SemanticMap, mask: Mask | None = None) -> Overlap:
    """Mean intersection over union of two maps of classes (B, K, H, W); `predicted` may be logits.

    Each pixel is of the class that is largest there. Intersections and unions are summed over all pictures, as in
    PASCAL VOC, and the mean is over the classes that occur in `map`. The interval resamples the pictures 1,000 times.
    mask (B, 1, H, W): only the pixels where it is 1.
    """
    import numpy as np
    import torch

    if predicted.shape != map.shape:
        raise ValueError(f"maps of shapes {tuple(predicted.shape)} and {tuple(map.shape)} cannot be compared")
    classes = map.shape[1]
    found, truth = predicted.argmax(1).cpu().numpy(), map.argmax(1).cpu().numpy()
    counts = np.ones(truth.shape) if mask is None else over_pictures(mask, map)[:, 0].cpu().double().numpy()
    parts, wholes = np.zeros((2, len(truth), classes))
    for k in range(classes):
        a, b = found == k, truth == k
        parts[:, k], wholes[:, k] = ((s * counts).sum((1, 2)) for s in (a & b, a | b))
    present = np.array([bool(((truth == k) * counts).any()) for k in range(classes)])
    if not present.any():
        raise ValueError("no class occurs in the map where the mask is 1: there is nothing to compare")
    ratio = np.where(present, _ratios(parts.sum(0), wholes.sum(0)), np.nan)
    picks = np.random.default_rng(0).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), RESAMPLES)
    resampled = np.nanmean(_ratios(picks @ parts, picks @ wholes)[:, present], axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Overlap(float(np.nanmean(ratio)), float(low), float(high), torch.from_numpy(ratio))


def _ratios(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> NDArray[np.float64]:
    """parts/wholes, NaN where there is nothing to divide by."""
    import numpy as np

    found: NDArray[np.float64] = np.divide(parts, wholes, out=np.full(parts.shape, np.nan), where=wholes > 0)
    return found


@node("features.pooled")
def pooled_features(extractor: FeatureExtractor, image: Image, *, chunk: Annotated[int, Ge(1)] = 64) -> Tensor:
    """The pooled features (B, D), float32, of pictures (B, 3, H, W) in [-1, 1], `chunk` pictures at a time."""
    import torch

    check_floats(image)
    with torch.no_grad():
        return torch.cat([extractor(part)[-1].float() for part in image.split(chunk)])


@node("metric.kid")
def kernel_distance(features: Tensor, reference: Tensor, *, blocks: Annotated[int, Ge(2)] = 20) -> KernelDistance:
    """The kernel distance of Bińkowski et al. (2018, eq. 4), times 1,000, between features (N, D) and (M, D).

    The unbiased estimate of MMD² with the kernel (xᵀy/D + 1)³, over all pairs: it may be below zero. Its standard error
    comes from leaving out each of `blocks` parts of either set (the jackknife); it is too large for sets that are much
    alike. The paper's features are Inception's: values for others, such as EfficientNet's, do not compare with its own.
    """
    import numpy as np

    x, y = (f.detach().double().cpu().numpy() for f in (features, reference))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D), found shapes {x.shape} and {y.shape}")
    if min(len(x), len(y)) < 3:
        raise ValueError(f"the unbiased estimate needs three samples of each set; found {len(x)} and {len(y)}")
    for name, f in (("features", x), ("reference", y)):
        if not np.isfinite(f).all():
            raise ValueError(f"'{name}' has values that are not finite: look at the pictures that they are of")
    whole, without_x, without_y = _mmd_with_blocks(x, y, blocks)
    variance = sum(_jackknife(np.array(values)) for values in (without_x, without_y))
    return KernelDistance(1000 * whole, 1000 * math.sqrt(variance))


def _mmd_with_blocks(
    x: NDArray[np.float64], y: NDArray[np.float64], blocks: int
) -> tuple[float, list[float], list[float]]:
    """The estimate from all, and those without each block of x and of y, from sums of the kernel over blocks."""
    import numpy as np

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
        found: NDArray[np.float64] = np.add.reduceat(np.concatenate(parts), rows, 0)
        return found

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
    """Where each block begins and how long it is; at least two samples stay when one block is left out."""
    import numpy as np

    starts = np.arange(count) if blocks >= count - 1 else (np.arange(blocks) * count) // blocks
    return starts, np.diff(np.append(starts, count))


def _jackknife(without: NDArray[np.float64]) -> float:
    """The variance of an estimate, from its values without one block each (Efron & Stein 1981)."""
    blocks = len(without)
    return float((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum())
