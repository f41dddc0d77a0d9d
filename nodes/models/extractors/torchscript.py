"""A TorchScript file as a feature extractor."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from guidegraph.nodes.models.extractors.picture_range import to_picture_range


class ScriptedFeatures(nn.Module):
    """A `FeatureExtractor`: pictures, converted to the network's range and size, to (B, D) float32."""

    def __init__(self, network: nn.Module, name: str, range: str, size: int | None, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.name, self.range, self.size, self.arguments = name, range, size, arguments

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """The features of pictures (B, 3, H, W) in [-1, 1]. Raises ``ValueError`` if the network does not fit."""
        x = self.prepare_pictures(image)
        try:
            features = self.network(x, **self.arguments)
        except Exception as error:  # of any kind; its text has many lines
            (*_, last) = str(error).strip().splitlines() or [""]
            raise ValueError(
                f"'{self.name}' failed on {x.dtype} pictures of shape {tuple(x.shape)}: {last.strip()}. Look at "
                "`range`, `size` and `arguments`"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[0] != image.shape[0]:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"'{self.name}' must give features (B, D), one row for each of {len(x)}; found {shape}")
        return (features.float(),)

    def prepare_pictures(self, image: Tensor) -> Tensor:
        return to_picture_range(image, self.range, self.size)
