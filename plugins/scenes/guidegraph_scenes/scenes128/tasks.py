"""The tasks of SceneEval: prompts for objects, with the real scenes that show them (GenEval, Ghosh et al. 2023)."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

from guidegraph_scenes.scenes128.captions import HELD_OUT_FORM_RATE, Wording
from guidegraph_scenes.scenes128.content import (
    ARTWORK,
    Content,
    Group,
    Split,
    choose_background,
    is_held_out_colour,
    is_held_out_count,
    list_pairs,
)
from guidegraph_scenes.scenes128.draws import TASK, Draws
from guidegraph_scenes.scenes128.scene import Scene128, finish_scene
from guidegraph_scenes.scenes128.vocabulary import (
    ABOVE,
    AIR,
    COLOURS,
    IN_FRONT_OF,
    LARGEST_COUNT,
    LEFT_OF,
    NATURAL,
    NO_RELATION,
    NORMAL,
    OBJECTS,
)

CATEGORIES = ("single object", "two objects", "counting", "colours", "position", "attribute binding")
SINGLE, TWO, COUNTING, COLOUR, POSITION, BINDING = range(6)
TASK_FIELDS = ("category", "object", "count", "colour", "other", "other_count", "other_colour", "relation")
"""The columns of a task; −1 is what the prompt does not ask for."""
NOTHING = -1
LOOK_ALIKES = frozenset({("panda", "white"), ("zebra", "grey"), ("bicycle", "grey"), ("ball", "white")})
"""Coloured objects that can hardly be told from the object in its own colours, which are named otherwise."""


class AskedObject(NamedTuple):
    """One thing to ask for: an object, its number and its colour, `NATURAL` for none."""

    object: int
    number: int = 1
    colour: int = NATURAL


class SceneTask(NamedTuple):
    """A prompt, the real scene for it, and the columns of `TASK_FIELDS`."""

    scene: Scene128
    columns: tuple[int, ...]


def make_task(seed: int, category: int, number: int, split: Split) -> SceneTask:
    """Task `number` of a category; its objects come in an order that depends on the seed, without repetition.

    After all have come, the order starts over, with other pictures and wording.
    """
    options = list_options(category, split)
    start = Draws(seed, category, TASK).integer(0, len(options) - 1)
    items = options[(start + _coprime_stride(len(options)) * number) % len(options)]
    index = ((category + 1) << 32) + number  # beyond the scenes of training
    draws = Draws(seed, index, TASK)
    return build_task(category, items, seed, index, draws, split)


def _coprime_stride(count: int) -> int:
    """A step of about 0.382 of `count` that visits every one of `count` entries."""
    stride = max(1, round(0.381966 * count))
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def list_options(category: int, split: Split) -> tuple[tuple[AskedObject, ...], ...]:
    """Everything that a category can ask for in a split: held-out compositions, compositions of training, or both.

    A single object cannot be held out; its prompts ask for the same objects in every split.
    """
    objects = range(len(OBJECTS))
    if category == SINGLE:
        return tuple((AskedObject(kind),) for kind in objects)
    if category == COUNTING:
        counted = product(objects, range(2, LARGEST_COUNT + 1))
        return tuple((AskedObject(k, n),) for k, n in counted if _belongs(is_held_out_count(k, n), split))
    if category == COLOUR:
        coloured = product(objects, range(len(COLOURS)))
        return tuple(
            (AskedObject(k, 1, c),)
            for k, c in coloured
            if _belongs(is_held_out_colour(k, c), split) and not is_look_alike(k, c)
        )
    return tuple((AskedObject(a), AskedObject(b)) for a, b in _pairs_of(split))


def _pairs_of(split: Split) -> tuple[tuple[int, int], ...]:
    if split == "all":
        return list_pairs(held_out=False) + list_pairs(held_out=True)
    return list_pairs(held_out=split == "held_out")


def _belongs(held_out: bool, split: Split) -> bool:
    return split == "all" or held_out == (split == "held_out")


def build_task(
    category: int, items: tuple[AskedObject, ...], seed: int, index: int, draws: Draws, split: Split
) -> SceneTask:
    """Choose the details that a category leaves open, and draw and describe the scene."""
    if category == BINDING:
        first, second = (choose_colour(draws, item) for item in items)
        if first.colour == second.colour:
            second = choose_colour(draws, items[1], unlike=first.colour)
        items = first, second
    relation = NO_RELATION
    if category == POSITION:
        items, relation = choose_position(draws, items)
    groups = tuple(Group(item.object, item.number, item.colour, NORMAL, ARTWORK) for item in items)
    content = Content(groups, relation, choose_background(draws, groups))
    forms = 0.0 if split == "train" else HELD_OUT_FORM_RATE
    wording = Wording(place=0.5, time=0.25, weather=0.25, colour=1, natural=0, size=0, relation=1, held_out_form=forms)
    scene = finish_scene(content, seed, index, wording)
    values = [value for item in items for value in (item.object, item.number, item.colour)]
    padded = [*values, *(NOTHING,) * 3][:6]
    return SceneTask(scene, (category, *padded, relation))


def is_look_alike(kind: int, colour: int) -> bool:
    """Whether an object in a colour looks like the object in its own colours and is not named so."""
    return (OBJECTS[kind].name, COLOURS[colour]) in LOOK_ALIKES


def choose_colour(draws: Draws, item: AskedObject, unlike: int = NATURAL) -> AskedObject:
    """Give an object a colour that it may have in training scenes and is told by, other than `unlike`."""
    kind = item.object
    colours = [c for c in range(len(COLOURS)) if c != unlike and not is_held_out_colour(kind, c)]
    colours = [c for c in colours if not is_look_alike(kind, c)]
    return item._replace(colour=draws.choose(colours))


def choose_position(draws: Draws, pair: tuple[AskedObject, ...]) -> tuple[tuple[AskedObject, ...], int]:
    """Order two objects and choose how the first lies to the second; only what flies is above what does not."""
    first, second = pair if draws.chance(0.5) else pair[::-1]
    if (first.object in AIR) != (second.object in AIR) and draws.chance(0.7):
        return ((first, second) if first.object in AIR else (second, first)), ABOVE
    return (first, second), LEFT_OF if draws.chance(0.6) else IN_FRONT_OF
