"""A user's own folder of pictures: for training a first stage and a denoiser, and for judging what they draw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

from annotated_types import Ge, Le

from guidegraph.graph.context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.graph.types import is_tensor
from guidegraph.nodes.data.folder import FolderBatch, FolderBatches, Part, batch_of, read_folder, shuffled
from guidegraph.nodes.data.folder_latents import FolderLatentBatch, FolderLatents
from guidegraph.nodes.data.folder_layout import Kind
from guidegraph.nodes.types import Autoencoder

Seed: TypeAlias = Annotated[int, Ge(0)]
Count: TypeAlias = Annotated[int, Ge(1)]
Classes: TypeAlias = Annotated[int, Ge(2), Le(65_536)]


class FolderData(NamedTuple):
    """Batches, and what a model for them needs: classes and their names, the words of the captions, classes of maps."""

    batches: Sequence[FolderBatch]
    pictures: int
    classes: int
    names: Sequence[str]
    words: Sequence[str]
    map_classes: int


@node("data.folder")
def folder(
    *,
    path: Path,
    kind: Kind = "auto",
    size: Count = 64,
    batch: Count = 64,
    count: Count = 100_000,
    seed: Seed = 0,
    flip: bool = True,
    map_classes: Classes | None = None,
    part: Part = "all",
) -> FolderData:
    """`count` batches of the pictures in a folder, with their labels, captions or maps; batch i depends on (seed, i).

    path: the folder. kind: how it is laid out: `classes` (a folder for each class), `captions` (pictures, and
    captions.csv or metadata.csv with columns file and caption), `maps` (images/NAME.* and maps/NAME.png, the index of a
    class in each pixel), `pictures` (alone), or `auto`, what is there. size: pictures are cut to the square in the
    centre and resized to so many pixels a side. batch: pictures in each; all come once before any comes again.
    flip: mirror half of them.
    map_classes: how many classes the maps have; by default as many as are found. part: `train` leaves out about one
    picture in ten, by its name, and `held_out` has those alone; more pictures in the folder leave these where they are.
    Outputs that a layout does not have are 0 or empty. All files are read first: raises an error that names each one
    that is damaged, missing or does not fit.
    """
    found = read_folder(path, kind, size, map_classes, part)
    words = {word for row in found.rows if row.caption for word in re.findall(r"\w+|[^\w\s]+", row.caption.lower())}
    return FolderData(
        FolderBatches(found, seed, batch, count, flip, current_device()),
        len({row.picture for row in found.rows}),
        len(found.names),
        list(found.names),
        sorted(words),
        found.files.classes,
    )


@node("data.folder_sample")
def folder_sample(
    *,
    path: Path,
    kind: Kind = "auto",
    size: Count = 64,
    count: Count = 64,
    start: Seed = 0,
    seed: Seed = 0,
    map_classes: Classes | None = None,
    part: Part = "all",
) -> FolderBatch:
    """Up to `count` entries of a folder in an order that `seed` gives, from entry `start` on: a reference, say.

    path, kind, size, map_classes and part: as for `data.folder`. Pictures are not mirrored, and none comes twice.
    Raises an error where there are not as many as `start`.
    """
    found = read_folder(path, kind, size, map_classes, part)
    if start >= len(found.rows):
        raise ValueError(f"there is no entry {start}: '{path}' has {len(found.rows)}, counted from 0")
    order = shuffled(seed, 0, len(found.rows))[start : start + count]
    made = batch_of(found, [(found.rows[int(i)], False) for i in order], current_device())
    semantic = made.semantic.to(current_dtype()) if is_tensor(made.semantic) else made.semantic
    return made._replace(image=made.image.to(current_dtype()), semantic=semantic)


class FolderLatentData(NamedTuple):
    batches: Sequence[FolderLatentBatch]


@node("data.folder_latents")
def folder_latents(batches: Sequence[FolderBatch], autoencoder: Autoencoder) -> FolderLatentData:
    """The batches of `data.folder` with latents in place of pictures, for a denoiser whose first stage is frozen.

    Each picture is encoded when it first comes, and once more mirrored; up to 1 GiB of latents are kept.
    Raises an error for batches of another data set.
    """
    if not isinstance(batches, FolderBatches):
        raise ValueError(f"expected the batches of data.folder, found {type(batches).__name__}: use data.latents")
    return FolderLatentData(FolderLatents(batches, autoencoder, current_device()))
