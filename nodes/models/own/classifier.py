"""The classifier of noisy samples: a U-Net's encoder half with attention pooling (Dhariwal & Nichol 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.own.layers import Attention, group_norm
from guidegraph.nodes.models.own.unet import UNetConfig, UNetTrunk


@dataclass(frozen=True)
class ClassifierConfig:
    """Hyper-parameters of a NoisyClassifier of samples (B, in_channels, size, size).

    size is a multiple of patch · 2^(levels − 1). The other settings are as in UNetConfig.
    """

    classes: int = 10
    size: int = 32
    in_channels: int = 1
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (2,)
    heads: int = 4
    patch: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(self.attention))
        factor = self.patch * 2 ** (len(self.multipliers) - 1)
        if self.size % factor:
            raise ValueError(f"the size of this classifier's samples must be a multiple of {factor}; found {self.size}")

    @property
    def cells(self) -> int:
        """Number of positions at the coarsest resolution."""
        return int((self.size // self.patch // 2 ** (len(self.multipliers) - 1)) ** 2)

    def trunk(self) -> UNetConfig:
        return UNetConfig(
            in_channels=self.in_channels,
            out_channels=self.in_channels,
            channels=self.channels,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=self.attention,
            heads=self.heads,
            patch=self.patch,
        )


class AttentionPool(nn.Module):
    """Features (B, C, h, w) to (B, C): their mean attends to every position (Radford et al. 2021, section 2.3)."""

    def __init__(self, channels: int, cells: int, heads: int) -> None:
        super().__init__()
        self.position = nn.Parameter(channels**-0.5 * torch.randn(cells + 1, channels))
        self.attention = Attention(channels, channels, heads)
        nn.init.xavier_uniform_(self.attention.out.weight)

    def forward(self, h: Tensor) -> Tensor:
        cells = h.flatten(2).transpose(1, 2)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], dim=1) + self.position
        pooled: Tensor = self.attention(tokens[:, :1], tokens)
        return pooled[:, 0]


class NoisyClassifier(nn.Module):
    """A `Classifier`: log p(y | x_t) up to a constant, at any noise level t."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = UNetTrunk(config.trunk())
        self.norm = group_norm(self.trunk.width)
        self.pool = AttentionPool(self.trunk.width, config.cells, config.heads)
        self.head = nn.Linear(self.trunk.width, config.classes)

    @property
    def classes(self) -> int:
        return self.config.classes

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits (B, classes) in x's dtype for x (B, C, size, size) at t (B) on the schedule's axis."""
        logits: Tensor = self.head(self.penultimate(x, t))
        return logits.to(x.dtype)

    def penultimate(self, x: Tensor, t: Tensor) -> Tensor:
        """The input (B, D) of the last layer, for the same x and t."""
        config = self.config
        if x.shape[1:] != (config.in_channels, config.size, config.size):
            raise ValueError(
                f"this classifier takes samples (B, {config.in_channels}, {config.size}, {config.size}); found shape "
                f"{tuple(x.shape)}"
            )
        h, _ = self.trunk.encode(x.to(self.head.weight.dtype), self.trunk.embed(t, None))
        pooled: Tensor = self.pool(F.silu(self.norm(h)))
        return pooled
