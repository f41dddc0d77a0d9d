"""Draw a scene: the background, then the objects from back to front with their shadows, then the weather."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.data.scenes128.artwork import ScaledArtwork, cut_out
from guidegraph.nodes.data.scenes128.background import blend, paint_background, paint_weather
from guidegraph.nodes.data.scenes128.content import Content
from guidegraph.nodes.data.scenes128.draws import Draws
from guidegraph.nodes.data.scenes128.layout import Layout, PlacedObject
from guidegraph.nodes.data.scenes128.vocabulary import GROUNDS

Floats = NDArray[np.float32]
OWN_LIGHT = 0.55
"""The part of full light that an object keeps at night, so that its colour can be told."""
SHADOW = 0.42
REFLECTION = 0.34


def draw_scene(content: Content, layout: Layout, draws: Draws) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture (128, 128, 3) uint8, and which object (128, 128) uint8 each pixel shows.

    Objects are numbered from 1 in the order of the layout; 0 is the background.
    """
    backdrop = paint_background(content.background, layout.horizon, draws)
    picture = backdrop.picture
    owner = np.zeros(picture.shape[:2], dtype=np.uint8)
    on_water = GROUNDS[content.background.ground] == "water"
    light = OWN_LIGHT + (1 - OWN_LIGHT) * backdrop.light
    for number, placement in enumerate(layout.placements, 1):
        cutout = cut_out(placement.sprite, content.groups[placement.group].colour, placement.longer)
        if not placement.flies:
            cast_reflection(picture, cutout, placement) if on_water else cast_shadow(picture, placement)
        blend(picture, cutout.colour * light, cutout.alpha, placement.top, placement.left)
        rows = slice(placement.top, placement.top + placement.height)
        columns = slice(placement.left, placement.left + placement.width)
        owner[rows, columns][cutout.alpha[..., 0] >= 0.5] = number
    paint_weather(picture, content.background, layout.horizon, draws)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), owner


@lru_cache(maxsize=256)
def shadow_texture(width: int) -> Floats:
    """How dark a soft shadow is (h, w, 1) in [0, 1] under an object `width` pixels wide."""
    half_width, half_height = 0.56 * width + 1, max(2.0, 0.11 * width + 1)
    rows = np.arange(-int(half_height) - 1, int(half_height) + 2, dtype=np.float32)[:, None]
    columns = np.arange(-int(half_width) - 1, int(half_width) + 2, dtype=np.float32)[None]
    distance = np.sqrt((rows / half_height) ** 2 + (columns / half_width) ** 2)
    return np.asarray(SHADOW * np.clip(1.6 * (1 - distance), 0, 1)[..., None], np.float32)


def cast_shadow(picture: Floats, placement: PlacedObject) -> None:
    """Darken the ground under an object."""
    shadow = shadow_texture(placement.width)
    height, width = shadow.shape[:2]
    top, left = placement.bottom - height // 2 - 1, placement.left + placement.width // 2 - width // 2
    blend(picture, np.zeros((1, 1, 3), np.float32) * shadow, shadow, top, left)


def cast_reflection(picture: Floats, cutout: ScaledArtwork, placement: PlacedObject) -> None:
    """Mirror the lower part of an object in the water, fading downward."""
    rows = min(placement.height, max(4, placement.height * 2 // 5))
    fade = np.linspace(REFLECTION, 0, rows, dtype=np.float32)[:, None, None]
    mirrored = slice(placement.height - 1, placement.height - 1 - rows if rows < placement.height else None, -1)
    blend(picture, cutout.colour[mirrored] * fade, cutout.alpha[mirrored] * fade, placement.bottom, placement.left)
