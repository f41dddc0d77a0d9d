"""Reads the header of a GGUF file: its metadata, and the names, shapes, types and places of its tensors.

The format is described in ggml's docs/gguf.md, versions 2 and 3, little-endian. The `gguf` package reads it too, but
trusts
the counts of a file: a damaged one fills the memory.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
"""Tensors begin at multiples of this, if the metadata lacks `general.alignment`."""

MAX_BYTES = 64 << 20
"""Longest header; the vocabulary of a large language model, with the pairs that it joins, takes a quarter of it."""

MAX_COUNT = 100_000
"""Most tensors, and most keys of metadata."""

MAX_ITEMS = 1 << 22
"""Most texts in a list of metadata; the vocabulary of a language model has fewer."""

MAX_AXES = 4
MAX_SIDE = 1 << 48
"""Longest axis, also of a tensor without values, which no file would end before."""

MAX_NUMBERS = 8
"""Most numbers of a list that is kept: a shape has fewer."""

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Codes of `struct` by the format's types of values."""

STRING, ARRAY = 8, 9


class DamagedHeader(ValueError):
    """A header that does not keep to the format; the message is one clause."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file: its shape with the outermost axis first, the number of its type, and its place in bytes."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """The header of a file. metadata: numbers, texts, and lists of at most eight numbers; other lists are None."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]


def read_header(data: memoryview) -> GgufHeader:
    """Read the header of a file's bytes. Raises ``DamagedHeader``."""
    reader = _Reader(data)
    if bytes(data[:4]) != MAGIC:
        raise DamagedHeader("it does not begin with GGUF")
    reader.position = 4
    version = reader.scalar("I")
    if version not in VERSIONS:
        raise DamagedHeader(f"its version is {version}, and only 2 and 3, little-endian, are read")
    tensor_count, key_count = reader.count("tensors"), reader.count("keys of metadata")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = reader.text()
        metadata[key] = reader.value(reader.scalar("I"))
    infos = [reader.tensor() for _ in range(tensor_count)]
    if len({info.name for info in infos}) < len(infos):
        raise DamagedHeader("two of its tensors have one name")
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise DamagedHeader(f"its alignment is {alignment!r:.20}, and is a power of two")
    start = -(-reader.position // alignment) * alignment
    return GgufHeader(
        metadata, tuple(TensorInfo(info.name, info.shape, info.type, start + info.offset) for info in infos)
    )


class _Reader:
    """Reads values one after the other, none beyond the end of the file or of the longest header."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.end = min(len(data), MAX_BYTES)
        self.position = 0

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        start = self.position
        self.move_to(start + count)
        return self.data[start : self.position]

    def move_to(self, position: int) -> None:
        """Go on at a position."""
        if position > self.end:
            raise self.make_overrun()
        self.position = position

    def make_overrun(self) -> DamagedHeader:
        """The error of a header that does not end in time."""
        limit = f"the longest header, {MAX_BYTES}" if self.end < len(self.data) else f"its {self.end}"
        return DamagedHeader(f"its header ends beyond {limit} bytes")

    def scalar(self, code: str) -> Any:
        """The next number or flag."""
        form = f"<{code}"
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, things: str) -> int:
        number: int = self.scalar("Q")
        if number > MAX_COUNT:
            raise DamagedHeader(f"it declares {number} {things}, and {MAX_COUNT} are the most")
        return number

    def text(self) -> str:
        try:
            return str(self.take(self.scalar("Q")), "utf-8")
        except UnicodeDecodeError:
            raise DamagedHeader("a name in it is not UTF-8") from None

    def value(self, kind: int) -> Any:
        """The next value of metadata; None for a list of texts, or of more numbers than a shape has."""
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise DamagedHeader(f"its metadata has a value of type {kind}, which is not known")
        item, length = self.scalar("I"), self.scalar("Q")
        if item in SCALARS:
            form = SCALARS[item]
            piece = self.take(struct.calcsize(f"<{form}") * length)
            return list(struct.unpack(f"<{length}{form}", piece)) if length <= MAX_NUMBERS else None
        if item != STRING or length > MAX_ITEMS:
            raise DamagedHeader(f"its metadata has a list of {length} values of type {item}, which is not read")
        self.skip_texts(length)
        return None

    def skip_texts(self, count: int) -> None:
        """Go on behind a list of texts: each is its length, eight bytes, and its bytes."""
        read_length = struct.Struct("<Q").unpack_from
        position, last = self.position, self.end - 8
        for _ in range(count):
            if position > last:
                raise self.make_overrun()
            position += 8 + read_length(self.data, position)[0]
        self.move_to(position)

    def tensor(self) -> TensorInfo:
        """The next tensor; its offset counts from the end of the header."""
        name = self.text()
        axes = self.scalar("I")
        if not 1 <= axes <= MAX_AXES:
            raise DamagedHeader(f"'{name:.60}' has {axes} axes, and 1 to {MAX_AXES} are possible")
        shape = tuple(self.scalar("Q") for _ in range(axes))[::-1]
        if max(shape) > MAX_SIDE:
            raise DamagedHeader(f"'{name:.60}' has an axis of {max(shape)}, and {MAX_SIDE} is the most")
        return TensorInfo(name, shape, self.scalar("I"), self.scalar("Q"))
