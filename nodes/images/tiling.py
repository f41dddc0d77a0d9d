"""An autoencoder that decodes large pictures in overlapping tiles and blends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Autoencoder


@node("autoencoder.tiled")
def tile_decoder(
    autoencoder: Autoencoder, *, tile: Annotated[int, Ge(2)] = 64, overlap: Annotated[int, Ge(0)] = 16
) -> Autoencoder:
    """The autoencoder with a `decode` in tiles of `tile` × `tile` latent cells, in bounded memory.

    Neighbouring tiles overlap by at least `overlap` cells, over which one fades linearly into the other. A latent that
    fits into one tile is decoded at once. Normalisation and attention see only their tile, so the result differs
    slightly from decoding at once. `encode` does not change, and an exported graph, whose sizes are dynamic, decodes at
    once.
    Raises an error unless `overlap` is smaller than `tile`.
    """
    if overlap >= tile:
        raise ValueError(f"tiles of {tile} latent cells cannot overlap by {overlap}: give an overlap below the tile")
    return TiledAutoencoder(autoencoder, tile, overlap)


@dataclass(frozen=True)
class TiledAutoencoder:
    """An `Autoencoder` that decodes in tiles."""

    autoencoder: Autoencoder
    tile: int
    overlap: int

    def encode(self, image: Tensor) -> Tensor:
        """The latent of pictures (B, 3, H, W), at once."""
        return self.autoencoder.encode(image)

    def computes_in_pieces(self, shape: Sequence[int]) -> bool:
        """Whether a latent (B, C, h, w) of a shape does not fit into one tile."""
        return any(size > self.tile for size in shape[2:])

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of latents (B, C, h, w): the mean of tiles, weighted by the distance to their edges."""
        if not has_values(latent) or not self.computes_in_pieces(latent.shape):
            return self.autoencoder.decode(latent)
        rows, columns = (tile_starts(size, self.tile, self.overlap) for size in latent.shape[2:])
        total = weights = None
        for top in rows:
            for left in columns:
                decoded = self.autoencoder.decode(latent[:, :, top : top + self.tile, left : left + self.tile])
                factor = decoded.shape[2] // min(self.tile, latent.shape[2])
                if total is None or weights is None:
                    size = [side * factor for side in latent.shape[2:]]
                    wide = torch.promote_types(decoded.dtype, torch.float32)
                    total = decoded.new_zeros((*decoded.shape[:2], *size), dtype=wide)
                    weights = decoded.new_zeros(size, dtype=wide)
                height, width = decoded.shape[2:]
                fade = edge_ramp(height, self.overlap * factor).to(total)[:, None] * edge_ramp(
                    width, self.overlap * factor
                ).to(total)
                area = (slice(top * factor, top * factor + height), slice(left * factor, left * factor + width))
                total[:, :, area[0], area[1]] += decoded * fade
                weights[area] += fade
        assert total is not None
        assert weights is not None
        return (total / weights).to(latent.dtype)


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """The starts of the fewest tiles that cover an axis, spread evenly; the last tile ends with the axis."""
    if size <= tile:
        return [0]
    count = -(-(size - overlap) // (tile - overlap))
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def edge_ramp(size: int, overlap: int) -> Tensor:
    """Weights (size), float32, that rise from either end over `overlap` pixels and are 1 between; never 0."""
    from_edge = torch.arange(size, dtype=torch.float32) + 0.5
    return torch.minimum(from_edge, from_edge.flip(0)).div(max(overlap, 1)).clamp(max=1.0)
