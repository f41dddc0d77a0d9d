"""Similarity of pairs of pictures: of their structure, and of their features in a trained network."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from guidegraph.graph.node import node
from guidegraph.nodes.metrics.features import map_distances
from guidegraph.nodes.metrics.metrics import Mean, mean
from guidegraph.nodes.shapes import check_floats
from guidegraph.nodes.types import FeatureExtractor, Image


@node("metric.ssim", extras={"torchmetrics": "metrics"})
def ssim(image: Image, reference: Image, *, sigma: Annotated[float, Gt(0)] = 1.5) -> Mean:
    """Structural similarity (Wang et al. 2004, eq. 13) of pictures (B, 3, H, W) in [-1, 1], averaged over the pictures.

    From −1 to 1; equal pictures give 1. Computed by torchmetrics on [0, 1], channel by channel, in Gaussian windows of
    standard deviation `sigma` pixels with K₁ = 0.01 and K₂ = 0.03; pictures are mirrored at the border.
    Raises ``ValueError`` if torchmetrics is not installed (the extra `metrics`), and for pictures smaller than a
    window.
    """
    import torch

    if image.shape != reference.shape:
        raise ValueError(f"pictures of shapes {tuple(image.shape)} and {tuple(reference.shape)} cannot be compared")
    check_floats(image, reference)
    reach = int(3.5 * sigma + 0.5)
    if min(image.shape[2:]) <= reach:
        raise ValueError(f"windows of {2 * reach + 1} pixels need sides above {reach}; found {tuple(image.shape[2:])}")
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise ValueError(
            "SSIM is computed by torchmetrics, which is not installed: pip install 'guidegraph[metrics]'"
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
    import torch

    if image.shape != reference.shape:
        raise ValueError(f"pictures of shapes {tuple(image.shape)} and {tuple(reference.shape)} cannot be compared")
    check_floats(image, reference)
    pairs = zip(image.split(chunk), reference.to(image.device).split(chunk), strict=True)
    with torch.no_grad():
        return mean(torch.cat([map_distances(extractor(a), extractor(b)).mean(0) for a, b in pairs]))
