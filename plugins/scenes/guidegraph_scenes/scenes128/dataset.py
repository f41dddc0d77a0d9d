"""Nodes of the scenes of 128 pixels: batches to train on, and sets to judge with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial as bind
from typing import Annotated, NamedTuple, TypeAlias

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.training.batches import FunctionBatches, to_image
from guidegraph.nodes.types import SemanticMap
from guidegraph_scenes.batches import SceneBatch128
from guidegraph_scenes.scenes128.captions import PARTIAL, Wording, choose_wording
from guidegraph_scenes.scenes128.content import Split
from guidegraph_scenes.scenes128.phrases import caption_words
from guidegraph_scenes.scenes128.scene import Scene128, compose_scene
from guidegraph_scenes.scenes128.vocabulary import CLASSES, COLOURS, GROUNDS, NAMES

Seed: TypeAlias = Annotated[int, Ge(0)]
Count: TypeAlias = Annotated[int, Ge(1)]
Probability: TypeAlias = Annotated[float, Ge(0), Le(1)]


class Scenes128(NamedTuple):
    """Batches of scenes, and the words and punctuation marks of all their captions, sorted."""

    batches: Sequence[SceneBatch128]
    words: Sequence[str]


@node("data.scenes_128")
def scenes_128(
    *,
    seed: Seed = 0,
    batch: Count = 64,
    count: Count = 100_000,
    split: Split = "train",
    single: Probability = 0.2,
    partial: Probability = PARTIAL,
    everyday: Probability = 0.0,
    unknown: Probability = 0.0,
    captions: Count = 1,
) -> Scenes128:
    """`count` batches of scenes of 128 pixels with one to four of 64 objects; scene i depends on (seed, i) alone.

    Objects differ in number, colour, size and position, on eight grounds, under four skies, in eight weathers. Captions
    are sentences of many forms, with synonyms, and true of the picture.
    batch: scenes in each batch. split: pairs of objects (16 %), colours of objects (18 %), counts of some objects and
    three sentence forms are held out, and never occur in `train`; every scene of `held_out` has a held-out pair, colour
    or count, and half of its captions in plain English have a held-out form. single: the fraction of scenes with one
    object; smaller in `held_out`, as of single objects only some colours are held out. partial: how often a caption
    leaves out the place, and the time or the weather a little more often; colours, sizes and positions are left out at
    times too, unless it is 0. everyday: how often a caption is in everyday English: wishes and questions, "my happy
    dog", other words for objects, places and times, verbs. unknown: how often one or two words of no vocabulary, [UNK],
    stand in a caption. captions: how many captions a scene has, for `data.latents_128`; `caption` is the first.
    Raises an error for a seed of 2⁶⁴ or more when a batch is read.
    """
    wording = choose_wording(split, partial, everyday, unknown)
    make = bind(make_batch, seed, batch, split=split, single=single, wording=wording, captions=captions)
    return Scenes128(FunctionBatches(count, make), caption_words())


@node("data.scene_128")
def scene_128(*, seed: Seed = 0, batch: Count = 1, split: Split = "held_out") -> SceneBatch128:
    """Scenes 0 to batch − 1 of 128 pixels of the data set `seed`, by default of held-out compositions.

    split: as for `data.scenes_128`.
    Raises an error for a seed of 2⁶⁴ or more.
    """
    scenes = scenes_128(seed=seed, batch=batch, count=1, split=split).batches[0]
    device, dtype = current_device(), current_dtype()
    return scenes._replace(
        image=scenes.image.to(device, dtype),
        box=scenes.box.to(device, dtype),
        object=scenes.object.to(device),
        colour=scenes.colour.to(device),
        classes=scenes.classes.to(device),
        sky=scenes.sky.to(device),
    )


@node("data.scene_map")
def scene_map(classes: Tensor, *, size: Count | None = None) -> SemanticMap:
    """The one-hot map (B, 76, H, W) of the classes (B, H, W) of pixels: 64 objects, 8 grounds and 4 skies.

    size: makes a map (B, 76, size, size) with the share of each class in equal rectangles of pixels, the means of the
    one-hot map, which is not made. Raises an error for other classes, and for a size that does not divide H and W.
    """
    check_classes(classes)
    return measure_shares(classes, len(CLASSES), size)


@node("data.colour_map")
def colour_map(classes: Tensor, object: Tensor, colour: Tensor, *, size: Count = 16) -> SemanticMap:
    """The share of each colour of objects in each cell of scenes of 128 pixels, (B, 12, size, size) in [0, 1].

    Channels 0 to 10 are the eleven colours, and 11 is all else: grounds, skies, and objects in colours without a name.
    classes (B, H, W), object (B, R) and colour (B, R): of `data.scenes_128`. Raises an error for other shapes and
    numbers, and for a size that does not divide H and W.
    """
    check_classes(classes)
    if has_values(object, colour) and not (
        object.ndim == 2 and len(object) == len(classes) and colour.shape == object.shape
    ):
        raise ValueError(
            f"expected 'object' and 'colour' (B, R) for classes {tuple(classes.shape)}, as of data.scenes_128; found "
            f"{tuple(object.shape)} and {tuple(colour.shape)}"
        )
    check_numbers("object", object, -1, len(NAMES) - 1)
    check_numbers("colour", colour, -1, len(COLOURS) - 1)
    nothing = len(COLOURS)
    table = torch.full((classes.shape[0], len(CLASSES) + 1), nothing, device=classes.device)
    # The last column of the table is for rows without an object.
    rows = torch.where(object < 0, len(CLASSES), object).long()
    table.scatter_(1, rows, torch.where(colour < 0, nothing, colour).long())
    return measure_shares(table.gather(1, classes.long().flatten(1)).reshape(classes.shape), nothing + 1, size)


def check_classes(classes: Tensor) -> None:
    """Raise ``ValueError`` unless classes have the shape (B, H, W) and come from `data.scenes_128`."""
    if classes.ndim != 3:
        raise ValueError(f"expected classes (B, H, W), as of data.scenes_128; found shape {tuple(classes.shape)}")
    check_numbers("classes", classes, 0, len(CLASSES) - 1)


def check_numbers(name: str, numbers: Tensor, least: int, most: int) -> None:
    """Raise ``ValueError`` unless numbers are whole and from `least` to `most`. The values of traced ones cannot be
    checked."""
    if numbers.is_floating_point():
        raise ValueError(f"expected '{name}' of whole numbers, as of data.scenes_128; found {numbers.dtype}")
    if not has_values(numbers) or not numbers.numel():
        return
    low, high = int(numbers.min()), int(numbers.max())
    if low < least or high > most:
        raise ValueError(
            f"expected '{name}' from {least} to {most}, as of data.scenes_128; found values from {low} to {high}"
        )


def measure_shares(index: Tensor, count: int, size: int | None) -> SemanticMap:
    """The share (B, count, size, size) of each value of an index (B, H, W) in each of size × size equal rectangles.

    Raises ``ValueError`` for a size that does not divide H and W. None: the index's size.
    """
    batch, height, width = index.shape
    rows, columns = (height, width) if size is None else (size, size)
    if height % rows or width % columns:
        raise ValueError(f"'size' {size} does not divide the sides of a map of {height} × {width}: set it to a divisor")
    squares = index.long().reshape(batch, rows, height // rows, columns, width // columns)
    index = squares.permute(0, 2, 4, 1, 3).flatten(1, 2)  # (B, pixels of a square, rows, columns)
    share = torch.full((), 1 / index.shape[1], dtype=current_dtype(), device=index.device).expand(index.shape)
    shape = (batch, count, rows, columns)
    return torch.zeros(shape, dtype=current_dtype(), device=index.device).scatter_add_(1, index, share)


@node("data.object_share")
def object_share(classes: Tensor, *, size: Count = 16) -> Tensor:
    """The share of the pixels that show an object in each cell of scenes of 128 pixels, (B, 1, size, size) in [0, 1].

    classes (B, H, W): of `data.scenes_128`. Raises an error for a size that does not divide H and W.
    """
    return scene_map(classes, size=size)[:, : len(NAMES)].sum(1, keepdim=True)


def make_batch(
    seed: int, batch: int, index: int, *, split: Split, single: float, wording: Wording, captions: int
) -> SceneBatch128:
    """The `batch` scenes from scene `index · batch` on of the data set `seed`."""
    first = index * batch
    compose = bind(compose_scene, seed, split=split, single=single, wording=wording, captions=captions)
    return stack_scenes([compose(first + i) for i in range(batch)])


def stack_scenes(scenes: Sequence[Scene128]) -> SceneBatch128:
    """Scenes as one batch, on the CPU."""
    objects = [scene.objects for scene in scenes]
    return SceneBatch128(
        image=to_image(np.stack([scene.image for scene in scenes])),
        caption=tuple(scene.caption for scene in scenes),
        object=torch.from_numpy(np.stack([entry.object for entry in objects])),
        colour=torch.from_numpy(np.stack([entry.colour for entry in objects])),
        box=torch.from_numpy(np.stack([entry.box for entry in objects])),
        classes=torch.from_numpy(np.stack([pixel_classes(scene) for scene in scenes])),
        sky=torch.tensor([scene.content.background.sky for scene in scenes]),
        captions=tuple(scene.captions for scene in scenes),
    )


def pixel_classes(scene: Scene128) -> NDArray[np.uint8]:
    """The class (128, 128) of each pixel, an index into `vocabulary.CLASSES`."""
    background = scene.content.background
    classes = np.full(scene.owner.shape, len(NAMES) + len(GROUNDS) + background.sky, dtype=np.uint8)
    classes[scene.layout.horizon :] = len(NAMES) + background.ground
    kinds = np.array([scene.content.groups[placement.group].object for placement in scene.layout.placements])
    covered = scene.owner > 0
    classes[covered] = kinds[scene.owner[covered] - 1]
    return classes
