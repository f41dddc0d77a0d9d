"""The segmenter: the class of every pixel of a picture. It shares no weights with the generator that it judges."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.own.layers import Downsample, ResidualBlock, Upsample, group_norm
from guidegraph.nodes.shape_checks import check_sides


@dataclass(frozen=True)
class SegmenterConfig:
    """Hyper-parameters of a SegmentationNet.

    multipliers: width of each resolution in units of `channels`, finest first. patch: patch × patch pixels are folded
    into channels before the first convolution, and unfolded after the last.
    """

    classes: int = 23
    channels: int = 24
    multipliers: tuple[int, ...] = (1, 2, 3)
    patch: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))

    @property
    def factor(self) -> int:
        """The sides of pictures must be multiples of this."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))


class SegmentationNet(nn.Module):
    """A `Segmenter`: a convolutional encoder and decoder with skips (Ronneberger et al. 2015)."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.stem = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(ResidualBlock(wide, wide) for wide in widths[:-1])
        self.downsample = nn.ModuleList(nn.Sequential(Downsample(a), nn.Conv2d(a, b, 1)) for a, b in steps)
        self.middle = nn.Sequential(ResidualBlock(widths[-1], widths[-1]), ResidualBlock(widths[-1], widths[-1]))
        self.upsample = nn.ModuleList(nn.Sequential(nn.Conv2d(b, a, 1), Upsample(a)) for a, b in reversed(steps))
        self.up = nn.ModuleList(ResidualBlock(2 * wide, wide) for wide in reversed(widths[:-1]))
        self.norm = group_norm(widths[0])
        self.head = nn.Conv2d(widths[0], config.classes * config.patch**2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes, H, W), in the picture's dtype, of pictures (B, 3, H, W) in [-1, 1].

        Raises ``ValueError`` if a side is not a multiple of `factor`.
        """
        check_sides(image, self.config.factor, "the segmenter")
        h = self.stem(F.pixel_unshuffle(image.to(self.stem.weight.dtype), self.config.patch))
        skips = []
        for block, shrink in zip(self.down, self.downsample, strict=True):
            h = block(h)
            skips.append(h)
            h = shrink(h)
        h = self.middle(h)
        for grow, block in zip(self.upsample, self.up, strict=True):
            h = block(torch.cat([grow(h), skips.pop()], dim=1))
        logits = F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.config.patch)
        return logits.to(image.dtype)
