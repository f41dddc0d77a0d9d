"""Layouts of scenes of 128 pixels: placed by a person, and read as tables.

A layout is a sample (B, 81, 1, N) with a column for each of up to N objects: channels 0 to 63 say which object it is
and 64 that there is none, 65 to 75 its colour and 76 that it has none, by 2 in one of them and 0 in the others; 77 to
80 are of its box. `layout.map` makes a map of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import check_array, make_table
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import AtMost, Latent, Table, Tensor
from guidegraph_runtime.errors import SettingError, suggest_name
from guidegraph_runtime.pictures.scene_objects import (
    COLOURS,
    LARGEST_COUNT,
    NAMES,
    NATURAL,
    OBJECTS,
    list_colours,
    list_nouns,
    natural_colour,
)

ON = 2.0
"""The value of the channel of an object or a colour; all others are 0, against noise of unit variance."""
CENTRE, LOWER, SIZE = (0.5, 8.0), (0.7, 16.0), (0.25, 6.0)
"""The offset and the factor of the centre of a box across, of its lower edge, and of its sides.

Of two objects, that with the lower edge further down is in front. The edges often lie only a few pixels apart, so their
factor is the largest: a loss of squared differences hardly sees small numbers.
"""
KINDS, SHADES = len(NAMES) + 1, len(COLOURS) + 1
"""Channels of an object and of its colour, of which the last are for a column without an object, and for no colour."""
CHANNELS = KINDS + SHADES + 4
ARTICLES = ("a", "an", "the", "one")
EDGES = ("left", "top", "right", "bottom")

Box: TypeAlias = tuple[float, float, float, float]
Words: TypeAlias = Annotated[Sequence[str], AtMost(LARGEST_COUNT)]
Places: TypeAlias = Annotated[Sequence[Box], AtMost(LARGEST_COUNT)]


def layout_shape() -> tuple[int, ...]:
    """The shape of the result of `layout.place`."""
    return 1, CHANNELS, 1, LARGEST_COUNT


@operation("layout.place", shape=layout_shape, output_help="a layout: a column of numbers for each of four objects")
def place(box: Tensor | None = None, *, objects: Words = (), boxes: Places = ()) -> Latent:
    """The layout (1, 81, 1, 4) of up to four objects in boxes, for `layout.map`.

    Without objects, which is the default, the map says nothing, as where a training dropped it.
    box (1, 1, 4): in place of `boxes`, one for all objects, as of `mask.bounds`, which they share from left to
    right.
    objects: one of the 64 each, by any of its names, with one of the eleven colours or without, as in "a red car";
    without, it has the colour that its artwork is named with, if that has one. boxes: for each object its left, top,
    right and lower edge, from 0 to 1. Raises an error for other words, and for boxes that are not inside the picture.
    """
    if box is not None:
        boxes = _share_box(box, boxes, objects)
    if problem := describe_problem(objects, boxes):
        raise SettingError("boxes", problem)
    kinds, shades = np.full(LARGEST_COUNT, KINDS - 1), np.full(LARGEST_COUNT, SHADES - 1)
    edges = np.zeros((LARGEST_COUNT, 4), dtype=np.float32)
    for row, (words, edge) in enumerate(zip(objects, boxes, strict=True)):
        if len(edge) != len(EDGES) or not (0 <= edge[0] < edge[2] <= 1 and 0 <= edge[1] < edge[3] <= 1):
            raise SettingError(
                "boxes",
                f"the box of '{words}' is [{', '.join(EDGES)}], from 0 to 1 of the picture's side, with left < right "
                f"and top < bottom; found {list(edge)}",
            )
        kinds[row], colour = read_object(words)
        shades[row] = SHADES - 1 if colour == NATURAL else colour
        edges[row] = edge
    return _encode(kinds, shades, edges)


def describe_problem(objects: Sequence[str], boxes: Sequence[Box]) -> str:
    """The reason why objects cannot be placed in boxes, of which each needs one; "" if they can."""
    if not isinstance(objects, str) and len(objects) == len(boxes) <= LARGEST_COUNT:
        return ""
    counts = f"{len(objects)} {'object' if len(objects) == 1 else 'objects'} and {_count_boxes(boxes)}"
    return f"expected a list of up to {LARGEST_COUNT} objects, and a box for each; found {counts}"


def read_object(words: str) -> tuple[int, int]:
    """The object and the colour that words name, "a red car", as indices. Raises ``ValueError`` for other words."""
    kinds, colours = list_nouns(), list_colours()
    parts = words.lower().split() if isinstance(words, str) else []
    if parts and parts[0] in ARTICLES:
        parts = parts[1:]
    colour = colours[parts.pop(0)] if len(parts) > 1 and parts[0] in colours else NATURAL
    noun = " ".join(parts)
    plurals = {kind.plural: kind.name for kind in OBJECTS if kind.plural != kind.name}
    if noun not in kinds or noun in plurals:
        last = plurals.get(parts[-1], parts[-1]) if parts else ""
        raise SettingError(
            "objects",
            f"'{words}' is not one object: expected an article or none, one of {', '.join(COLOURS)} or none, and one "
            f"of the {len(NAMES)} objects, as in 'a red car'; {suggest_name(last, NAMES)}",
        )
    return kinds[noun], natural_colour(kinds[noun], 0) if colour == NATURAL else colour


def _share_box(box: Any, boxes: Sequence[Box], objects: Sequence[str]) -> list[Box]:
    """The parts of a port's box (1, 1, 4) for the objects, from left to right.

    Raises ``ValueError`` for another shape, for boxes in the setting too, and for the box of an empty mask.
    """
    if tuple(np.shape(box)) != (1, 1, len(EDGES)):
        raise ValueError(f"expected one box, (1, 1, {len(EDGES)}), as of mask.bounds; found {tuple(np.shape(box))}")
    if boxes:
        raise ValueError(f"expected the port 'box' or the setting 'boxes'; found both, and {_count_boxes(boxes)}")
    left, top, right, bottom = np.ravel(box).tolist()
    if objects and left < 0:
        raise ValueError("the mask is empty, so that nothing can be placed in its box: expected one with a white part")
    steps = np.linspace(left, right, len(objects) + 1).tolist()
    return [(first, top, last, bottom) for first, last in pairwise(steps)]


def _count_boxes(boxes: Sequence[Box]) -> str:
    return "1 box" if len(boxes) == 1 else f"{len(boxes)} boxes"


def _encode(kinds: NDArray[Any], shades: NDArray[Any], edges: NDArray[np.float32]) -> Latent:
    """The layout (1, 81, 1, N) of objects and colours (N) and edges (N, 4), as `layout.encode` computes it."""
    is_there = kinds < KINDS - 1
    order = np.argsort((2 * kinds).astype(np.float32) + edges[:, 0] + edges[:, 1] / np.float32(1024), kind="stable")
    left, top, right, bottom = edges.T
    places = np.stack(
        [
            ((left + right) / 2 - CENTRE[0]) * CENTRE[1],
            (bottom - LOWER[0]) * LOWER[1],
            (right - left - SIZE[0]) * SIZE[1],
            (bottom - top - SIZE[0]) * SIZE[1],
        ],
        axis=-1,
    )
    columns = np.zeros((len(kinds), CHANNELS), dtype=np.float32)
    rows = np.arange(len(kinds))
    columns[rows, kinds] = columns[rows, KINDS + shades] = ON
    columns[:, -4:] = np.where(is_there[:, None], places, 0)
    return np.ascontiguousarray(columns[order].T[None, :, None])


@operation("layout.table")
def to_table(layout: Latent) -> Table:
    """The objects of layouts (B, 81, 1, N), one in each row: picture, object, colour, left, top, right and bottom.

    picture counts from 0; an object of several colours has none; edges are from 0 to 1. Raises an error for samples of
    another shape.
    """
    columns = check_array("layout", layout, f"(B, {CHANNELS}, 1, N)", "f")
    if columns.shape[1:3] != (CHANNELS, 1) or not columns.shape[3]:
        raise ValueError(f"expected layouts (B, {CHANNELS}, 1, N), N ≥ 1, as of layout.encode; found {columns.shape}")
    columns = columns[:, :, 0].transpose(0, 2, 1)
    columns = columns.astype(np.result_type(columns, np.float32))
    kinds = columns[..., :KINDS].argmax(-1)
    shades = columns[..., KINDS : KINDS + SHADES].argmax(-1)
    across, lower, wide, high = np.moveaxis(columns[..., -4:], -1, 0)
    centre, bottom = across / CENTRE[1] + CENTRE[0], lower / LOWER[1] + LOWER[0]
    width, height = (np.maximum(side / SIZE[1] + SIZE[0], 0) for side in (wide, high))
    boxes = np.stack([centre - width / 2, bottom - height, centre + width / 2, bottom], axis=-1).clip(0, 1)
    names, colours = np.array([*NAMES, ""]), np.array([*COLOURS, ""])
    pictures, rows = np.nonzero(kinds < KINDS - 1)
    edges = boxes[pictures, rows].T.tolist()
    return make_table(
        {
            "picture": pictures,
            "object": names[kinds[pictures, rows]],
            "colour": colours[shades[pictures, rows]],
            **{name: [round(edge, 3) for edge in column] for name, column in zip(EDGES, edges, strict=True)},
        }
    )
