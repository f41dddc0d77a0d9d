"""Diffusion transformers as a `Denoiser`."""

from __future__ import annotations

from guidegraph.nodes.models.own.denoiser import NetworkDenoiser
from guidegraph.nodes.models.transformers.dit import DiT, DiTConfig


class DiTDenoiser(NetworkDenoiser):
    """The `NetworkDenoiser` of a DiT."""

    network: DiT

    @property
    def config(self) -> DiTConfig:
        return self.network.config
