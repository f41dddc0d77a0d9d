"""The embedding of class labels, and of the null class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from guidegraph.nodes.types import Condition


@dataclass(frozen=True)
class LabelConfig:
    """The number of classes, and the width of each vector."""

    classes: int = 10
    width: int = 128


class LabelModel(nn.Module):
    """A `LabelEmbedder`: class indices to a Condition with a vector; the index `classes` is the null condition."""

    def __init__(self, config: LabelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.classes + 1, config.width)

    @property
    def classes(self) -> int:
        return self.config.classes

    def forward(self, labels: Tensor) -> Condition:
        """The condition of labels (B), int64 in 0 … classes; a vector (B, width)."""
        return Condition(vector=self.embedding(labels.to(self.embedding.weight.device)))
