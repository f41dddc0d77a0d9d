"""The patch discriminator: how real each patch of a picture looks (Isola et al. 2017, section 3.2.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from guidegraph.nodes.models.own.layers import group_norm

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
