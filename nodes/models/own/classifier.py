"""The classifier of noisy samples: a U-Net's encoder half with attention pooling (Dhariwal & Nichol 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.own.layers import Attention, Downsample, ResidualBlock, Upsample, group_norm
from guidegraph.nodes.models.own.unet import UNetConfig, UNetTrunk
from guidegraph.nodes.shape_checks import check_sides


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


SLOPE = 0.2
SPREAD = 0.02
WIDEST = 8


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Hyper-parameters of a PatchDiscriminator.

    It has `layers` strided convolutions, each twice as wide as the last, up to 8 · channels.
    """

    channels: int = 32
    layers: int = 2


class PatchDiscriminator(nn.Module):
    """A `Discriminator`: 4 × 4 convolutions and leaky ReLUs; every logit sees one patch.

    With 2 layers a patch is 34 pixels wide, with 3 it is 70. Isola et al. use BatchNorm; this uses GroupNorm: real and
    generated pictures are judged in separate batches, and running statistics are not kept, which an interrupted step
    would leave changed.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        for number in range(1, config.layers + 1):
            wider = config.channels * min(2**number, WIDEST)
            stride = 2 if number < config.layers else 1
            layers += [nn.Conv2d(width, wider, 4, stride=stride, padding=1), group_norm(wider), nn.LeakyReLU(SLOPE)]
            width = wider
        layers.append(nn.Conv2d(width, 1, 4, padding=1))
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, SPREAD)
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 1, h, w) of pictures (B, 3, H, W) in [-1, 1]; positive for real.

        Raises ``ValueError`` for pictures with a side below 3 · 2^layers, which hold no complete patch.
        """
        smallest = 3 * 2**self.config.layers
        if min(image.shape[2:]) < smallest:
            raise ValueError(
                f"this discriminator takes pictures of {smallest} pixels a side or more; found {image.shape[2]} × "
                f"{image.shape[3]}: resize them, or make it with fewer layers"
            )
        logits: Tensor = self.layers(image)
        return logits


@dataclass(frozen=True)
class FeatureClassifierConfig:
    """Hyper-parameters of a FeatureClassifier. channels: of the features; width: of the layer between."""

    channels: int = 192
    classes: int = 76
    width: int = 192


class FeatureClassifier(nn.Module):
    """Logits of classes, in each cell of features by itself: a perceptron of one hidden layer."""

    def __init__(self, config: FeatureClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.network = nn.Sequential(
            group_norm(config.channels),
            nn.Conv2d(config.channels, config.width, 1),
            nn.SiLU(),
            nn.Conv2d(config.width, config.classes, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, classes, h, w) of features (B, channels, h, w), in their dtype.

        Raises ``ValueError`` for another number of channels.
        """
        if features.ndim != 4 or features.shape[1] != self.config.channels:
            raise ValueError(
                f"this classifier takes features (B, {self.config.channels}, h, w); found {tuple(features.shape)}: set "
                "'channels' of model.feature_classifier to those of the site"
            )
        weight: Tensor = next(self.parameters())
        logits: Tensor = self.network(features.to(weight.dtype))
        return logits.to(features.dtype)


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
