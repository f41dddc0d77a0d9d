"""The artworks of objects, from the packed file, and cutouts of them in any size and colour."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.data.scene_sprites import data_file
from guidegraph.nodes.data.scenes128.recolour import recolour
from guidegraph.nodes.data.scenes128.vocabulary import NAMES, NATURAL

ARTWORKS = 2
"""Artworks of each object; artwork a of object o is number 2 · o + a in the file."""


class Artwork(NamedTuple):
    """Packed artworks: pixels (S, 80, 80) index palette (S, C, 3); alpha (S, 80, 80); sides (S, 2): height, width."""

    pixels: NDArray[np.uint8]
    palette: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    sides: NDArray[np.uint8]


class ScaledArtwork(NamedTuple):
    """An artwork scaled for pasting: premultiplied colour (h, w, 3) in [0, 255], alpha (h, w, 1) in [0, 1], float32."""

    colour: NDArray[np.float32]
    alpha: NDArray[np.float32]


@lru_cache(maxsize=1)
def load_artwork() -> Artwork:
    """Load the artworks of all objects. Raises ``ValueError`` if they are of another vocabulary."""
    with np.load(data_file("artwork.npz"), allow_pickle=False) as packed:
        names = tuple(str(name) for name in packed["names"])
        if names != NAMES:
            raise ValueError(f"artwork.npz holds {', '.join(names)}; the scenes' objects are {', '.join(NAMES)}")
        return Artwork(*(packed[field] for field in Artwork._fields))


def sides_of(sprite: int, longer: int) -> tuple[int, int]:
    """Height and width in pixels of an artwork whose longer side is `longer`."""
    height, width = (int(side) for side in load_artwork().sides[sprite])
    scale = longer / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


@lru_cache(maxsize=4096)
def palette_of(sprite: int, colour: int) -> NDArray[np.uint8]:
    """The palette (C, 3) of an artwork in a colour, or in its own for `NATURAL`."""
    artwork = load_artwork()
    palette: NDArray[np.uint8] = artwork.palette[sprite]
    if colour == NATURAL:
        return palette
    opaque = artwork.alpha[sprite] > 127
    areas = np.bincount(artwork.pixels[sprite][opaque], minlength=len(palette)).astype(np.float64)
    return recolour(palette, areas, colour)


@lru_cache(maxsize=4096)
def cut_out(sprite: int, colour: int, longer: int) -> ScaledArtwork:
    """Scale an artwork in a colour so that its longer side is `longer` pixels.

    Pillow premultiplies colours while it scales, so that edges do not darken.
    """
    from PIL import Image

    artwork = load_artwork()
    height, width = artwork.sides[sprite]
    pixels = palette_of(sprite, colour)[artwork.pixels[sprite, :height, :width]]
    full = np.concatenate([pixels, artwork.alpha[sprite, :height, :width, None]], -1)
    image = Image.fromarray(full).resize(sides_of(sprite, longer)[::-1], Image.Resampling.LANCZOS)
    scaled = np.array(image, dtype=np.float32)
    alpha = np.ascontiguousarray(scaled[..., 3:] / np.float32(255))
    return ScaledArtwork(np.ascontiguousarray(scaled[..., :3] * alpha), alpha)


@lru_cache(maxsize=1024)
def mask_of(sprite: int, longer: int) -> NDArray[np.bool_]:
    """The opaque pixels (h, w) of an artwork whose longer side is `longer`."""
    return np.asarray(cut_out(sprite, NATURAL, longer).alpha[..., 0] >= 0.5)
