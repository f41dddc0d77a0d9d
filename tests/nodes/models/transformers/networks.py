"""Small transformers with random weights, none of them zero, and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from guidegraph.nodes.models.transformers.denoiser import DiTDenoiser, MMDiTDenoiser
from guidegraph.nodes.models.transformers.dit import DiT, DiTConfig
from guidegraph.nodes.models.transformers.mmdit import MMDiT, MMDiTConfig
from guidegraph.nodes.types import Condition
from guidegraph_families.flux.network import Flux, FluxConfig, FluxDenoiser
from guidegraph_families.z_image.network import ZImage, ZImageConfig, ZImageDenoiser

WIDTH, DEPTH, HEADS, SIDE, BATCH = 16, 3, 2, 8, 2
TOKENS, TOKEN_WIDTH, VECTOR_WIDTH = 5, 12, 6


def randomise(module: nn.Module, seed: int = 0) -> Any:
    """The frozen module with weights that let every branch have an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def dit(**settings: Any) -> Any:
    """A DiT of 2 × 2 patches."""
    config = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "hidden": 32, "grid": SIDE // 2, **settings}
    return randomise(DiTDenoiser(DiT(DiTConfig(**config))))


def labelled(height: int = SIDE, width: int = SIDE, batch: int = BATCH) -> tuple[Tensor, Tensor, Condition]:
    """x, t and a condition with a vector."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, height, width, generator=generator)
    t = torch.linspace(3.0, 700.0, batch)
    return x, t, Condition(vector=torch.randn(batch, WIDTH, generator=generator))


def mmdit(**settings: Any) -> Any:
    """An MMDiT of 2 × 2 patches."""
    shape = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "hidden": 32, "side": 8}
    config = {**shape, "context_dim": TOKEN_WIDTH, "vector_dim": VECTOR_WIDTH, **settings}
    return randomise(MMDiTDenoiser(MMDiT(MMDiTConfig(**config))))


def flux(**settings: Any) -> Any:
    """A Flux with two blocks of two streams and one of one, which is told no guidance scale."""
    shape = {"in_channels": 4, "width": WIDTH, "depth": DEPTH - 1, "single_depth": 1, "heads": HEADS, "hidden": 32}
    ports = {"context_dim": TOKEN_WIDTH, "vector_dim": VECTOR_WIDTH, "axes": (2, 2, 4), "guidance": False}
    return randomise(FluxDenoiser(Flux(FluxConfig(**{**shape, **ports, **settings}))))


def z_image(**settings: Any) -> Any:
    """A Z-Image with one block for either stream alone."""
    shape = {"in_channels": 4, "width": WIDTH, "depth": DEPTH, "refiners": 1, "heads": HEADS, "hidden": 32}
    ports = {"context_dim": TOKEN_WIDTH, "axes": (2, 2, 4)}
    return randomise(ZImageDenoiser(ZImage(ZImageConfig(**{**shape, **ports, **settings}))))


def captioned(height: int = SIDE, width: int = SIDE, batch: int = BATCH) -> tuple[Tensor, Tensor, Condition]:
    """x, t and a condition with a vector and tokens, of which the last two of the last sample do not count."""
    x, t, _ = labelled(height, width, batch)
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(batch, TOKENS, dtype=torch.bool)
    mask[-1, -2:] = False
    tokens = torch.randn(batch, TOKENS, TOKEN_WIDTH, generator=generator)
    return x, t, Condition(vector=torch.randn(batch, VECTOR_WIDTH, generator=generator), tokens=tokens, mask=mask)
