"""Nodes that encode pictures as latents, decode them, and measure the scale of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge

from guidegraph.graph.node import node
from guidegraph.nodes.data.batches import SceneBatch, SceneBatch128
from guidegraph.nodes.data.folders.batches import FolderBatch
from guidegraph.nodes.types import Autoencoder, Image, Latent


@node("autoencoder.encode", batchable=("image",))
def encode(autoencoder: Autoencoder, image: Image) -> Latent:
    """The latent (B, C, h, w), of unit variance, of pictures (B, 3, H, W) in [-1, 1]."""
    return autoencoder.encode(image)


@node("autoencoder.decode", batchable=("latent",))
def decode(autoencoder: Autoencoder, latent: Latent) -> Image:
    """The pictures (B, 3, H, W) in [-1, 1] of latents (B, C, h, w) in the scale of `autoencoder.encode`."""
    return autoencoder.decode(latent).clamp(-1, 1)


@node("autoencoder.measure_scale")
def measure_scale(
    autoencoder: Autoencoder,
    batches: Sequence[SceneBatch] | Sequence[SceneBatch128] | Sequence[FolderBatch],
    *,
    count: Annotated[int, Ge(1)] = 16,
) -> Autoencoder:
    """A copy of an autoencoder with a scale that gives latents unit variance, measured on the first `count` batches."""
    import copy

    import torch

    measured: Any = copy.deepcopy(autoencoder)
    with torch.no_grad():
        measured.scale.fill_(1.0)
        device = measured.scale.device
        latents = [measured.encode(batches[i].image.to(device)).float() for i in range(min(count, len(batches)))]
        measured.scale.fill_(1 / torch.cat(latents).std())
    result: Autoencoder = measured
    return result
