"""The detector that judges pictures: objects, sky and ground. It shares no weights with the generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.own.layers import Downsample, ResidualBlock, group_norm
from guidegraph.nodes.shape_checks import check_sides


@dataclass(frozen=True)
class DetectorConfig:
    """Hyper-parameters of a Detector: `objects` independent labels, then one choice of `skies` and one of `grounds`."""

    objects: int = 16
    skies: int = 3
    grounds: int = 4
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))

    @property
    def classes(self) -> int:
        return self.objects + self.skies + self.grounds


class Detector(nn.Module):
    """A small convolutional network that scores every class at every position.

    An object's logit is the largest over positions (it may be anywhere); the logit of a sky or a ground is
    the mean (it fills the picture).
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1)]
        for multiplier in config.multipliers:
            out = multiplier * config.channels
            layers += [ResidualBlock(width, out), Downsample(out)]
            width = out
        layers += [ResidualBlock(width, width), ResidualBlock(width, width), group_norm(width), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, config.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, objects + skies + grounds) of pictures (B, 3, 64, 64) in [-1, 1]."""
        check_sides(image, 2, "the detector")
        scores = self.head(self.features(image)).flatten(2)
        objects, background = scores[:, : self.config.objects], scores[:, self.config.objects :]
        return torch.cat([objects.amax(2), background.mean(2)], dim=1)

    def penultimate(self, image: Tensor) -> Tensor:
        """The input of the last layer, averaged over positions (B, D)."""
        check_sides(image, 2, "the detector")
        features: Tensor = self.features(image)
        return features.mean((2, 3))


def detector_loss(logits: Tensor, labels: Tensor, config: DetectorConfig) -> Tensor:
    """Binary cross-entropy of the objects plus cross-entropy of sky and ground; labels (B, K) in {0, 1}."""
    objects, skies = config.objects, config.objects + config.skies
    present = F.binary_cross_entropy_with_logits(logits[:, :objects], labels[:, :objects])
    sky = F.cross_entropy(logits[:, objects:skies], labels[:, objects:skies].argmax(1))
    ground = F.cross_entropy(logits[:, skies:], labels[:, skies:].argmax(1))
    return 4 * present + 0.5 * (sky + ground)
