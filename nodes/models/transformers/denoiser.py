"""Diffusion transformers as a `Denoiser`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from guidegraph.nodes.checkpoints.filling import LayerRows
from guidegraph.nodes.checkpoints.lora_layers import denoiser_rows
from guidegraph.nodes.guidance.hooks import Rule, Site
from guidegraph.nodes.models.networks.hooks import Hooks
from guidegraph.nodes.models.own.unet import NetworkDenoiser, drop_full_mask
from guidegraph.nodes.models.transformers.dit import DiT, DiTConfig
from guidegraph.nodes.models.transformers.flux import Flux, FluxConfig
from guidegraph.nodes.models.transformers.mmdit import MMDiT, MMDiTConfig
from guidegraph.nodes.models.transformers.pixart import PixArt, PixArtConfig
from guidegraph.nodes.models.transformers.z_image import ZImage, ZImageConfig
from guidegraph.nodes.shape_checks import expand_to_batch
from guidegraph.nodes.types import Condition, Prediction, Scale


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


class FluxDenoiser(TransformerDenoiser):
    """The `NetworkDenoiser` of a Flux; tokens that the mask of a text leaves out do not count.

    guidance: the scale that a distilled network is told, one number or a tensor (1) or (B).
    """

    network: Flux

    def __init__(
        self, network: nn.Module, rules: Mapping[Site, Rule] | None = None, guidance: Scale | None = None
    ) -> None:
        super().__init__(network, rules)
        self.guidance = guidance

    @property
    def config(self) -> FluxConfig:
        return self.network.config

    def with_guidance(self, scale: Scale) -> Self:
        """A denoiser with the same network, told another scale; itself if the network is told none."""
        if not self.config.guidance:
            return self
        copied = self._copy_with(self.hooks.rules)
        copied.guidance = scale
        return copied

    def _copy_with(self, rules: Mapping[Site, Rule]) -> Self:
        copied = super()._copy_with(rules)
        copied.guidance = self.guidance
        return copied

    def extra_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """The guidance scale of each sample. Raises ``ValueError`` if a distilled network is told none."""
        if not self.config.guidance:
            return {}
        if self.guidance is None:
            raise ValueError(
                "this denoiser was distilled from one with guidance and must be told a scale: use "
                "denoiser.predict_distilled, or wire it through denoiser.distilled"
            )
        scale = torch.as_tensor(self.guidance, dtype=torch.float32, device=x.device)
        return {"guidance": expand_to_batch(scale if scale.ndim else scale[None], x.shape[0], "the guidance scale")}


class ZImageDenoiser(TransformerDenoiser):
    """The `NetworkDenoiser` of a Z-Image; tokens that the mask of a text leaves out do not count."""

    network: ZImage
    mixes_tokens = True

    @property
    def config(self) -> ZImageConfig:
        return self.network.config


class PixArtDenoiser(TransformerDenoiser):
    """The `NetworkDenoiser` of a PixArt, without its variance, which the released models did not learn.

    Tokens that the mask of a text leaves out do not count.
    """

    network: PixArt

    @property
    def config(self) -> PixArtConfig:
        return self.network.config

    def forward(self, x: Tensor, t: Tensor, condition: Condition, hooks: Hooks | None = None) -> Prediction:
        """As of any `NetworkDenoiser`, with no variance."""
        return replace(super().forward(x, t, condition, hooks), variance=None)
