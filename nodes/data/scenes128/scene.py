"""Compose a scene of 128 pixels: its picture, caption, and the kind, colour and box of each object.

Scene i of a data set depends on (seed, i) alone, as in the data of 64 pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.data.scenes128.captions import LayoutFacts, Wording, choose_wording, write_caption
from guidegraph.nodes.data.scenes128.content import Content, choose_content
from guidegraph.nodes.data.scenes128.draw import draw_scene
from guidegraph.nodes.data.scenes128.draws import CONTENT, EVERYDAY, LAYOUT, LOOK, WORDS, Draws
from guidegraph.nodes.data.scenes128.everyday import add_unknown_words, write_everyday_caption
from guidegraph.nodes.data.scenes128.held_out import Split
from guidegraph.nodes.data.scenes128.layout import SIZE, Layout, lay_out
from guidegraph.nodes.data.scenes128.vocabulary import LARGEST_COUNT, NATURAL, natural_colour

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
