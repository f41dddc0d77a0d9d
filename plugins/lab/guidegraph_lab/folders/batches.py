"""A user's folder of pictures as batches. The pictures of batch i depend on (seed, i) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, TypeAlias
from unicodedata import normalize
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from guidegraph.graph.late import torch
from guidegraph.graph.planning.digest import path_digest
from guidegraph.nodes.training.batches import Batches, one_hot, to_image
from guidegraph.nodes.types import Image, Label, SemanticMap
from guidegraph.nodes.uniforms import MOVES, uniforms
from guidegraph_lab.folders.layout import (
    FolderLayout,
    FolderRow,
    LayoutKind,
    find_layout,
    join_names,
    raise_problems,
)
from guidegraph_runtime.pictures.picture_files import read_picture, read_rgb, resize_picture

KEPT_BYTES = 256 * 2**20
LARGEST_INDEX = 65_535


class Pixels(NamedTuple):
    """A picture (S, S, 3) uint8 and its map of class indices (S, S) uint8 or uint16, if it has one."""

    image: NDArray[np.uint8]
    map: NDArray[Any] | None

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + (0 if self.map is None else self.map.nbytes)


class ReadResult(NamedTuple):
    """The result of reading a picture: its pixels and the classes in its map, or a problem."""

    pixels: Pixels | None
    classes: frozenset[int]
    problem: str


class FolderFiles:
    """The pictures of a layout at `size` × `size`, cropped to the centre; up to 256 MiB of them are cached.

    classes: number of classes in the maps, 0 without maps. The constructor decodes all files, on a few threads, to
    find damaged ones early. Raises ``ValueError`` that names these files.
    """

    def __init__(self, folder: Path, layout: FolderLayout, size: int, classes: int | None) -> None:
        self.folder, self.layout, self.size = folder, layout, size
        self.cache: dict[int, Pixels] = {}
        self.free_bytes = KEPT_BYTES
        problems: list[str] = []
        classes_in_maps: set[int] = set()
        with ThreadPoolExecutor(4, thread_name_prefix="guidegraph-folder") as pool:
            for picture, result in enumerate(map_in_window(pool, self._try_read, range(len(layout.pictures)))):
                classes_in_maps |= result.classes
                problems += [result.problem] if result.problem else []
                if result.pixels is not None:
                    self._keep(picture, result.pixels)
        raise_problems(folder, problems)
        self.classes = count_classes(folder, classes_in_maps, classes) if layout.maps else 0
        if classes_in_maps and max(classes_in_maps) >= self.classes:
            self._raise_out_of_range(self.classes)

    def __getitem__(self, picture: int) -> Pixels:
        if picture not in self.cache:
            pixels, _ = self._read(picture)
            self._keep(picture, pixels)
            return pixels
        return self.cache[picture]

    def _keep(self, picture: int, pixels: Pixels) -> None:
        if pixels.nbytes <= self.free_bytes:
            self.cache[picture] = pixels
            self.free_bytes -= pixels.nbytes

    def _try_read(self, picture: int) -> ReadResult:
        try:
            pixels, classes = self._read(picture)
        except ValueError as error:
            return ReadResult(None, frozenset(), str(error))
        return ReadResult(pixels, classes, "")

    def _read(self, picture: int) -> tuple[Pixels, frozenset[int]]:
        name = self.layout.pictures[picture]
        image = read_named(name, lambda: read_rgb(self.folder / name))
        pixels = np.asarray(resize_picture(image, (self.size, self.size), "crop"))
        if not self.layout.maps:
            return Pixels(pixels, None), frozenset()
        map_name = self.layout.maps[picture]
        indices = read_named(map_name, lambda: read_picture(self.folder / map_name, indices_of))
        if indices.shape != (image.height, image.width):
            raise ValueError(
                f"{map_name}: the map has {indices.shape[1]} × {indices.shape[0]} pixels, and {name} has "
                f"{image.width} × {image.height}"
            )
        return Pixels(pixels, crop_map(indices, self.size)), frozenset(map(int, np.unique(indices)))

    def _raise_out_of_range(self, classes: int) -> None:
        """Raise ``ValueError`` that names the maps with a class that is out of range."""
        problems = []
        for name in self.layout.maps:
            indices = read_picture(self.folder / name, indices_of)
            if (indices >= classes).any():
                y, x = map(int, np.argwhere(indices >= classes)[0])
                problems.append(
                    f"{name}: the class at row {y}, column {x} is {indices[y, x]}; classes are 0 to {classes - 1}"
                )
        raise_problems(self.folder, problems)


def map_in_window(
    pool: ThreadPoolExecutor, call: Callable[[int], ReadResult], over: Iterable[int]
) -> Iterable[ReadResult]:
    """Call `call` on each item in the pool, in order, with at most 16 results pending, to bound memory."""
    waiting: list[Any] = []
    for item in over:
        waiting.append(pool.submit(copy_context().run, call, item))  # keeps the limits of this context
        if len(waiting) >= 16:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def read_named(name: str, read: Callable[[], Any]) -> Any:
    """Call `read`; any error becomes a ``ValueError`` that begins with the file's name in the folder."""
    try:
        return read()
    except Exception as error:  # decoders raise errors of any kind for a damaged file
        reason = str(error).removeprefix(f"{Path(name).name} ") or type(error).__name__
        raise ValueError(f"{name}: {reason}") from error


def indices_of(picture: Any) -> NDArray[Any]:
    """Class indices (H, W) of a grey picture or one with a palette. Raises ``ValueError`` for other modes."""
    if picture.mode not in ("1", "L", "P") and not picture.mode.startswith("I"):
        raise ValueError(
            f"expected the index of a class in each pixel, grey or with a palette; found mode {picture.mode}"
        )
    indices = np.array(picture)
    if indices.dtype == np.bool_:
        return indices.astype(np.uint8)
    if indices.size and (indices.min() < 0 or indices.max() > LARGEST_INDEX):
        raise ValueError(f"classes are 0 to {LARGEST_INDEX}; found {indices.min()} to {indices.max()}")
    return indices.astype(np.uint8 if indices.dtype == np.uint8 else np.uint16)


def crop_map(indices: NDArray[Any], size: int) -> NDArray[Any]:
    """Crop a map (H, W) to its central square, at size × size by the nearest pixel, as pictures are cropped."""
    height, width = indices.shape
    side = min(height, width)
    centres = (np.arange(size) + 0.5) * side / size
    rows, columns = ((centres + (length - side) / 2).astype(np.int64) for length in (height, width))
    square: NDArray[Any] = indices[rows[:, None], columns]
    return square


def count_classes(folder: Path, present: set[int], classes: int | None) -> int:
    """The number of classes, by default those present in the maps. Raises ``ValueError`` for gaps, or one class."""
    if classes is not None:
        return classes
    missing = sorted(set(range(max(present) + 1)) - present)
    if missing:
        raise ValueError(
            f"'{folder}': the maps hold the classes {join_names(map(str, sorted(present)))}, but not "
            f"{join_names(map(str, missing))}: "
            "number them 0, 1, 2, … without gaps, or set `map_classes` to say how many there are"
        )
    if len(present) == 1:
        raise ValueError(f"'{folder}': the maps hold a single class, {present.pop()}: there is nothing to tell apart")
    return len(present)


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
    absent_field: Any = AbsentField(
        f"'{folder.files.folder}' is laid out as {folder.kind}: its batches have no such field; set `kind` to say what "
        "a folder must hold"
    )
    label: Any = torch.tensor([row.label for row in rows], device=device) if folder.kind == "classes" else absent_field
    caption: Any = tuple(row.caption or "" for row in rows) if folder.kind == "captions" else absent_field
    semantic = one_hot(np.stack(maps), folder.files.classes).to(device) if folder.kind == "maps" else absent_field
    return label, caption, semantic
