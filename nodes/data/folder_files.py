"""The files of a folder of pictures as pixels of one size: decoded once when it is read, then as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.data.folder_layout import Layout, listed, report
from guidegraph_runtime.pictures import read_picture, read_rgb, resized

KEPT_BYTES = 256 * 2**20
LARGEST_INDEX = 65_535


class Pixels(NamedTuple):
    """A picture (S, S, 3) uint8 and its map of class indices (S, S) uint8 or uint16, where there is one."""

    image: NDArray[np.uint8]
    map: NDArray[Any] | None

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + (0 if self.map is None else self.map.nbytes)


class Seen(NamedTuple):
    """What is found as a picture is read: its pixels and the classes in its map, or what is wrong with it."""

    pixels: Pixels | None
    classes: frozenset[int]
    problem: str


class Files:
    """The pictures of a layout at `size` × `size`, cut to the centre; up to 256 MiB of them are kept.

    classes: how many classes the maps have, 0 where there are none. All files are decoded as this is made, on a few
    threads, so that a damaged one is found then. Raises ``ValueError`` that names the files.
    """

    def __init__(self, folder: Path, layout: Layout, size: int, classes: int | None) -> None:
        self.folder, self.layout, self.size = folder, layout, size
        self.kept: dict[int, Pixels] = {}
        self.room = KEPT_BYTES
        problems: list[str] = []
        found: set[int] = set()
        with ThreadPoolExecutor(4, thread_name_prefix="guidegraph-folder") as pool:
            for picture, seen in enumerate(windowed(pool, self._look, range(len(layout.pictures)))):
                found |= seen.classes
                problems += [seen.problem] if seen.problem else []
                if seen.pixels is not None:
                    self._keep(picture, seen.pixels)
        report(folder, problems)
        self.classes = count_classes(folder, found, classes) if layout.maps else 0
        if found and max(found) >= self.classes:
            self._blame(self.classes)

    def __getitem__(self, picture: int) -> Pixels:
        if picture not in self.kept:
            pixels, _ = self._read(picture)
            self._keep(picture, pixels)
            return pixels
        return self.kept[picture]

    def _keep(self, picture: int, pixels: Pixels) -> None:
        if pixels.nbytes <= self.room:
            self.kept[picture] = pixels
            self.room -= pixels.nbytes

    def _look(self, picture: int) -> Seen:
        try:
            pixels, classes = self._read(picture)
        except ValueError as error:
            return Seen(None, frozenset(), str(error))
        return Seen(pixels, classes, "")

    def _read(self, picture: int) -> tuple[Pixels, frozenset[int]]:
        name = self.layout.pictures[picture]
        image = named(name, lambda: read_rgb(self.folder / name))
        pixels = np.asarray(resized(image, (self.size, self.size), "crop"))
        if not self.layout.maps:
            return Pixels(pixels, None), frozenset()
        other = self.layout.maps[picture]
        indices = named(other, lambda: read_picture(self.folder / other, indices_of))
        if indices.shape != (image.height, image.width):
            raise ValueError(
                f"{other}: the map has {indices.shape[1]} × {indices.shape[0]} pixels, and {name} has "
                f"{image.width} × {image.height}"
            )
        return Pixels(pixels, cut(indices, self.size)), frozenset(map(int, np.unique(indices)))

    def _blame(self, classes: int) -> None:
        """Raises ``ValueError`` that names the maps with a class that is out of range."""
        problems = []
        for name in self.layout.maps:
            indices = read_picture(self.folder / name, indices_of)
            if (indices >= classes).any():
                y, x = map(int, np.argwhere(indices >= classes)[0])
                problems.append(
                    f"{name}: the class at row {y}, column {x} is {indices[y, x]}; classes are 0 to {classes - 1}"
                )
        report(self.folder, problems)


def windowed(pool: ThreadPoolExecutor, call: Callable[[int], Seen], over: Iterable[int]) -> Iterable[Seen]:
    """`call` of each, in order, with few results waiting at a time: pictures of a large folder are not all held."""
    waiting: list[Any] = []
    for one in over:
        waiting.append(pool.submit(copy_context().run, call, one))  # with the limits that are in force here
        if len(waiting) >= 16:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def named(name: str, read: Callable[[], Any]) -> Any:
    """What `read` gives; any error becomes a ``ValueError`` that begins with the file's name inside of the folder."""
    try:
        return read()
    except Exception as error:  # a damaged file makes decoders raise errors of any kind
        reason = str(error).removeprefix(f"{Path(name).name} ") or type(error).__name__
        raise ValueError(f"{name}: {reason}") from error


def indices_of(picture: Any) -> NDArray[Any]:
    """Class indices (H, W) of a grey picture or one with a palette. Raises ``ValueError`` for one of another mode."""
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


def cut(indices: NDArray[Any], size: int) -> NDArray[Any]:
    """The square in the centre of a map (H, W), at size × size by the nearest pixel, as pictures are cut."""
    height, width = indices.shape
    side = min(height, width)
    centres = (np.arange(size) + 0.5) * side / size
    rows, columns = ((centres + (whole - side) / 2).astype(np.int64) for whole in (height, width))
    square: NDArray[Any] = indices[rows[:, None], columns]
    return square


def count_classes(folder: Path, found: set[int], classes: int | None) -> int:
    """How many classes maps have: as many as is said, or as are found. Raises ``ValueError`` for gaps, or one class."""
    if classes is not None:
        return classes
    missing = sorted(set(range(max(found) + 1)) - found)
    if missing:
        raise ValueError(
            f"'{folder}': the maps hold the classes {listed(map(str, sorted(found)))}, but not "
            f"{listed(map(str, missing))}: "
            "number them 0, 1, 2, … without gaps, or set `map_classes` to say how many there are"
        )
    if len(found) == 1:
        raise ValueError(f"'{folder}': the maps hold a single class, {found.pop()}: there is nothing to tell apart")
    return len(found)
