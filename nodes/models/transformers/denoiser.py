"""Diffusion transformers as a `Denoiser`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from guidegraph.nodes.checkpoints.filling import LayerRows
from guidegraph.nodes.checkpoints.lora_layers import denoiser_rows
from guidegraph.nodes.models.networks.hooks import Hooks
from guidegraph.nodes.models.own.unet import NetworkDenoiser, drop_full_mask
from guidegraph.nodes.models.transformers.dit import DiT, DiTConfig
from guidegraph.nodes.models.transformers.mmdit import MMDiT, MMDiTConfig
from guidegraph.nodes.types import Condition, Prediction


class TransformerDenoiser(NetworkDenoiser):
    """The `NetworkDenoiser` of a transformer.

    mixes_tokens: tokens of a text attend to each other outside of its sites, so that two texts cannot be kept apart.
    """

    mixes_tokens = False

    def adaptable_weights(self) -> dict[str, LayerRows]:
        """Its parameters, or rows of them, by the names of their layers in LoRA files; an exported graph keeps both."""
        return denoiser_rows(self.network)


class DiTDenoiser(TransformerDenoiser):
    """The `NetworkDenoiser` of a DiT."""

    network: DiT

    @property
    def config(self) -> DiTConfig:
        return self.network.config


class MMDiTDenoiser(TransformerDenoiser):
    """The `NetworkDenoiser` of an MMDiT; tokens that the mask of a text leaves out do not count."""

    network: MMDiT

    @property
    def config(self) -> MMDiTConfig:
        return self.network.config

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ``ValueError`` also for a picture larger than the table of positions, unless its size is traced."""
        super().check_shape(shape)
        if not all(isinstance(side, int) for side in shape):
            return
        largest = self.config.side * self.config.patch
        if self.config.positions == "table" and (shape[2] > largest or shape[3] > largest):
            raise ValueError(
                f"this denoiser has positions for at most {largest} × {largest}; found x of shape {tuple(shape)}"
            )

    def forward(self, x: Tensor, t: Tensor, condition: Condition, hooks: Hooks | None = None) -> Prediction:
        """As `NetworkDenoiser.forward`, without a mask that leaves nothing out."""
        return super().forward(x, t, drop_full_mask(condition), hooks)
