"""Builds a denoiser, and the embedder of its labels, from tensors under canonical names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.filling import build_filled
from guidegraph_families.networks.config import UNetShape
from guidegraph_families.networks.denoiser import ReleasedDenoiser, ReleasedLabels
from guidegraph_families.networks.unet import ReleasedUNet

LABELS = "label_emb.weight"


def build_denoiser(shape: UNetShape, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Build the frozen `denoiser` and, for a U-Net with classes, `label`, on the run's device and in its dtype.

    Raises one ``ValueError`` that names `source` and all keys that are missing, left over or of another shape.
    """
    parts: dict[str, Any] = {}
    weights = dict(tensors)
    if (classes := shape.classes) is not None:
        labels = {LABELS: weights.pop(LABELS)} if LABELS in weights else {}
        parts["label"] = build_filled(lambda: ReleasedLabels(classes, shape.embedding), labels, source)
    network = build_filled(lambda: ReleasedUNet(shape), weights, source)
    return parts | {"denoiser": ReleasedDenoiser(network).eval()}
