"""Read the files of a folder once, so that the checked bytes are the bytes that are used.

Files are read, not mapped: a mapping would show changes made after the check.

Memory and time of a part's call, estimated for any size from two that the export measured, and the file of these.

Convolutions and feed-forward layers take memory and time in proportion to the pixels of a sample, and attention to
their square. Times add up, so two measurements give both coefficients. A call takes the memory of its largest
operator: once attention is that, it grows with the square. A batch takes the multiple of one sample.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from guidegraph_runtime.bundle.manifest import MAX_DIM, MAX_SIZE
from guidegraph_runtime.bundle.manifest_types import BATCH, COSTS, Cost, Part, label_problem
from guidegraph_runtime.bundle.strict_json import Cursor, parse_json
from guidegraph_runtime.errors import BundleError, format_value

_PERMISSIONS = "check its permissions"
_LINK_LIKE = 0x400  # FILE_ATTRIBUTE_REPARSE_POINT: links and junctions of Windows
# Flags that a system lacks are 0. Without O_NONBLOCK, opening a pipe would wait for a writer.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def fail(location: str, message: str, do: str = "get the bundle again") -> NoReturn:
    raise BundleError(location, "bad-file", f"{message}; {do}")


def read_file(root: Path, name: str, limit: int, size: int | None = None) -> bytes:
    """Read a regular file in `root`, without following links: at most `limit` bytes and, if given, exactly `size`.

    Raises ``BundleError``, also for a file with several hard links.
    """
    location = str(root / name)
    parts = name.split("/")
    try:
        for i in range(1, len(parts)):
            folder = root.joinpath(*parts[:i])
            status = os.lstat(folder)
            if not stat.S_ISDIR(status.st_mode) or _is_link_like(status):
                fail(str(folder), "expected a folder, found a link or a file")
        before = os.lstat(location)
        _check_regular(location, before)
        descriptor = os.open(location, _FLAGS)
        with open(descriptor, "rb") as file:
            opened = os.fstat(descriptor)
            _check_regular(location, opened)
            if (opened.st_dev, opened.st_ino) != (before.st_dev, before.st_ino):
                fail(location, "expected a file that stays, found that it was replaced while it was opened")
            if size is not None and opened.st_size != size:
                fail(location, f"expected {size} bytes, found {opened.st_size}")
            if opened.st_size > limit:
                fail(location, f"expected at most {limit} bytes, found {opened.st_size}")
            data = file.read(opened.st_size + 1)
        if len(data) != opened.st_size:
            fail(location, f"expected {opened.st_size} bytes, found a file that changed while it was read")
        return data
    except FileNotFoundError:
        fail(location, "expected a file, found nothing")
    except OSError as error:
        fail(location, f"expected a file that can be read, found: {error.strerror}", _PERMISSIONS)
    except MemoryError:
        fail(location, "expected a file that fits in memory, found a larger one", "use a machine with more memory")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_listing(root: Path, files: Collection[str], besides: str) -> None:
    """Refuse anything in `root` that is not one of `files`, `besides`, or one of their folders."""
    folders = {"/".join(name.split("/")[:i]) for name in files for i in range(1, name.count("/") + 1)}
    try:
        for name, entry in _walk_listed(root, "", folders):
            if entry.is_symlink() or _is_link_like(entry.stat(follow_symlinks=False)):
                fail(str(root / name), "expected a file or folder, found a link")
            listed = name in folders if entry.is_dir(follow_symlinks=False) else name in files or name == besides
            if not listed:
                do = "get the bundle again, or remove it if it is yours"
                fail(str(root / name), f"expected only what {besides} lists, found {format_value(name)} too", do)
    except OSError as error:
        fail(str(error.filename or root), f"expected a folder that can be read, found: {error.strerror}", _PERMISSIONS)


def _walk_listed(root: Path, under: str, folders: set[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    # Descend only into listed folders, whose depth is bounded.
    with os.scandir(root / under) as entries:
        for entry in entries:
            name = f"{under}/{entry.name}" if under else entry.name
            yield name, entry
            if name in folders:
                yield from _walk_listed(root, name, folders)


def _check_regular(location: str, status: os.stat_result) -> None:
    if is_link(status):
        fail(location, "expected a file, found a link")
    if not stat.S_ISREG(status.st_mode):
        fail(location, "expected a file, found a folder or a device")
    if status.st_nlink != 1:
        do = "copy the bundle without hard links (cp -r, not cp -rl)"
        fail(location, f"expected a file of one name, found one with {status.st_nlink} hard links", do)


def is_link(status: os.stat_result) -> bool:
    """Whether a result of `os.lstat` is of a link or of a junction of Windows."""
    return stat.S_ISLNK(status.st_mode) or _is_link_like(status)


def _is_link_like(status: os.stat_result) -> bool:
    return bool(getattr(status, "st_file_attributes", 0) & _LINK_LIKE)


_PICTURE_AXES = 4
SQUARE_FROM = 1.2
"""The power of the area beyond which memory that grew so between two sizes belongs to attention."""


class Estimate(NamedTuple):
    """Bytes and seconds of a call."""

    nbytes: int = 0
    seconds: float = 0.0


def read_costs(data: bytes, parts: Mapping[str, Part], location: str = COSTS) -> dict[str, tuple[Cost, ...]]:
    """The measured costs of the calls of parts. Raises ``BundleError`` for a file that is wrong."""
    costs: dict[str, tuple[Cost, ...]] = {}
    top = Cursor(parse_json(data, location), location)
    for name, pair in top.entries(lambda name: None if name in parts else "the name of a part"):
        measured = []
        for item in pair.items():
            fields = item.fields(["sizes", "bytes", "seconds"])
            sizes = {axis: size.integer(1, MAX_DIM) for axis, size in fields["sizes"].entries(label_problem)}
            if (seconds := fields["seconds"].number()) < 0:
                fields["seconds"].fail("a number that is not negative")
            measured.append(Cost(sizes, fields["bytes"].integer(0, MAX_SIZE), seconds))
        if len(measured) != 2 or math.prod(measured[0].sizes.values()) >= math.prod(measured[1].sizes.values()):
            pair.fail("the costs at a smaller and at a larger size")
        costs[name] = tuple(measured)
    return costs


def write_costs(costs: Mapping[str, tuple[Cost, ...]]) -> bytes:
    """The contents of the file that ``read_costs`` reads."""
    content = {
        name: [{"sizes": dict(cost.sizes), "bytes": cost.nbytes, "seconds": cost.seconds} for cost in pair]
        for name, pair in costs.items()
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def list_size_axes(part: Part) -> list[str]:
    """The free axes of the sides of a part's samples: the last two of inputs with four axes or more."""
    sides = (dim for tensor in part.inputs if len(tensor.dims) >= _PICTURE_AXES for dim in tensor.dims[-2:])
    return [*dict.fromkeys(dim for dim in sides if isinstance(dim, str) and dim != BATCH)]


def estimate_cost(part: Part, sizes: Mapping[str, int]) -> Estimate:
    """The cost of a call of a part with these sizes of its axes; zeros if the export has not measured it."""
    if len(part.costs) != 2:
        return Estimate()
    small, large = part.costs
    area, batch = _area(part, sizes), sizes.get(BATCH, 1)
    first, second = _area(part, small.sizes), _area(part, large.sizes)
    if not 0 < first < second:
        return Estimate()
    low, high = (cost.nbytes / cost.sizes.get(BATCH, 1) for cost in (small, large))
    growth = math.log(max(high, 1) / max(low, 1)) / math.log(second / first)
    if area > second:
        growth = 2 if growth > SQUARE_FROM else 1
    nbytes = high * (area / second) ** growth
    # A sample takes b · area + c · area² seconds; low and high are its seconds for each pixel at the two sizes.
    low, high = (cost.seconds / cost.sizes.get(BATCH, 1) for cost in (small, large))
    low, high = low / first, high / second
    quadratic = max(0.0, (high - low) / (second - first))
    linear = max(0.0, high - quadratic * second)
    return Estimate(math.ceil(batch * nbytes), batch * (linear * area + quadratic * area**2))


def _area(part: Part, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes.get(axis, 1) for axis in list_size_axes(part))
