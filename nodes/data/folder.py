"""A user's own folder of pictures as batches: which pictures are in batch i depends on (seed, i) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from guidegraph.graph.digest import path_digest
from guidegraph.graph.types import Tensor
from guidegraph.nodes.data.batches import Batches, to_image
from guidegraph.nodes.data.folder_files import Files
from guidegraph.nodes.data.folder_layout import Kind, Layout, Row, find_layout
from guidegraph.nodes.data.scenes import MOVES, uniforms
from guidegraph.nodes.types import Image, Label, SemanticMap

if TYPE_CHECKING:
    import torch


class FolderBatch(NamedTuple):
    """image (B, 3, S, S) in [-1, 1]; label (B), B captions, semantic (B, K, S, S) one-hot: those that the folder has.

    Any use of another one raises an error that says what the folder holds.
    """

    image: Image
    label: Label
    caption: Sequence[str]
    semantic: SemanticMap


class MissingField(AttributeError, ValueError):
    """A field that a folder's batches do not have is used."""


@dataclass(frozen=True)
class Absent:
    """Stands for what a folder does not hold: any use of it raises ``MissingField`` that says so."""

    message: str

    def __repr__(self) -> str:
        return self.message

    def _fail(self) -> NoReturn:
        raise MissingField(self.message)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._fail()

    def __len__(self) -> int:
        self._fail()

    def __iter__(self) -> Iterator[Any]:
        self._fail()

    def __getitem__(self, index: Any) -> Any:
        self._fail()


Part: TypeAlias = Literal["all", "train", "held_out"]


class Folder(NamedTuple):
    """A folder that was read: its files at one size, and its entries."""

    files: Files
    rows: tuple[Row, ...]
    names: tuple[str, ...]
    kind: Kind


def read_folder(path: Path, kind: Kind, size: int, map_classes: int | None, part: Part = "all") -> Folder:
    """The folder at `path`, every file of it checked. Raises ``ValueError`` that names what is wrong with which file.

    A folder that is asked for again is kept as long as nothing in it has changed. Raises ``ValueError`` where no
    picture is in the part.
    """
    layout = find_layout(path, kind)
    if kind == "classes" and len(layout.names) == 1:
        raise ValueError(f"'{path}' holds a single class, '{layout.names[0]}': there is nothing to tell apart")
    rows = tuple(row for row in layout.rows if in_part(layout.pictures[row.picture], part))
    if not rows:
        raise ValueError(f"no picture of '{path}' is in the part '{part}' (one in ten is held out, by its name)")
    return Folder(_files(path, layout, size, map_classes, path_digest(path)), rows, layout.names, layout.kind)


def in_part(name: str, part: Part) -> bool:
    """Whether a picture is in a part, by its name in the folder alone: others that come leave it where it is."""
    number = crc32(Path(name).as_posix().encode("utf-8", "surrogateescape"))
    return part == "all" or (number % 10 == 0) == (part == "held_out")


@lru_cache(maxsize=2)
def _files(path: Path, layout: Layout, size: int, map_classes: int | None, digest: str) -> Files:
    return Files(path, layout, size, map_classes)


class FolderBatches(Batches[FolderBatch]):
    """Batches on a device, in which every entry comes once before any comes again, in an order that the seed gives."""

    def __init__(self, folder: Folder, seed: int, batch: int, length: int, flip: bool, device: torch.device) -> None:
        super().__init__(length, self.batch_at)
        self.folder, self.seed, self.batch, self.flip, self.device = folder, seed, batch, flip, device

    def chosen(self, index: int) -> list[tuple[Row, bool]]:
        """The entries of batch `index`, and which are mirrored."""
        rows = self.folder.rows
        places = [divmod(index * self.batch + i, len(rows)) for i in range(self.batch)]
        picked = [rows[int(shuffled(self.seed, epoch, len(rows))[place])] for epoch, place in places]
        mirrored = uniforms(self.seed, index, self.batch, MOVES) < 0.5 if self.flip else [False] * self.batch
        return [(row, bool(m)) for row, m in zip(picked, mirrored, strict=True)]

    def batch_at(self, index: int) -> FolderBatch:
        """Batch `index`."""
        return batch_of(self.folder, self.chosen(index), self.device)


@lru_cache(maxsize=4)
def shuffled(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order (count) of the entries in one round through the data."""
    return uniforms(seed, epoch, count).argsort(kind="stable")


def batch_of(folder: Folder, chosen: Sequence[tuple[Row, bool]], device: torch.device) -> FolderBatch:
    """Entries as a batch on a device, some of them mirrored."""
    pixels = [folder.files[row.picture] for row, _ in chosen]
    images = [p.image[:, ::-1] if m else p.image for p, (_, m) in zip(pixels, chosen, strict=True)]
    rows = [row for row, _ in chosen]
    maps = [None if p.map is None else p.map[:, ::-1] if m else p.map for p, (_, m) in zip(pixels, chosen, strict=True)]
    return FolderBatch(to_image(np.stack(images)).to(device), *conditions(folder, rows, maps, device))


def conditions(
    folder: Folder, rows: Sequence[Row], maps: Sequence[Any], device: torch.device
) -> tuple[Label, Sequence[str], SemanticMap]:
    """What belongs to a batch's pictures: labels, captions and one-hot maps, or what says that there are none."""
    import torch

    absent: Any = Absent(
        f"'{folder.files.folder}' is laid out as {folder.kind}: its batches have no such field; set `kind` to say what "
        "a folder must hold"
    )
    label: Any = torch.tensor([row.label for row in rows], device=device) if folder.kind == "classes" else absent
    caption: Any = tuple(row.caption or "" for row in rows) if folder.kind == "captions" else absent
    semantic = one_hot(np.stack(maps), folder.files.classes, device) if folder.kind == "maps" else absent
    return label, caption, semantic


def one_hot(indices: NDArray[Any], classes: int, device: torch.device) -> Tensor:
    """Class indices (B, S, S) as a map (B, K, S, S), float32."""
    import torch

    where = torch.from_numpy(indices.astype(np.int64))[:, None].to(device)
    return torch.zeros(where.shape[0], classes, *where.shape[2:], device=device).scatter_(1, where, 1)
