"""Layouts that a person places, and layouts as tables to read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
from annotated_types import MaxLen

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.errors import suggest
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes import port_shapes
from guidegraph.nodes.data.scenes128.layout_sample import decode_layout, encode_layout
from guidegraph.nodes.data.scenes128.phrases import list_colours, list_nouns
from guidegraph.nodes.data.scenes128.scene import NO_OBJECT
from guidegraph.nodes.data.scenes128.vocabulary import (
    COLOURS,
    LARGEST_COUNT,
    NAMES,
    NATURAL,
    OBJECTS,
    natural_colour,
)
from guidegraph.nodes.types import Latent, Table

ARTICLES = ("a", "an", "the", "one")
EDGES = ("left", "top", "right", "bottom")

Box = tuple[float, float, float, float]


def _check_settings(objects: Sequence[str], boxes: Sequence[Box], wired: Collection[str]) -> dict[str, str]:
    """The problem of the settings; where the port ``box`` is linked, the boxes are made of that."""
    problem = "" if "box" in wired else _describe_problem(objects, boxes)
    return {"boxes": problem} if problem else {}


def _describe_problem(objects: Sequence[str], boxes: Sequence[Box]) -> str:
    """The reason why objects cannot be placed in boxes, of which each needs one; "" if they can."""
    if not isinstance(objects, str) and len(objects) == len(boxes) <= LARGEST_COUNT:
        return ""
    counts = f"{len(objects)} {'object' if len(objects) == 1 else 'objects'} and {_count_boxes(boxes)}"
    return f"expected a list of up to {LARGEST_COUNT} objects, and a box for each; found {counts}"


def _count_boxes(boxes: Sequence[Box]) -> str:
    return "1 box" if len(boxes) == 1 else f"{len(boxes)} boxes"


@node("layout.place", host=True, shape=port_shapes.one_row, check=_check_settings)
def place_layout(
    box: Tensor | None = None,
    *,
    objects: Annotated[Sequence[str], MaxLen(LARGEST_COUNT)] = (),
    boxes: Annotated[Sequence[Box], MaxLen(LARGEST_COUNT)] = (),
) -> Latent:
    """The layout (1, 81, 1, 4) of up to four objects in boxes, for `layout.map`.

    Without objects, which is the default, the map says nothing, as where a training dropped it.
    box (1, 1, 4): in place of `boxes`, one for all objects, as of `mask.bounds`, which they share from left to
    right.
    objects: one of the 64 each, by any of its names, with one of the eleven colours or without, as in "a red car";
    without, it has the colour that its artwork is named with, if that has one. boxes: for each object its left, top,
    right and lower edge, from 0 to 1. Raises an error for other words, and for boxes that are not inside the picture.
    """
    import torch

    if box is not None:
        boxes = share_box(box, boxes, len(objects))
    if problem := _describe_problem(objects, boxes):
        raise ValueError(problem)
    numbers = np.full((2, 1, LARGEST_COUNT), NO_OBJECT)
    edges = np.full((1, LARGEST_COUNT, 4), NO_OBJECT, dtype=np.float32)
    for row, (words, place) in enumerate(zip(objects, boxes, strict=True)):
        check_box(words, place)
        numbers[:, 0, row], edges[0, row] = read_object(words), place
    kind, colour, box_rows = (torch.from_numpy(values) for values in (*numbers, edges))
    return encode_layout(kind, box_rows, colour).to(current_device(), current_dtype())


def share_box(box: Tensor, boxes: Sequence[Box], count: int) -> list[Box]:
    """The parts of a port's box (1, 1, 4) for `count` objects, from left to right.

    Raises ``ValueError`` for another shape, beside boxes of the setting, and for the box of an empty mask.
    """
    if tuple(box.shape) != (1, 1, len(EDGES)):
        raise ValueError(f"expected one box, (1, 1, {len(EDGES)}), as of mask.bounds; found {tuple(box.shape)}")
    if boxes:
        raise ValueError(f"expected the port 'box' or the setting 'boxes'; found both, and {_count_boxes(boxes)}")
    left, top, right, bottom = box.flatten().tolist()
    if count and left < 0:
        raise ValueError("the mask is empty, so that nothing can be placed in its box: expected one with a white part")
    edges = np.linspace(left, right, count + 1).tolist()
    return [(first, top, last, bottom) for first, last in pairwise(edges)]


def check_box(words: str, box: Sequence[float]) -> None:
    """Raise ``ValueError`` unless a box is inside the picture and has a width and a height."""
    if len(box) != len(EDGES) or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(
            f"the box of '{words}' is [{', '.join(EDGES)}], from 0 to 1 of the picture's side, with left < right and "
            f"top < bottom; found {list(box)}"
        )


def read_object(words: str) -> tuple[int, int]:
    """The object and the colour that words name, "a red car", as indices. Raises ``ValueError`` for other words."""
    kinds, colours = list_nouns(), list_colours()
    parts = words.lower().split()
    if parts and parts[0] in ARTICLES:
        parts = parts[1:]
    colour = colours[parts.pop(0)] if len(parts) > 1 and parts[0] in colours else NATURAL
    noun = " ".join(parts)
    plurals = {kind.plural: kind.name for kind in OBJECTS if kind.plural != kind.name}
    if noun not in kinds or noun in plurals:
        last = plurals.get(parts[-1], parts[-1]) if parts else ""
        raise ValueError(
            f"'{words}' is not one object: expected an article or none, one of {', '.join(COLOURS)} or none, and one "
            f"of the {len(NAMES)} objects, as in 'a red car'; {suggest(last, NAMES, 'objects')}"
        )
    return kinds[noun], natural_colour(kinds[noun], 0) if colour == NATURAL else colour


@node("layout.table", host=True)
def list_layout(layout: Latent) -> Table:
    """The objects of layouts (B, 81, 1, N), one in each row: picture, object, colour, left, top, right and bottom.

    picture counts from 0; an object of several colours has none; edges are from 0 to 1.
    """
    boxes = decode_layout(layout)
    rows = [
        (picture, NAMES[kind], COLOURS[colour] if colour >= 0 else None, *(round(edge, 3) for edge in edges))
        for picture, columns in enumerate(
            zip(boxes.object.tolist(), boxes.colour.tolist(), boxes.box.tolist(), strict=True)
        )
        for kind, colour, edges in zip(*columns, strict=True)
        if kind >= 0
    ]
    names = ("picture", "object", "colour", *EDGES)
    return Table({name: [row[i] for row in rows] for i, name in enumerate(names)})
