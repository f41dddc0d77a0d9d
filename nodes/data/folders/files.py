"""The files of a folder of pictures as pixels of one size: all decoded once on reading, then again as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.data.folders.layout import FolderLayout, join_names, raise_problems
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
