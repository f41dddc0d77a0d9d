"""Tensors that are named for the checker of links, with their axes.

``Tensor ⊃ Sample ⊃ {Image, Latent, Noise}`` and ``Tensor ⊃ {Score, Mask, SemanticMap, Label, Timesteps}``. For type
checkers they are all ``Tensor``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidegraph.graph.types import Tensor

if TYPE_CHECKING:
    Sample = Tensor
    Image = Tensor
    Latent = Tensor
    Noise = Tensor
    Score = Tensor
    Mask = Tensor
    SemanticMap = Tensor
    Label = Tensor
    Timesteps = Tensor
else:

    class Sample(Tensor):
        """A batch of pictures or latents: (B, C, H, W)."""

        axes = ("B", "C", "H", "W")

    class Image(Sample):
        """RGB pictures: (B, 3, H, W) in [-1, 1]."""

        axes = ("B", 3, "H", "W")

    class Latent(Sample):
        """Latents of an autoencoder: (B, C, h, w)."""

    class Noise(Sample):
        """Standard normal noise: (B, C, H, W)."""

    class Score(Tensor):
        """∇ₓ log p, in the shape of x."""

    class Mask(Tensor):
        """1 where something applies, 0 elsewhere: (B, 1, H, W)."""

        axes = ("B", 1, "H", "W")

    class SemanticMap(Tensor):
        """One-hot classes: (B, K, H, W)."""

        axes = ("B", "K", "H", "W")

    class Label(Tensor):
        """Class indices: (B), int64."""

        axes = ("B",)
        integer = True

    class Timesteps(Tensor):
        """Times on the schedule's own axis: (1) or (B), float32."""

        axes = ("B",)
