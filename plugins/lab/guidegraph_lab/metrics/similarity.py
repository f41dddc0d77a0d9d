"""Distances and similarities of pairs of pictures: structural, and in the features of a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.shape_checks import check_pairs
from guidegraph.nodes.types import FeatureExtractor, Image
from guidegraph_lab.metrics.metrics import Mean, mean
from guidegraph_runtime.machine.optional_packages import install_command


@node("metric.ssim", extras={"torchmetrics": "metrics"})
def ssim(image: Image, reference: Image, *, sigma: Annotated[float, Gt(0)] = 1.5) -> Mean:
    """Structural similarity (Wang et al. 2004, eq. 13) of pictures (B, 3, H, W) in [-1, 1], averaged over the pictures.

    From −1 to 1; equal pictures give 1. Computed by torchmetrics on [0, 1], channel by channel, in Gaussian windows of
    standard deviation `sigma` pixels with K₁ = 0.01 and K₂ = 0.03; pictures are mirrored at the border.
    Raises ``ValueError`` if torchmetrics is not installed (the extra `metrics`), and for pictures smaller than a
    window.
    """
    check_pairs(image, reference)
    reach = int(3.5 * sigma + 0.5)
    if min(image.shape[2:]) <= reach:
        raise ValueError(f"windows of {2 * reach + 1} pixels need sides above {reach}; found {tuple(image.shape[2:])}")
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise ValueError(
            f"SSIM is computed by torchmetrics, which is not installed: {install_command('metrics')}"
        ) from None
    a, b = ((p.detach().double() / 2 + 0.5) for p in (image, reference.to(image.device)))
    similarities = structural_similarity_index_measure(a, b, sigma=sigma, reduction="none", data_range=1.0)
    assert isinstance(similarities, torch.Tensor)
    return mean(similarities.reshape(-1))


@node("metric.perceptual")
def perceptual(
    extractor: FeatureExtractor, image: Image, reference: Image, *, chunk: Annotated[int, Ge(1)] = 64
) -> Mean:
    """The mean distance of `loss.perceptual` over pairs of pictures (B, 3, H, W); 0 for equal pictures.

    Zhang et al. 2018, eq. 1, without learned weights: values with another network, and LPIPS, are not comparable.
    `chunk` pairs are computed at a time.
    """
    check_pairs(image, reference)
    pairs = zip(image.split(chunk), reference.to(image.device).split(chunk), strict=True)
    with torch.no_grad():
        return mean(torch.cat([map_distances(extractor(a), extractor(b)).mean(0) for a, b in pairs]))


@node("loss.perceptual")
def perceptual_loss(features: FeatureExtractor, image: Image, target: Image) -> Tensor:
    """The distance of pictures to their targets in a network's feature maps, a number (); 0 for equal pictures.

    Zhang et al. 2018, eq. 1, without the learned channel weights: at each position the channels are scaled to unit
    length, the squared differences are summed over channels and averaged over positions, then over the maps, including
    the pooled features.
    """
    if image.shape != target.shape:
        raise ValueError(f"pictures {tuple(image.shape)} and targets {tuple(target.shape)} must have one shape")
    with torch.no_grad():
        target_maps = features(target)
    return map_distances(features(image), target_maps).mean()


def map_distances(maps: Sequence[Tensor], other_maps: Sequence[Tensor]) -> Tensor:
    """The distances (maps, B) of two batches of pictures in each feature map of a network."""
    distances = []
    for one_map, other_map in zip(maps, other_maps, strict=True):
        a, b = (torch.nn.functional.normalize(positions(f), eps=1e-4) for f in (one_map, other_map))
        distances.append((a - b).square().sum(1).mean(1))
    return torch.stack(distances)


def positions(features: Tensor) -> Tensor:
    """Flatten feature maps (B, C, h, w) to (B, C, h · w) float32; pooled features (B, C) are one position."""
    return features.float().reshape(*features.shape[:2], -1)
