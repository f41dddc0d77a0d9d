"""A user's folder of pictures, to train a first stage and a denoiser, and to evaluate their pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

import numpy as np
from annotated_types import Ge, Le

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.training.precision import without_autocast
from guidegraph.graph.types import Tensor, is_tensor
from guidegraph.nodes.training.batches import Batches, to_image
from guidegraph.nodes.types import Autoencoder, Label, Latent, SemanticMap
from guidegraph_lab.folders.batches import (
    FolderBatch,
    FolderBatches,
    Subset,
    build_batch,
    build_conditions,
    epoch_order,
    read_folder,
)
from guidegraph_lab.folders.layout import FolderRow, LayoutKind

Seed: TypeAlias = Annotated[int, Ge(0)]
Count: TypeAlias = Annotated[int, Ge(1)]
Classes: TypeAlias = Annotated[int, Ge(2), Le(65_536)]


class FolderData(NamedTuple):
    """Batches, with settings for a model: classes and their names, the words of the captions, classes of maps."""

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
    kind: LayoutKind = "auto",
    size: Count = 64,
    batch: Count = 64,
    count: Count = 100_000,
    seed: Seed = 0,
    flip: bool = True,
    map_classes: Classes | None = None,
    part: Subset = "all",
) -> FolderData:
    """`count` batches of the pictures in a folder, with their labels, captions or maps; batch i depends on (seed, i).

    path: the folder. kind: its layout: `classes` (a folder for each class), `captions` (pictures, and captions.csv or
    metadata.csv with columns file and caption), `maps` (images/NAME.* and maps/NAME.png, with the index of a class in
    each pixel), `pictures` (alone), or `auto`, to detect it. size: pictures are cropped to the square in the centre and
    resized to this many pixels a side. batch: pictures in each batch; each occurs once per epoch.
    flip: mirror half of them.
    map_classes: number of classes in the maps; by default those present. part: `train` leaves out about one picture in
    ten, by its name, and `held_out` has only those; adding pictures to the folder does not move any between the two.
    Outputs that the layout does not have are 0 or empty. All files are read first: raises an error that names each
    damaged, missing or unsuitable file.
    """
    data = read_folder(path, kind, size, map_classes, part)
    words = {word for row in data.rows if row.caption for word in re.findall(r"\w+|[^\w\s]+", row.caption.lower())}
    return FolderData(
        FolderBatches(data, seed, batch, count, flip, current_device()),
        len({row.picture for row in data.rows}),
        len(data.names),
        list(data.names),
        sorted(words),
        data.files.classes,
    )


@node("data.folder_sample")
def folder_sample(
    *,
    path: Path,
    kind: LayoutKind = "auto",
    size: Count = 64,
    count: Count = 64,
    start: Seed = 0,
    seed: Seed = 0,
    map_classes: Classes | None = None,
    part: Subset = "all",
) -> FolderBatch:
    """Up to `count` pictures of a folder in an order set by `seed`, from number `start` on, such as a reference set.

    Pictures are not mirrored, and no picture occurs twice: of several captions, one is drawn by `seed`.
    path, kind, size, map_classes and part: as for `data.folder`. Raises an error if there are `start` pictures or
    fewer.
    """
    data = read_folder(path, kind, size, map_classes, part)
    rows: dict[int, FolderRow] = {}
    for i in epoch_order(seed, 0, len(data.rows)):
        rows.setdefault(data.rows[int(i)].picture, data.rows[int(i)])
    if start >= len(rows):
        raise ValueError(f"there is no picture {start}: '{path}' has {len(rows)}, counted from 0")
    sample = build_batch(data, [(row, False) for row in list(rows.values())[start : start + count]], current_device())
    semantic = sample.semantic.to(current_dtype()) if is_tensor(sample.semantic) else sample.semantic
    return sample._replace(image=sample.image.to(current_dtype()), semantic=semantic)


class FolderLatentBatch(NamedTuple):
    """A FolderBatch with the latent (B, C, h, w) of `autoencoder.encode` instead of its pictures."""

    latent: Latent
    label: Label
    caption: Sequence[str]
    semantic: SemanticMap


class FolderLatents(Batches[FolderLatentBatch]):
    """The batches of a folder as latents; up to 1 GiB of latents are cached in float16, and returned as float32.

    Each picture is encoded alone, so that its latent does not depend on the batch in which it first occurs: a resumed
    training gets the same latents as an uninterrupted one.
    """

    def __init__(self, batches: FolderBatches, autoencoder: Autoencoder, device: torch.device) -> None:
        super().__init__(len(batches))
        self.batches, self.autoencoder, self.device = batches, autoencoder, device
        self.cache: dict[tuple[int, bool], Tensor] = {}
        self.free_bytes = KEPT_BYTES

    def make(self, index: int) -> FolderLatentBatch:
        """Batch `index`."""
        selected = self.batches.select_rows(index)
        folder, rows = self.batches.folder, [row for row, _ in selected]
        latent = torch.cat([self.latent(row.picture, mirrored) for row, mirrored in selected])
        maps = [self.map_of(row.picture, mirrored) for row, mirrored in selected] if folder.kind == "maps" else []
        return FolderLatentBatch(latent.to(self.device).float(), *build_conditions(folder, rows, maps, self.device))

    def map_of(self, picture: int, mirrored: bool) -> np.ndarray:
        """The class indices (S, S) of a picture's map."""
        indices = self.batches.folder.files[picture].map
        assert indices is not None
        return indices[:, ::-1] if mirrored else indices

    def latent(self, picture: int, mirrored: bool) -> Tensor:
        """The latent (1, C, h, w) of a picture, encoded in full precision and rounded to float16."""
        key = (picture, mirrored)
        if key in self.cache:
            return self.cache[key]
        image = self.batches.folder.files[picture].image
        pixels = to_image((image[:, ::-1] if mirrored else image)[None]).to(self.device)
        with torch.no_grad(), without_autocast(self.device):
            latent = self.autoencoder.encode(pixels).half().cpu()
        if latent.nbytes <= self.free_bytes:
            self.cache[key] = latent
            self.free_bytes -= latent.nbytes
        return latent


class FolderLatentData(NamedTuple):
    batches: Sequence[FolderLatentBatch]


@node("data.folder_latents")
def folder_latents(batches: Sequence[FolderBatch], autoencoder: Autoencoder) -> FolderLatentData:
    """The batches of `data.folder` with latents instead of pictures, for a denoiser with a frozen first stage.

    Each picture is encoded on first use, and once more mirrored; up to 1 GiB of latents are cached.
    Raises an error for batches of another data set.
    """
    if not isinstance(batches, FolderBatches):
        raise ValueError(f"expected the batches of data.folder, found {type(batches).__name__}: use data.latents")
    return FolderLatentData(FolderLatents(batches, autoencoder, current_device()))


KEPT_BYTES = 1024 * 2**20
