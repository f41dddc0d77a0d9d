"""The conditioner of latent diffusion's models of semantic maps (`SpatialRescaler`), under its released names."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.shape_checks import check_channels, check_sides
from guidegraph.nodes.types import Condition


class MapRescaler(nn.Module):
    """A `SemanticEmbedder`: shrinks a map `stages` times by a factor, then a 1 × 1 convolution maps its classes."""

    def __init__(
        self, classes: int, channels: int, *, stages: int, factor: float, mode: str, bias: bool = False
    ) -> None:
        super().__init__()
        self.classes, self.stages, self.factor, self.mode = classes, stages, factor, mode
        self.channel_mapper = nn.Conv2d(classes, channels, 1, bias=bias)

    def forward(self, semantic: Tensor) -> Condition:
        """The spatial condition (B, channels, h, w) of maps (B, classes, H, W), one-hot at the size of the picture.

        Raises ``ValueError`` for another number of classes, and for sides that do not shrink to whole cells.
        """
        check_channels(semantic, self.classes, "the model of maps")
        check_sides(semantic, round(self.factor**-self.stages), "the model of maps")
        h = semantic.to(self.channel_mapper.weight.dtype)
        for _ in range(self.stages):
            h = F.interpolate(h, scale_factor=self.factor, mode=self.mode)
        return Condition(spatial=self.channel_mapper(h))
