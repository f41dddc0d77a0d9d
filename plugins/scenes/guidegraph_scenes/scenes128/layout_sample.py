"""The layout of a scene of 128 pixels as a sample that a denoiser can draw, and as a map that another can be told.

A layout is a sample (B, 81, 1, N) with a column for each of up to N objects, so that text-to-image has two stages:
one denoiser draws the layout of a prompt, and another one the picture of a prompt and a layout.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial as bind
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes import port_shapes
from guidegraph.nodes.derive import node_for, to_runtime
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.training.batches import FunctionBatches
from guidegraph.nodes.types import Latent, SemanticMap, Table
from guidegraph_runtime.checks import list_columns
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.operations.layout import CENTRE, KINDS, LOWER, ON, SHADES, SIZE, Box, describe_problem
from guidegraph_runtime.operations.layout import CHANNELS as CHANNELS
from guidegraph_scenes.scenes128.captions import PARTIAL, Wording, choose_wording
from guidegraph_scenes.scenes128.content import Split
from guidegraph_scenes.scenes128.dataset import Count, Probability, Seed, check_numbers
from guidegraph_scenes.scenes128.scene import compose_layout
from guidegraph_scenes.scenes128.vocabulary import COLOURS, NAMES

MAP_CHANNELS = len(NAMES) + SHADES + 5
"""Channels of `layout.map`: the objects, the colours, and five of the front object's box."""
SMALLEST = 1 / 128
"""The least side of a box: a pixel."""
VISIBLE = 0.25
"""The share of a cell that a box covers at least where the map describes it."""


class Boxes(NamedTuple):
    """The objects of layouts, B rows of N: object and colour, int64, −1 for none, and box (B, N, 4) in [0, 1].

    A box has the left, the top, the right and the lower edge of an object in units of the picture's side.
    """

    object: Tensor
    colour: Tensor
    box: Tensor


class LayoutBatch128(NamedTuple):
    """B captions of scenes, and their objects, as in a `SceneBatch128`."""

    caption: Sequence[str]
    object: Tensor
    colour: Tensor
    box: Tensor


class Layouts128(NamedTuple):
    batches: Sequence[LayoutBatch128]


@node("data.layouts_128")
def layouts_128(
    *,
    seed: Seed = 0,
    batch: Count = 256,
    count: Count = 100_000,
    split: Split = "train",
    single: Probability = 0.2,
    partial: Probability = PARTIAL,
    everyday: Probability = 0.0,
    unknown: Probability = 0.0,
) -> Layouts128:
    """The captions and objects of the scenes of `data.scenes_128`, without pictures, which take most of its time.

    batch: scenes in each batch. count: batches.
    split, single, partial, everyday, unknown: as for `data.scenes_128`. Scene i depends on (seed, i) alone.
    """
    wording = choose_wording(split, partial, everyday, unknown)
    make = bind(make_layouts, seed, batch, split=split, single=single, wording=wording)
    return Layouts128(FunctionBatches(count, make))


def make_layouts(seed: int, batch: int, index: int, *, split: Split, single: float, wording: Wording) -> LayoutBatch128:
    """The `batch` layouts from scene `index · batch` on of the data set `seed`."""
    first = index * batch
    described = [compose_layout(seed, first + i, split=split, single=single, wording=wording) for i in range(batch)]
    fields = ("object", "colour", "box")
    return LayoutBatch128(
        tuple(scene.captions[0] for scene in described),
        *(torch.from_numpy(np.stack([getattr(scene.objects, name) for scene in described])) for name in fields),
    )


@node("layout.encode", shape=port_shapes.object_rows)
def encode_layout(object: Tensor, box: Tensor, colour: Tensor | None = None) -> Latent:
    """The layouts (B, 81, 1, N) of scenes of 128 pixels, as samples for a denoiser to learn and to draw.

    object (B, N), box (B, N, 4) and colour (B, N): of `data.scenes_128`, which has N = 4, −1 for none. Without `colour`
    no object has one. Channels 0 to 63 say which object a column has and 64 that it has none, 65 to 75 its colour and
    76 that it has none, by 2 in one of them and 0 in the others; 77 to 80 are of its box: the centre across, 8 (x − ½),
    the lower edge, 16 (y − 0.7), and the width and height, 6 (w − ¼). Columns are in the order of the objects' numbers,
    and boxes of one object from left to right, then downward, so that a prompt leaves little open. Raises an error for
    other shapes and numbers.
    """
    shape = tuple(object.shape)
    if colour is None:
        colour = torch.full_like(object, -1)
    if len(shape) != 2 or not shape[1] or colour.shape != shape or box.shape != (*shape, 4):
        raise ValueError(
            "expected 'object' and 'colour' (B, N), N ≥ 1, and 'box' (B, N, 4), as of data.scenes_128; found "
            f"{shape}, {tuple(colour.shape)} and {tuple(box.shape)}"
        )
    check_numbers("object", object, -1, len(NAMES) - 1)
    check_numbers("colour", colour, -1, len(COLOURS) - 1)
    is_there = object >= 0
    check_boxes(box, is_there)
    kind = torch.where(is_there, object, KINDS - 1).long()
    shade = torch.where(is_there & (colour >= 0), colour, SHADES - 1).long()
    edges = torch.where(is_there[..., None], widen(box), torch.zeros_like(widen(box)))
    key = 2 * kind + edges[..., 0] + edges[..., 1] / 1024
    order = key.topk(shape[1], dim=1, largest=False).indices
    left, top, right, bottom = edges.unbind(-1)
    across, lower = ((left + right) / 2 - CENTRE[0]) * CENTRE[1], (bottom - LOWER[0]) * LOWER[1]
    places = torch.stack(
        [across, lower, *((side - SIZE[0]) * SIZE[1] for side in (right - left, bottom - top))], dim=-1
    )
    places = torch.where(is_there[..., None], places, torch.zeros_like(places))
    columns = torch.cat([ON * mark(kind, KINDS, places), ON * mark(shade, SHADES, places), places], dim=-1)
    ordered = columns.gather(1, order[..., None].expand_as(columns))
    return ordered.transpose(1, 2)[:, :, None].to(box.dtype)


@node("layout.boxes")
def decode_layout(layout: Latent) -> Boxes:
    """The objects of layouts (B, 81, 1, N): the likeliest object and colour of each column, and its box.

    Raises an error for samples of another shape.
    """
    if layout.ndim != 4 or tuple(layout.shape[1:3]) != (CHANNELS, 1) or not layout.shape[3]:
        raise ValueError(
            f"expected layouts (B, {CHANNELS}, 1, N), N ≥ 1, as of layout.encode; found {tuple(layout.shape)}"
        )
    columns = layout[:, :, 0].transpose(1, 2)
    kind = columns[..., :KINDS].argmax(-1)
    shade = columns[..., KINDS : KINDS + SHADES].argmax(-1)
    across, lower, *sides = widen(columns[..., -4:]).unbind(-1)
    centre, bottom = across / CENTRE[1] + CENTRE[0], lower / LOWER[1] + LOWER[0]
    width, height = ((side / SIZE[1] + SIZE[0]).clamp(min=0) for side in sides)
    box = torch.stack([centre - width / 2, bottom - height, centre + width / 2, bottom], dim=-1).clamp(0, 1)
    is_there = kind < KINDS - 1
    return Boxes(
        object=torch.where(is_there, kind, -1),
        colour=torch.where(is_there & (shade < SHADES - 1), shade, -1),
        box=torch.where(is_there[..., None], box, torch.full_like(box, -1)).to(layout.dtype),
    )


@node("layout.map", shape=port_shapes.layout_rows)
def map_layout(layout: Latent, *, size: Annotated[int, Ge(1)] = 16) -> SemanticMap:
    """A map (B, 81, size, size) of layouts (B, 81, 1, N), for `condition.spatial`: the objects to draw in each cell.

    Channels 0 to 63 are the share of the cell in boxes of each object, 64 to 75 in boxes of each colour, of which the
    last is for none. The other five are of the box in front, that with the lowest lower edge among those that cover a
    quarter of the cell or more: its share of the cell and, times that share, where in it the centre of the cell lies,
    −1 to 1 from left to right and from top to bottom, and twice its width and height. So objects of one kind can be
    told apart. Without a box a cell is all 0.
    size: of the map, in cells a side. Raises an error for samples of another shape.
    """
    boxes = decode_layout(layout)
    is_there = boxes.object >= 0
    left, top, right, bottom = widen(boxes.box).unbind(-1)
    across, down = measure_cover(left, right, size), measure_cover(top, bottom, size)
    cover = is_there[..., None, None] * down[..., :, None] * across[..., None, :]  # (B, N, size, size)
    kinds = mark(boxes.object, len(NAMES), cover)
    shades = mark(torch.where(boxes.colour < 0, SHADES - 1, boxes.colour), SHADES, cover)
    shares = (torch.cat([kinds, shades], dim=-1)[..., None, None] * cover[:, :, None]).amax(1)
    visible = cover * (cover >= VISIBLE)
    front = ((cover >= VISIBLE) * (1 + bottom[..., None, None])).argmax(1, keepdim=True)
    cells = (torch.arange(size, device=cover.device).to(cover) + 0.5) / size
    width, height = (right - left).clamp(min=SMALLEST), (bottom - top).clamp(min=SMALLEST)
    x = (2 * cells - (left + right)[..., None]) / width[..., None]
    y = (2 * cells - (top + bottom)[..., None]) / height[..., None]
    of_box = (
        visible,
        visible * x.clamp(-1, 1)[..., None, :],
        visible * y.clamp(-1, 1)[..., :, None],
        visible * 2 * width[..., None, None],
        visible * 2 * height[..., None, None],
    )
    described = torch.cat([values.gather(1, front) for values in of_box], dim=1)
    return torch.cat([shares, described], dim=1).to(layout.dtype)


def check_boxes(box: Tensor, is_there: Tensor) -> None:
    """Raise ``ValueError`` for boxes (B, N, 4) of objects that are not floats, or no boxes inside the picture."""
    if not box.is_floating_point():
        raise ValueError(f"expected 'box' of floats, from 0 to 1; found {box.dtype}")
    low, high = box[..., :2], box[..., 2:]
    if has_values(box) and not bool(((low >= 0) & (low <= high) & (high <= 1))[is_there].all()):
        raise ValueError(
            "expected boxes of left, top, right and lower edge, in units of the picture's side from 0 to 1; found one "
            "that is not inside the picture, or has its edges in another order"
        )


def widen(values: Tensor) -> Tensor:
    """Values in float32, or in float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def mark(index: Tensor, count: int, like: Tensor) -> Tensor:
    """1 in the channel (…, count) of each index (…) and 0 in the others, in the dtype of `like`; −1 sets no channel."""
    return (index[..., None] == torch.arange(count, device=index.device)).to(like)


def measure_cover(low: Tensor, high: Tensor, size: int) -> Tensor:
    """The share of each of `size` cells along a side that lies between two edges (B, N), as (B, N, size)."""
    first = torch.arange(size, device=low.device).to(low)
    inner_low = torch.maximum(low[..., None] * size, first)
    inner_high = torch.minimum(high[..., None] * size, first + 1)
    return (inner_high - inner_low).clamp(0, 1)


def _check_settings(objects: Sequence[str], boxes: Sequence[Box], wired: Collection[str]) -> dict[str, str]:
    """The problem of the settings; where the port ``box`` is linked, the boxes are made of that."""
    problem = "" if "box" in wired else describe_problem(objects, boxes)
    return {"boxes": problem} if problem else {}


@node_for("layout.place", host=True, shape=port_shapes.one_row, check=_check_settings)
def place_layout(box: Tensor | None, *, objects: Sequence[str], boxes: Sequence[Box]) -> Latent:
    layout = OPERATIONS["layout.place"](box=to_runtime(box), objects=objects, boxes=boxes)["out"]
    return torch.from_numpy(layout).to(current_device(), current_dtype())


@node_for("layout.table", host=True)
def list_layout(layout: Latent) -> Table:
    table = OPERATIONS["layout.table"](layout=widen(layout).cpu().numpy())["out"]
    return Table(list_columns(table))
