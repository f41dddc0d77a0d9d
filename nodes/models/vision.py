"""The pooled embedding of pictures: what is in them, not where."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.layers import Downsample, ResidualBlock, group_norm
from guidegraph.nodes.types import Condition


@dataclass(frozen=True)
class VisionConfig:
    """The shape of an ImageModel.

    width: of the embedding. multipliers: width of each resolution in units of `channels`, finest first. patch: patch ×
    patch pixels are folded into channels before the first convolution.
    """

    width: int = 128
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 3)
    patch: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))


class ImageModel(nn.Module):
    """An `ImageEmbedder`: convolutions, the mean over all positions, and a linear map, normalised.

    Trained with the denoiser that it conditions. The null condition is a vector of zeros, which no picture has.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(3 * config.patch**2, width, 3, padding=1),
        ]
        for level, multiplier in enumerate(config.multipliers):
            if level:
                layers.append(Downsample(width))
            layers.append(ResidualBlock(width, multiplier * config.channels))
            width = multiplier * config.channels
        self.features = nn.Sequential(*layers, ResidualBlock(width, width), group_norm(width), nn.SiLU())
        self.head = nn.Linear(width, config.width)

    def forward(self, image: Tensor) -> Condition:
        """A condition with a vector (B, width) of mean 0 and variance 1, of pictures (B, 3, H, W) in [-1, 1].

        The sides are multiples of `patch`.
        """
        h = self.features(image.to(self.head.weight.dtype))
        vector = self.head(h.mean((2, 3)))
        return Condition(vector=F.layer_norm(vector, (self.config.width,)).to(image.dtype))
