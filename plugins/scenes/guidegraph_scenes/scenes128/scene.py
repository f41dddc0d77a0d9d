"""Compose a scene of 128 pixels: its picture, caption, and the kind, colour and box of each object.

Scene i of a data set depends on (seed, i) alone, as in the data of 64 pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph_scenes.scenes128.artwork import ScaledArtwork, cut_out
from guidegraph_scenes.scenes128.background import blend, paint_background, paint_weather
from guidegraph_scenes.scenes128.captions import LayoutFacts, Wording, choose_wording, write_caption
from guidegraph_scenes.scenes128.content import Content, Split, choose_content
from guidegraph_scenes.scenes128.draws import CONTENT, EVERYDAY, LAYOUT, LOOK, WORDS, Draws
from guidegraph_scenes.scenes128.everyday import add_unknown_words, write_everyday_caption
from guidegraph_scenes.scenes128.layout import SIZE, Layout, PlacedObject, lay_out
from guidegraph_scenes.scenes128.vocabulary import GROUNDS, LARGEST_COUNT, NATURAL, natural_colour

NO_OBJECT = -1


class Objects(NamedTuple):
    """The objects of a scene, from back to front; rows without one are −1.

    object (4), colour (4): int64 indices; the colour of natural artwork is the one that it is named with, or −1.
    box (4, 4): float32, left, top, right and lower edge in units of the picture's side.
    """

    object: NDArray[np.int64]
    colour: NDArray[np.int64]
    box: NDArray[np.float32]


class Scene128(NamedTuple):
    """image (128, 128, 3) uint8; owner (128, 128) uint8: the number of the object of each pixel, from 1, or 0."""

    image: NDArray[np.uint8]
    owner: NDArray[np.uint8]
    captions: tuple[str, ...]
    content: Content
    layout: Layout

    @property
    def caption(self) -> str:
        """The first caption."""
        return self.captions[0]

    @property
    def objects(self) -> Objects:
        """The kind, colour and box of each object."""
        return list_objects(self.content, self.layout)


class DescribedLayout(NamedTuple):
    """The objects of a scene that is not drawn, and its captions."""

    objects: Objects
    captions: tuple[str, ...]


def list_objects(content: Content, layout: Layout) -> Objects:
    """The kind, colour and box of each object of a scene."""
    kinds = np.full(LARGEST_COUNT, NO_OBJECT)
    colours, boxes = kinds.copy(), np.full((LARGEST_COUNT, 4), NO_OBJECT, dtype=np.float32)
    for row, placement in enumerate(layout.placements):
        group = content.groups[placement.group]
        kinds[row] = group.object
        natural = group.colour == NATURAL
        colours[row] = natural_colour(group.object, group.artwork) if natural else group.colour
        right, bottom = placement.left + placement.width, placement.bottom
        boxes[row] = np.array([placement.left, placement.top, right, bottom]) / SIZE
    return Objects(kinds, colours, boxes)


def compose_scene(
    seed: int,
    index: int,
    *,
    split: Split = "train",
    single: float = 0.2,
    wording: Wording | None = None,
    captions: int = 1,
) -> Scene128:
    """Compose scene `index` of the data set `seed`, with a number of captions.

    single: the fraction of scenes with one object. wording: what the captions name, by default as in `data.scenes_128`.
    """
    content = choose_content(seed, index, CONTENT, split, single)
    return finish_scene(content, seed, index, wording or choose_wording(split), captions)


def finish_scene(content: Content, seed: int, index: int, wording: Wording, captions: int = 1) -> Scene128:
    """Lay out, draw and describe contents, by the choices of (seed, index)."""
    layout = lay_out(content, Draws(seed, index, LAYOUT))
    image, owner = draw_scene(content, layout, Draws(seed, index, LOOK))
    described = describe_layout(content, layout, seed, index, wording, captions)
    return Scene128(image, owner, described, content, layout)


def compose_layout(
    seed: int, index: int, *, split: Split = "train", single: float = 0.2, wording: Wording
) -> DescribedLayout:
    """The objects and the caption of scene `index` of the data set `seed`, which `compose_scene` draws."""
    content = choose_content(seed, index, CONTENT, split, single)
    layout = lay_out(content, Draws(seed, index, LAYOUT))
    return DescribedLayout(list_objects(content, layout), describe_layout(content, layout, seed, index, wording, 1))


def describe_layout(
    content: Content, layout: Layout, seed: int, index: int, wording: Wording, captions: int
) -> tuple[str, ...]:
    """The captions of a scene."""
    flies = [False] * len(content.groups)
    for placement in layout.placements:
        flies[placement.group] = placement.flies
    facts = LayoutFacts(tuple(flies), layout.in_order, layout.is_near)
    return tuple(describe_scene(content, facts, seed, index, wording, number) for number in range(captions))


def describe_scene(
    content: Content, facts: LayoutFacts, seed: int, index: int, wording: Wording, number: int = 0
) -> str:
    """The caption of a scene: plain or in everyday English, with or without unknown words.

    number: of several captions of a scene, each of which has choices of its own.
    """
    stream = number << 8
    draws = Draws(seed, index, EVERYDAY + stream)
    is_everyday, has_unknown = draws.chance(wording.everyday), draws.chance(wording.unknown)
    if is_everyday:
        caption = write_everyday_caption(content, facts, draws, wording)
    else:
        caption = write_caption(content, facts, Draws(seed, index, WORDS + stream), wording)
    return add_unknown_words(caption, draws) if has_unknown else caption


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
