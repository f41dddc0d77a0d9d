"""A user's folder of pictures as batches. The pictures of batch i depend on (seed, i) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, NoReturn, TypeAlias
from unicodedata import normalize
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from guidegraph.graph.planning.digest import path_digest
from guidegraph.nodes.data.batches import Batches, one_hot, to_image
from guidegraph.nodes.data.folders.files import FolderFiles
from guidegraph.nodes.data.folders.layout import FolderLayout, FolderRow, LayoutKind, find_layout
from guidegraph.nodes.data.scenes import MOVES, uniforms
from guidegraph.nodes.types import Image, Label, SemanticMap

if TYPE_CHECKING:
    import torch


class FolderBatch(NamedTuple):
    """image (B, 3, S, S) in [-1, 1]; label (B), B captions and semantic (B, K, S, S) one-hot, if the folder has them.

    Any use of a field that the folder lacks raises an error with the folder's layout.
    """

    image: Image
    label: Label
    caption: Sequence[str]
    semantic: SemanticMap


class MissingField(AttributeError, ValueError):
    """Raised on use of a field that a folder's batches lack."""


@dataclass(frozen=True)
class AbsentField:
    """Stands for a field that a folder lacks. Any use raises ``MissingField`` with the message."""

    message: str
    __guidegraph_absent__: ClassVar[bool] = True

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


Subset: TypeAlias = Literal["all", "train", "held_out"]


class Folder(NamedTuple):
    """A folder after reading: its files at one size, and its rows."""

    files: FolderFiles
    rows: tuple[FolderRow, ...]
    names: tuple[str, ...]
    kind: LayoutKind


def read_folder(path: Path, kind: LayoutKind, size: int, map_classes: int | None, part: Subset = "all") -> Folder:
    """Read the folder at `path` and check every file. Raises ``ValueError`` that names the files and their problems.

    The last two folders are cached until something in them changes. Raises ``ValueError`` if no picture is in the part.
    """
    layout = find_layout(path, kind)
    if kind == "classes" and len(layout.names) == 1:
        raise ValueError(f"'{path}' holds a single class, '{layout.names[0]}': there is nothing to tell apart")
    rows = tuple(row for row in layout.rows if is_in_subset(layout.pictures[row.picture], part))
    if not rows:
        raise ValueError(f"no picture of '{path}' is in the part '{part}' (one in ten is held out, by its name)")
    return Folder(_open_files(path, layout, size, map_classes, path_digest(path)), rows, layout.names, layout.kind)


def is_in_subset(name: str, part: Subset) -> bool:
    """Whether a picture is in a part. This depends on its name in the folder alone, not on the other pictures.

    Names count in Unicode's form NFC, however the file system stores them.
    """
    number = crc32(normalize("NFC", Path(name).as_posix()).encode("utf-8", "surrogateescape"))
    return part == "all" or (number % 10 == 0) == (part == "held_out")


@lru_cache(maxsize=2)
def _open_files(path: Path, layout: FolderLayout, size: int, map_classes: int | None, digest: str) -> FolderFiles:
    return FolderFiles(path, layout, size, map_classes)


class FolderBatches(Batches[FolderBatch]):
    """Batches on a device. Every row occurs once per epoch, in an order that depends on the seed."""

    def __init__(self, folder: Folder, seed: int, batch: int, length: int, flip: bool, device: torch.device) -> None:
        super().__init__(length)
        self.folder, self.seed, self.batch, self.flip, self.device = folder, seed, batch, flip, device

    def select_rows(self, index: int) -> list[tuple[FolderRow, bool]]:
        """The rows of batch `index`, each with whether it is mirrored."""
        rows = self.folder.rows
        positions = [divmod(index * self.batch + i, len(rows)) for i in range(self.batch)]
        selected = [rows[int(epoch_order(self.seed, epoch, len(rows))[position])] for epoch, position in positions]
        mirrored = uniforms(self.seed, index, self.batch, MOVES) < 0.5 if self.flip else [False] * self.batch
        return [(row, bool(is_mirrored)) for row, is_mirrored in zip(selected, mirrored, strict=True)]

    def make(self, index: int) -> FolderBatch:
        """Batch `index`."""
        return build_batch(self.folder, self.select_rows(index), self.device)


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order (count) of the rows in one epoch."""
    return uniforms(seed, epoch, count).argsort(kind="stable")


def build_batch(folder: Folder, selected: Sequence[tuple[FolderRow, bool]], device: torch.device) -> FolderBatch:
    """Build a batch on a device from rows and whether each is mirrored."""
    pixels = [folder.files[row.picture] for row, _ in selected]
    images = [p.image[:, ::-1] if m else p.image for p, (_, m) in zip(pixels, selected, strict=True)]
    rows = [row for row, _ in selected]
    maps = [
        None if p.map is None else p.map[:, ::-1] if m else p.map for p, (_, m) in zip(pixels, selected, strict=True)
    ]
    return FolderBatch(to_image(np.stack(images)).to(device), *build_conditions(folder, rows, maps, device))


def build_conditions(
    folder: Folder, rows: Sequence[FolderRow], maps: Sequence[Any], device: torch.device
) -> tuple[Label, Sequence[str], SemanticMap]:
    """Labels, captions and one-hot maps of a batch's pictures; those that the folder lacks are ``AbsentField``."""
    import torch

    absent_field: Any = AbsentField(
        f"'{folder.files.folder}' is laid out as {folder.kind}: its batches have no such field; set `kind` to say what "
        "a folder must hold"
    )
    label: Any = torch.tensor([row.label for row in rows], device=device) if folder.kind == "classes" else absent_field
    caption: Any = tuple(row.caption or "" for row in rows) if folder.kind == "captions" else absent_field
    semantic = one_hot(np.stack(maps), folder.files.classes).to(device) if folder.kind == "maps" else absent_field
    return label, caption, semantic
