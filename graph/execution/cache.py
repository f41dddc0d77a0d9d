"""Caches of values by digest: recent values in memory up to a limit in bytes, and serialisable ones in a folder."""

from __future__ import annotations

import logging
import random
import sys
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.events import Origin
from guidegraph.graph.ir import Op
from guidegraph.graph.planning.digest import FRESH
from guidegraph.graph.types import is_tensor
from guidegraph.graph.values.ownership import IMMUTABLE_SEAL, Seal
from guidegraph.graph.values.serialise import NotSerialisable, find_difference, read_value, write_value
from guidegraph_runtime.error_text import describe_error
from guidegraph_runtime.files.atomic_write import remove_stale_once
from guidegraph_runtime.machine.shortages import explain_shortage, with_shortage

if TYPE_CHECKING:
    from guidegraph.graph.planning.plan import Plan

log = logging.getLogger(__name__)

Values = tuple[Any, ...]
DEPTH = 9
"""How many levels of containers and objects are searched for memory."""
_PLAIN, _PLAIN_BYTES = frozenset({type(None), bool, int, float}), 32
"""Types of plain values, and the bytes that each value counts."""
_ENTRY_BYTES = 288
"""What an entry takes in memory beside its values: its digest, its tuples and its place in the order of use."""


def nbytes(value: Any) -> int:
    """The approximate size of a value in bytes: all of its tensors and parameters, or its own ``nbytes``.

    Memory that it holds several times, such as that of a tensor and its views, counts once.
    """
    return _count_bytes(value, DEPTH, set())


def _count_bytes(value: Any, depth: int, seen: set[int]) -> int:
    """The size of a value. seen: the identities of objects, and of tensors' memory, that were counted already."""
    if value is None or isinstance(value, (bool, int, float)):
        return _PLAIN_BYTES
    if isinstance(value, (str, bytes)):
        return len(value)
    if is_tensor(value):
        return _count_tensor(value, seen)
    if isinstance(held := getattr(value, "nbytes", None), int):
        return held
    if depth == 0:
        return 64
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if hasattr(value, "parameters") and hasattr(value, "buffers"):
        return sum(_count_tensor(tensor, seen) for tensor in (*value.parameters(), *value.buffers()))
    if isinstance(value, dict):
        inner: Iterable[Any] = value.values()
    elif isinstance(value, (list, tuple)):
        inner = value
    elif is_dataclass(value):
        inner = [getattr(value, f.name) for f in fields(value)]
    elif attributes := getattr(value, "__dict__", None):
        inner = attributes.values()
    else:
        return sys.getsizeof(value)
    return sum(_count_bytes(item, depth - 1, seen) for item in inner)


def _count_tensor(tensor: Any, seen: set[int]) -> int:
    """The bytes of a tensor's memory, unless they were counted; of a sparse tensor, those that it would have as a dense
    one."""
    try:
        storage = tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # of another layout
        return int(tensor.numel() * tensor.element_size())
    if storage._cdata in seen:
        return 0
    seen.add(storage._cdata)
    return int(storage.nbytes())


class MemoryCache:
    """The most recently used values, up to ``limit`` bytes. Values changed in place since are dropped (``Seal``)."""

    def __init__(self, limit: int = 2 << 30):
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[str, tuple[Values, Seal, int]] = OrderedDict()

    def begin(self, plan: Plan) -> None:
        """Called at the start of each run with its plan. Does nothing here; subclasses override it."""

    def get(self, digest: str) -> Values | None:
        entry = self._entries.get(digest)
        if entry is None:
            return None
        values, seal, _ = entry
        if not seal.matches(values):
            self.drop(digest)
            return None
        self._entries.move_to_end(digest)
        return values

    def misses(self, digests: Iterable[str]) -> bool:
        """Whether it has values of none of these digests."""
        return self._entries.keys().isdisjoint(digests)

    def put(self, digest: str, values: Values) -> None:
        if digest in self._entries:
            return
        plain = _PLAIN.issuperset(map(type, values))  # of most nodes that compute little, so this costs them little
        size = _ENTRY_BYTES + (_PLAIN_BYTES * len(values) if plain else nbytes(values))
        if size > self.limit:
            return
        self._entries[digest] = (values, IMMUTABLE_SEAL if plain else Seal.of(values), size)
        self.size += size
        while self.size > self.limit:
            _, (_, _, dropped) = self._entries.popitem(last=False)
            self.size -= dropped

    def drop(self, digest: str) -> None:
        """Forget the values of a digest, if there are any."""
        if (entry := self._entries.pop(digest, None)) is not None:
            self.size -= entry[2]

    def clear(self) -> None:
        self._entries.clear()
        self.size = 0


class DiskCache:
    """A folder of safetensors files named by digest. Values that do not serialise, such as models, are not kept.

    Each file carries its digest and a checksum. A file that is damaged or belongs to another digest is removed with a
    warning. If writing fails, for example on a full disk, the cache warns once and stores nothing more.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._writable = True
        for subfolder in folder.glob("[0-9a-f][0-9a-f]") if folder.is_dir() else ():
            remove_stale_once(subfolder)

    def path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def get(self, digest: str, device: str) -> Values | None:
        path = self.path(digest)
        try:
            if not path.exists():
                return None
            value = read_value(path, device, digest)
        except ValueError as error:
            log.warning("a cached value is computed again: %s", error)
            with suppress(OSError):
                path.unlink()
            return None
        except OSError as error:
            log.warning("a cached value is left out: %s", error)
            return None
        return value if isinstance(value, tuple) else None

    def put(self, digest: str, values: Values) -> None:
        if not self._writable:
            return
        try:
            if not self.path(digest).exists():
                write_value(self.path(digest), values, digest)
        except NotSerialisable:
            return
        except (OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, OSError) and not explain_shortage(error):
                raise
            self._writable = False
            reason = with_shortage(describe_error(error), error)
            log.warning("the cache keeps nothing more of this run, which goes on without it: %s", reason)


@dataclass
class Caches:
    """The caches of a run: in memory, in a folder, both or none. device: the torch name of the run's device.

    verify: one in so many values of the folder is computed again, from a random one on; 0: none. expected: what the
    folder has for these, by digest.
    """

    memory: MemoryCache | None
    disk: DiskCache | None
    device: str
    verify: int = 0
    expected: dict[str, Values] = field(default_factory=dict)
    _hits: int = field(default_factory=lambda: random.SystemRandom().randrange(1 << 30))

    @property
    def enabled(self) -> bool:
        return self.memory is not None or self.disk is not None

    def get(self, digest: str) -> tuple[Values, Origin] | None:
        """The values of a digest and the cache that has them, memory first."""
        if digest.startswith(FRESH) or digest in self.expected:
            return None
        if self.memory is not None and (values := self.memory.get(digest)) is not None:
            return values, "memory"
        if self.disk is not None and (values := self.disk.get(digest, self.device)) is not None:
            self._hits += bool(self.verify)
            if self.verify and self._hits % self.verify == 0:
                self.expected[digest] = values
                return None
            if self.memory is not None:
                self.memory.put(digest, values)
            return values, "disk"
        return None

    def misses(self, digests: Iterable[str]) -> bool:
        """Whether it is known, without a look at the folder, that no cache has values of these digests."""
        return self.disk is None and (self.memory is None or self.memory.misses(digests))

    def check(self, op: Op, digest: str, values: Values) -> Origin:
        """Compare the values of an operation with those that the folder has, if it was chosen for that.

        Raises ``GuidegraphError`` if a bit differs.
        """
        expected = self.expected.pop(digest, None)
        if expected is None or self.disk is None:
            return "computed"
        if difference := find_difference(expected, values):
            path = f"nodes.{op.key} ({op.node_id})"
            raise GuidegraphError(
                f"{op.mark}: stale-cache: {path}: the value in the cache differs from the one just computed: "
                f"{difference}; remove '{self.disk.path(digest)}'. If the difference is no rounding, the node depends "
                "on something that is no part of its key: make it a setting of type Path, or mark the node pure=False"
            )
        return "verified"

    def put(self, digest: str, values: Values) -> None:
        """Keep the values of a digest, unless it is new in every run."""
        if digest.startswith(FRESH):
            return
        if self.memory is not None:
            self.memory.put(digest, values)
        if self.disk is not None and values:
            self.disk.put(digest, values)
