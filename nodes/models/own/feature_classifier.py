"""The classifier of a denoiser's features: the class in each cell of a feature map. Only a training uses it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from guidegraph.nodes.models.own.layers import group_norm


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
