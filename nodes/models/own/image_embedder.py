"""The pooled embedding of pictures, which keeps content but not position."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.own.layers import Downsample, ResidualBlock, group_norm
from guidegraph.nodes.shape_checks import check_sides
from guidegraph.nodes.types import Condition


@dataclass(frozen=True)
class VisionConfig:
    """Hyper-parameters of an ImageModel.

    width: of the vector and of each token. tokens: number of tokens made from the pooled features; 0 for a vector only.
    multipliers: width of each resolution in units of `channels`, finest first. patch: patch × patch pixels are folded
    into channels before the first convolution.
    """

    width: int = 128
    tokens: int = 0
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 3)
    patch: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))


class ImageModel(nn.Module):
    """An `ImageEmbedder`: convolutions, the mean over all positions, and linear maps to a vector and to tokens.

    The tokens are linear in the pooled features, as in IP-Adapter (Ye et al. 2023, section 3.2.1), so they hold no
    further information. All are normalised like a text encoder's; the vector of no picture is zero.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(3 * config.patch**2, width, 3, padding=1),
        ]
        for multiplier in config.multipliers:
            layers += [ResidualBlock(width, multiplier * config.channels), Downsample(multiplier * config.channels)]
            width = multiplier * config.channels
        layers += [ResidualBlock(width, width), ResidualBlock(width, width), group_norm(width), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width, (1 + config.tokens) * config.width)

    def forward(self, image: Tensor) -> Condition:
        """A condition with a vector (B, width) and, where the model has them, tokens (B, tokens, width).

        Pictures (B, 3, H, W) are in [-1, 1]; their sides are multiples of `patch`.
        """
        check_sides(image, self.config.patch, "the image embedder")
        pooled = self.features(image.to(self.head.weight.dtype)).mean((2, 3))
        outputs = self.head(pooled).unflatten(1, (-1, self.config.width))
        outputs = F.layer_norm(outputs, (self.config.width,)).to(image.dtype)
        return Condition(vector=outputs[:, 0], tokens=outputs[:, 1:] if self.config.tokens else None)
