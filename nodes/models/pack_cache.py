"""Packed weights of convolutions by the layout that oneDNN chooses, which differs from one input size to the next.

A weight in the layout of another size gives the same values, but oneDNN reorders it in each call, with code that takes
up to a hundred times as long as the convolution. So a weight has a packed copy for each layout that its input sizes
ask for; sizes that ask for one layout share one copy. Sizes of 4 × 4 to 32 × 32 have two or three layouts between them.

The copy that was used last is kept as long as its weight. The others are spare: they are kept up to a number of bytes
in all, and those that went out of use first go first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Key: TypeAlias = tuple[object, ...]
"""A weight: the memory that it is in, as an address that comes first, and how it is read and convolved."""

Size: TypeAlias = tuple[int, ...]
"""What a layout is chosen by: the shape of the input, and the number of threads."""

Layout: TypeAlias = bytes
"""A digest of oneDNN's description of a layout; copies with equal ones are interchangeable."""

SIZES = 256
"""The most input sizes of which a weight's layout is remembered; a forgotten one is packed again to learn it."""


class PackedWeight:
    """The packed copies of one version of a weight.

    storage, version: the memory that the copies were made from, and the version that it had then.
    current: the copy that was used last. sizes: the layout of each size that was met. copies: by layout.
    """

    __slots__ = ("copies", "current", "sizes", "storage", "version")

    def __init__(self, storage: StorageWeakRef, version: int) -> None:
        self.storage, self.version = storage, version
        self.current: Layout | None = None
        self.sizes: dict[Size, Layout] = {}
        self.copies: dict[Layout, Tensor] = {}

    def is_of(self, version: int) -> bool:
        """Whether the copies are of what the weight's memory holds now, at this version."""
        return self.version == version and not self.storage.expired()


class PackCache:
    """Packed weights, for all threads of the process.

    spare_limit: the most bytes of copies of which the weight has used another one since.
    measure: the layout of a packed weight, and its bytes.
    """

    def __init__(self, spare_limit: int, measure: Callable[[Tensor], tuple[Layout, int]]) -> None:
        self.spare_limit = spare_limit
        self._measure = measure
        self._weights: dict[Key, PackedWeight] = {}
        self._spare: OrderedDict[tuple[Key, Layout], int] = OrderedDict()
        self._lock = threading.RLock()  # taken again where garbage collection ends a layer in the middle

    def get(self, key: Key, size: Size, storage: StorageWeakRef, version: int, pack: Callable[[], Tensor]) -> Tensor:
        """A weight packed for an input size; ``pack`` makes it where it is not there yet."""
        weight = self._weights.get(key)
        if weight is not None and weight.is_of(version):
            layout = weight.sizes.get(size)
            if layout is not None and layout == weight.current and (copy := weight.copies.get(layout)) is not None:
                return copy
        with self._lock:
            weight = self._weights.get(key)
            if weight is None or not weight.is_of(version):
                self._forget(key)
                self.forget_unused()
                weight = self._weights[key] = PackedWeight(storage, version)
            return self._use(key, weight, size, pack)

    def _use(self, key: Key, weight: PackedWeight, size: Size, pack: Callable[[], Tensor]) -> Tensor:
        """The copy for a size, which becomes the current one."""
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
            self._bound()
        return copy

    def _bound(self) -> None:
        """Let go of the spare copies that went out of use first, until the rest is within the limit."""
        total = sum(self._spare.values())
        while total > self.spare_limit and self._spare:
            (key, layout), freed = self._spare.popitem(last=False)
            total -= freed
            if key in self._weights:
                self._weights[key].copies.pop(layout, None)

    def _forget(self, key: Key) -> None:
        weight = self._weights.pop(key, None)
        for layout in () if weight is None else weight.copies:
            self._spare.pop((key, layout), None)

    def forget(self, address: int) -> None:
        """Let go of what is packed of a tensor's memory."""
        if self._weights:
            with self._lock:
                for key in [key for key in list(self._weights) if key[0] == address]:
                    self._forget(key)

    def forget_unused(self) -> None:
        """Let go of the packed copies of tensors that are gone."""
        with self._lock:
            for key, weight in list(self._weights.items()):
                if weight.storage.expired():
                    self._forget(key)

    def copies(self, address: int) -> list[Tensor]:
        """What is packed of a tensor's memory, as long as it is there."""
        with self._lock:
            weights = [weight for key, weight in self._weights.items() if key[0] == address]
            return [copy for weight in weights if not weight.storage.expired() for copy in weight.copies.values()]

    @property
    def spare_bytes(self) -> int:
        """How many bytes of copies are spare."""
        with self._lock:
            return sum(self._spare.values())

    def __len__(self) -> int:
        """The number of weights that something is packed of."""
        return len(self._weights)
