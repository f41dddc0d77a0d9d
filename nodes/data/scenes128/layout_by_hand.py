"""Layouts that a person places, and layouts as tables to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import MaxLen

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.errors import suggest
from guidegraph.graph.node import node
from guidegraph.nodes.data.scenes128.layout_sample import decode_layout, encode_layout
from guidegraph.nodes.data.scenes128.phrases import list_colours, list_nouns
from guidegraph.nodes.data.scenes128.scene import NO_OBJECT
from guidegraph.nodes.data.scenes128.vocabulary import COLOURS, LARGEST_COUNT, NAMES, NATURAL, natural_colour
from guidegraph.nodes.types import Latent, Table

ARTICLES = ("a", "an", "the", "one")
EDGES = ("left", "top", "right", "bottom")

Box = tuple[float, float, float, float]


@node("layout.place", host=True)
def place_layout(
    *,
    objects: Annotated[Sequence[str], MaxLen(LARGEST_COUNT)] = (),
    boxes: Annotated[Sequence[Box], MaxLen(LARGEST_COUNT)] = (),
) -> Latent:
    """The layout (1, 81, 1, 4) of up to four objects in boxes, for `layout.map`.

    objects: one of the 64 each, by any of its names, with one of the eleven colours or without, as in "a red car";
    without, it has the colours of its artwork. boxes: for each object the left, the top, the right and the lower edge,
    from 0 to 1. Without objects the map says nothing, as where a training dropped it.
    Raises an error for words that are no object, and for boxes that are not inside the picture.
    """
    import torch

    if len(objects) != len(boxes):
        raise ValueError(f"{len(objects)} objects do not go with {len(boxes)} boxes: give each object a box")
    numbers = np.full((2, 1, LARGEST_COUNT), NO_OBJECT)
    edges = np.full((1, LARGEST_COUNT, 4), NO_OBJECT, dtype=np.float32)
    for row, (words, box) in enumerate(zip(objects, boxes, strict=True)):
        check_box(words, box)
        numbers[:, 0, row], edges[0, row] = read_object(words), box
    kind, colour, box_rows = (torch.from_numpy(values) for values in (*numbers, edges))
    return encode_layout(kind, colour, box_rows).to(current_device(), current_dtype())


def check_box(words: str, box: Sequence[float]) -> None:
    """Raise ``ValueError`` unless a box is inside the picture and has a width and a height."""
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
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
    if noun not in kinds:
        raise ValueError(
            f"there is no object '{words}': expected one of the {len(NAMES)} objects, with a colour before it or "
            f"without, as in 'a red car'; {suggest(noun, kinds, 'objects')}"
        )
    return kinds[noun], natural_colour(kinds[noun], 0) if colour == NATURAL else colour


@node("layout.table", host=True)
def list_layout(layout: Latent) -> Table:
    """The objects of layouts (B, 81, 1, N), one in each row: picture, object, colour, left, top, right and bottom.

    picture counts from 0; the colour is empty where no single one fits; edges are from 0 to 1.
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
