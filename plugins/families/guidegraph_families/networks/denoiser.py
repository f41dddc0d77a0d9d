"""A released U-Net as a `Denoiser`, and its embedding of class labels as a `LabelEmbedder`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from guidegraph.nodes.checkpoints.lora_layers import denoiser_layers
from guidegraph.nodes.models.networks.embeddings import embed_sizes
from guidegraph.nodes.models.networks.hooks import Hooks
from guidegraph.nodes.models.own.unet import NetworkDenoiser, drop_full_mask
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition, Prediction
from guidegraph_families.networks.config import UNetShape
from guidegraph_families.networks.unet import ReleasedUNet


class ReleasedDenoiser(NetworkDenoiser):
    """The `NetworkDenoiser` of a ReleasedUNet.

    A class-conditional network takes the vector of its own label embedder, and adds it to the embedding of t. An
    upsampler takes the low-resolution picture at the size of x as the spatial condition. SDXL takes the pooled text
    with the embedding of the picture's sizes, or without it, and then adds the sizes of the picture that it draws.
    """

    network: ReleasedUNet

    @property
    def config(self) -> UNetShape:
        return self.network.shape

    def adaptable_weights(self) -> dict[str, str]:
        """Names of its parameters by the names of their layers in LoRA files; an exported graph keeps both."""
        return denoiser_layers(self.network)

    def forward(self, x: Tensor, t: Tensor, condition: Condition, hooks: Hooks | None = None) -> Prediction:
        """As `NetworkDenoiser.forward`. Raises ``ValueError`` also if a class-conditional network gets no vector."""
        if self.config.classes is not None and condition.vector is None:
            raise ValueError(
                f"this denoiser was trained with {self.config.classes} classes and has no null class: wire the "
                "condition of label.embed, with the checkpoint's label output and a label"
            )
        return super().forward(x, t, self._tell_size(x, drop_full_mask(condition)), hooks)

    def _tell_size(self, x: Tensor, condition: Condition) -> Condition:
        """The condition with SDXL's six sizes, unless its vector has them (Podell et al. 2023, section 2.2).

        The picture was not cropped, and its original and target size are the size of x in pixels, as in diffusers'
        pipeline by default.
        """
        vector, size_width = condition.vector, self.config.size_width
        if vector is None or size_width is None or vector.shape[1] + 6 * size_width != self.config.adm_channels:
            return condition
        height, width = (
            torch.full((1,), side * self.config.pixels, dtype=torch.float32, device=x.device) for side in x.shape[2:]
        )
        corner = torch.zeros(2, dtype=torch.float32, device=x.device)
        sizes = embed_sizes(torch.cat([height, width, corner, height, width]), size_width)
        return replace(condition, vector=torch.cat([vector, sizes.to(vector).expand(x.shape[0], -1)], dim=1))


class ReleasedLabels(nn.Module):
    """A `LabelEmbedder` of a network trained with K classes and no null class: one vector for each label.

    The network adds the vector to its embedding of t.
    """

    has_null = False

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.label_emb = nn.Embedding(classes, width)

    @property
    def classes(self) -> int:
        return self.label_emb.num_embeddings

    def forward(self, labels: Tensor) -> Condition:
        """The condition of labels (B), int64 in 0 … classes − 1. Raises ``ValueError`` for the null class."""
        if has_values(labels) and labels.numel() and int(labels.max()) >= self.classes:
            raise ValueError(
                f"this model knows {self.classes} classes and was trained without a null class: give labels of "
                f"0 … {self.classes - 1}"
            )
        return Condition(vector=self.label_emb(labels.to(self.label_emb.weight.device)))
