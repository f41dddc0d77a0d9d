"""The artworks of objects, from the packed file, and cutouts of them in any size and colour.

Recolour artwork in Oklab, a perceptual space: lightness keeps its order, hue and chroma come from a colour.

Oklab: Ottosson 2020, "A perceptual color space for image processing", with its published matrices.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph_scenes.scene_sprites import data_file
from guidegraph_scenes.scenes128.vocabulary import NAMES, NATURAL

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


Floats = NDArray[np.float64]

TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


class Tint(NamedTuple):
    """A colour in Oklch: the lightness of an object's body, its chroma and its hue in degrees."""

    lightness: float
    chroma: float
    hue: float


TINTS = (
    Tint(0.58, 0.215, 27),  # red
    Tint(0.73, 0.170, 58),  # orange
    Tint(0.88, 0.175, 98),  # yellow
    Tint(0.64, 0.175, 143),  # green
    Tint(0.56, 0.180, 258),  # blue
    Tint(0.52, 0.185, 306),  # purple
    Tint(0.78, 0.140, 355),  # pink
    Tint(0.43, 0.075, 55),  # brown
    Tint(0.62, 0.0, 0),  # grey
    Tint(0.95, 0.0, 0),  # white
    Tint(0.25, 0.0, 0),  # black
)
"""The tint of each of `vocabulary.COLOURS`."""
BLACK = 10
SHADING = 0.6
"""How much of the artwork's contrast around its body's lightness stays."""
DARK_END, LIGHT_END = 0.16, 0.985
"""Lightness of black and of white parts of the artwork, whatever the colour."""
WHITE_BODY = 0.84
"""Lightness from which a body is white, so that its white is recoloured and not kept."""


def to_oklab(rgb: Floats) -> Floats:
    """sRGB (…, 3) in [0, 255] to Oklab (…, 3): lightness in [0, 1], and two opponent axes."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ TO_LMS.T) @ TO_LAB.T)


def from_oklab(lab: Floats) -> Floats:
    """Oklab (…, 3) to sRGB (…, 3) in [0, 255]. Colours outside sRGB lose chroma until they fit."""
    scale = np.ones(lab.shape[:-1])
    for _ in range(12):
        linear = _to_linear(lab, scale)
        outside = (linear < -1e-4).any(-1) | (linear > 1 + 1e-4).any(-1)
        if not outside.any():
            break
        scale = np.where(outside, 0.9 * scale, scale)
    linear = np.clip(_to_linear(lab, scale), 0, 1)
    value = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(value * 255)


def _to_linear(lab: Floats, scale: Floats) -> Floats:
    scaled = lab * np.stack([np.ones_like(scale), scale, scale], -1)
    return np.asarray(((scaled @ np.linalg.inv(TO_LAB).T) ** 3) @ np.linalg.inv(TO_LMS).T)


def body_lightness(lightness: Floats, weights: Floats) -> float:
    """The median lightness of an artwork's colours (C), weighted by their areas (C).

    Outlines and pupils do not count: colours darker than 0.3 are left out unless most of the artwork is that dark.
    """
    bright = np.where(lightness > 0.3, weights, 0)
    counted = bright if bright.sum() > 0.3 * weights.sum() else weights
    order = np.argsort(lightness, kind="stable")
    share = np.cumsum(counted[order]) / counted.sum()
    return float(lightness[order][np.searchsorted(share, 0.5)])


def recolour(palette: NDArray[np.uint8], weights: Floats, colour: int) -> NDArray[np.uint8]:
    """The palette (C, 3) of an artwork in another colour; weights (C) are the areas of its colours.

    Lightness is mapped piecewise linearly, so that black stays dark, the body has the tint's lightness, and white stays
    light unless it is the body. Chroma fades towards both ends, so that eyes, teeth and outlines stay what they are.
    """
    tint = TINTS[colour]
    lightness = to_oklab(palette.astype(np.float64))[:, 0]
    body = min(max(body_lightness(lightness, weights), 0.2), 0.97)
    low = 0.1 if colour == BLACK else tint.lightness - SHADING * (tint.lightness - DARK_END)
    top = 0.6 if colour == BLACK else LIGHT_END
    if body > WHITE_BODY:
        top = tint.lightness + 0.25 * (top - tint.lightness)
    high = tint.lightness + SHADING * (top - tint.lightness)
    knots = [0.0, 0.45 * body, body, body + 0.6 * (1 - body), 1.0]
    mapped = np.interp(lightness, knots, [min(0.1, low), low, tint.lightness, high, top])
    fade = np.interp(mapped, [0.1, 0.3, 0.93, 0.985], [0.15, 1.0, 1.0, 0.0])
    angle = math.radians(tint.hue)
    chroma = tint.chroma * fade
    lab = np.stack([mapped, chroma * math.cos(angle), chroma * math.sin(angle)], -1)
    return np.clip(np.rint(from_oklab(lab)), 0, 255).astype(np.uint8)
