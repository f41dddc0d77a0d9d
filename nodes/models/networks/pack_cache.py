"""Packed weights of convolutions by the layout that oneDNN chooses, which differs from one input size to the next.

A weight in the layout of another size gives the same values, but oneDNN then reorders it in each call, which can take a
hundred times as long as the convolution. So a weight has a packed copy for each layout that its input sizes need; sizes
with the same layout share a copy. Sizes of 4 × 4 to 32 × 32 have two or three layouts between them.

The most recently used copy is kept as long as its weight. The others are spare: they are kept up to a total number of
bytes, and the least recently used are dropped first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Key: TypeAlias = tuple[object, ...]
"""Identifies a weight: the address of its memory first, then its strides and the settings of the convolution."""

Size: TypeAlias = tuple[tuple[int, ...], int]
"""The shape of the input and the number of threads, which determine the layout."""

Layout: TypeAlias = bytes
"""A digest of oneDNN's description of a layout; copies with equal ones are interchangeable."""

SIZES = 256
"""Most input sizes whose layout is remembered for a weight; a dropped size is packed again."""


class PackedWeight:
    """The packed copies of one version of a weight.

    storage, version: the memory that the copies were made from, and its version then.
    current: the layout used last. sizes: the layout of each size seen. copies: by layout.
    """

    __slots__ = ("copies", "current", "sizes", "storage", "version")

    def __init__(self, storage: StorageWeakRef, version: int) -> None:
        self.storage, self.version = storage, version
        self.current: Layout | None = None
        self.sizes: dict[Size, Layout] = {}
        self.copies: dict[Layout, Tensor] = {}


class PackCache:
    """Packed weights, for all threads of the process.

    spare_limit: most bytes of spare copies. measure: returns the layout of a packed weight and its bytes.
    """

    def __init__(self, spare_limit: int, measure: Callable[[Tensor], tuple[Layout, int]]) -> None:
        self.spare_limit = spare_limit
        self._measure = measure
        self._weights: dict[Key, PackedWeight] = {}
        self._spare: OrderedDict[tuple[Key, Layout], int] = OrderedDict()
        self._lock = threading.RLock()  # reentrant: garbage collection may finalise a layer while it is held

    def get(self, key: Key, size: Size, storage: StorageWeakRef, version: int, pack: Callable[[], Tensor]) -> Tensor:
        """Return a weight packed for an input size; ``pack`` makes it if it is missing."""
        weight = self._weights.get(key)
        if weight is not None and weight.version == version and not weight.storage.expired():
            layout = weight.sizes.get(size)
            if layout is not None and layout == weight.current and (copy := weight.copies.get(layout)) is not None:
                return copy
        with self._lock:
            weight = self._weights.get(key)
            if weight is None or weight.version != version or weight.storage.expired():
                self._forget(key)
                self.forget_unused()
                weight = self._weights[key] = PackedWeight(storage, version)
            return self._use(key, weight, size, pack)

    def _use(self, key: Key, weight: PackedWeight, size: Size, pack: Callable[[], Tensor]) -> Tensor:
        """Return the copy for a size, and make it the current one."""
        layout = weight.sizes.get(size)
        copy = None if layout is None else weight.copies.get(layout)
        if layout is None or copy is None:
            packed = pack()
            layout, _ = self._measure(packed)
            copy = weight.copies.setdefault(layout, packed)
            while len(weight.sizes) >= SIZES:
                weight.sizes.pop(next(iter(weight.sizes)))
            weight.sizes[size] = layout
        if layout != weight.current:
            if weight.current is not None:
                _, size_of_copy = self._measure(weight.copies[weight.current])
                self._spare[key, weight.current] = size_of_copy
            self._spare.pop((key, layout), None)
            weight.current = layout
            total = sum(self._spare.values())
            while total > self.spare_limit and self._spare:  # drop the least recently used spare copies
                (other, spare), freed = self._spare.popitem(last=False)
                total -= freed
                if other in self._weights:
                    self._weights[other].copies.pop(spare, None)
        return copy

    def _forget(self, key: Key) -> None:
        weight = self._weights.pop(key, None)
        for layout in () if weight is None else weight.copies:
            self._spare.pop((key, layout), None)

    def forget(self, address: int) -> None:
        """Drop the packed copies of a tensor's memory."""
        if self._weights:
            with self._lock:
                for key in [key for key in list(self._weights) if key[0] == address]:
                    self._forget(key)

    def forget_unused(self) -> None:
        """Drop the packed copies of tensors that no longer exist."""
        with self._lock:
            for key in list(self._weights):  # not items: their tuples may start a collection, which calls `forget`
                weight = self._weights.get(key)
                if weight is not None and weight.storage.expired():
                    self._forget(key)

    def copies(self, address: int) -> list[Tensor]:
        """The packed copies of a tensor's memory, if the tensor still exists."""
        with self._lock:
            weights = [self._weights.get(key) for key in list(self._weights) if key[0] == address]
            kept = [weight for weight in weights if weight is not None and not weight.storage.expired()]
            return [copy for weight in kept for copy in weight.copies.values()]

    @property
    def spare_bytes(self) -> int:
        """Bytes of the spare copies."""
        with self._lock:
            return sum(self._spare.values())

    def __len__(self) -> int:
        """The number of weights with packed copies."""
        return len(self._weights)
