"""Nodes that encode pictures as latents and decode them."""

from __future__ import annotations

from guidegraph.graph.node import node
from guidegraph.nodes.types import Autoencoder, Image, Latent


@node("autoencoder.encode", batchable=("image",))
def encode(autoencoder: Autoencoder, image: Image) -> Latent:
    """The latent (B, C, h, w), of unit variance, of pictures (B, 3, H, W) in [-1, 1]."""
    return autoencoder.encode(image)


@node("autoencoder.decode", batchable=("latent",))
def decode(autoencoder: Autoencoder, latent: Latent) -> Image:
    """The pictures (B, 3, H, W) in [-1, 1] of latents (B, C, h, w) in the scale of `autoencoder.encode`."""
    return autoencoder.decode(latent).clamp(-1, 1)
