"""Diffusion transformers as a `Denoiser`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from guidegraph.nodes.models.networks.hooks import Hooks
from guidegraph.nodes.models.own.denoiser import NetworkDenoiser
from guidegraph.nodes.models.transformers.dit import DiT, DiTConfig
from guidegraph.nodes.models.transformers.mmdit import MMDiT, MMDiTConfig
from guidegraph.nodes.models.transformers.pixart import PixArt, PixArtConfig
from guidegraph.nodes.types import Condition, Prediction


class DiTDenoiser(NetworkDenoiser):
    """The `NetworkDenoiser` of a DiT."""

    network: DiT

    @property
    def config(self) -> DiTConfig:
        return self.network.config


class MMDiTDenoiser(NetworkDenoiser):
    """The `NetworkDenoiser` of an MMDiT; tokens of a text that its mask leaves out have no effect."""

    network: MMDiT

    @property
    def config(self) -> MMDiTConfig:
        return self.network.config

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ``ValueError`` also for a picture larger than the table of positions."""
        super().check_shape(shape)
        largest = self.config.side * self.config.patch
        if self.config.positions == "table" and (shape[2] > largest or shape[3] > largest):
            raise ValueError(
                f"this denoiser has positions for at most {largest} × {largest}; found x of shape {tuple(shape)}"
            )


class PixArtDenoiser(NetworkDenoiser):
    """The `NetworkDenoiser` of a PixArt, without its variance, which the released models did not learn.

    Tokens of a text that its mask leaves out have no effect.
    """

    network: PixArt

    @property
    def config(self) -> PixArtConfig:
        return self.network.config

    def forward(self, x: Tensor, t: Tensor, condition: Condition, hooks: Hooks | None = None) -> Prediction:
        """As of any `NetworkDenoiser`, with no variance."""
        return replace(super().forward(x, t, condition, hooks), variance=None)
