"""Convolutions in the layout of the device's policy: a second copy of the weight as the CPU's kernels read it.

oneDNN chooses a layout for each input size. A weight in the layout of another size gives the same values, but oneDNN
then reorders it in each call, which can take a hundred times as long as the convolution. So a weight has a packed copy
for each layout that its input sizes need; sizes with the same layout share a copy. Sizes of 4 × 4 to 32 × 32 have two
or three layouts between them.

The most recently used copy is kept as long as its weight. The others are spare: they are kept up to a total number of
bytes, and the least recently used are dropped first.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from guidegraph.graph.hardware.policy import CPU_POLICY, Layout
from guidegraph.nodes.shape_checks import is_transformed

Key: TypeAlias = tuple[object, ...]
"""Identifies a weight: the address of its memory first, then its strides and the settings of the convolution."""

Size: TypeAlias = tuple[tuple[int, ...], int]
"""The shape of the input and the number of threads, which determine the layout."""

PackedLayout: TypeAlias = bytes
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
        self.current: PackedLayout | None = None
        self.sizes: dict[Size, PackedLayout] = {}
        self.copies: dict[PackedLayout, Tensor] = {}


class PackCache:
    """Packed weights, for all threads of the process.

    spare_limit: most bytes of spare copies. measure: returns the layout of a packed weight and its bytes.
    """

    def __init__(self, spare_limit: int, measure: Callable[[Tensor], tuple[PackedLayout, int]]) -> None:
        self.spare_limit = spare_limit
        self._measure = measure
        self._weights: dict[Key, PackedWeight] = {}
        self._spare: OrderedDict[tuple[Key, PackedLayout], int] = OrderedDict()
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


SPARE = 1 << 30
"""Most bytes of spare packed weights (`PackCache`)."""

_watched: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Layers that drop unused packed weights when they are finalised."""


class PackedConv2d(nn.Conv2d):
    """A `Conv2d` that, on a CPU and with a frozen weight, takes the layout of the policy (`graph/hardware/policy.py`).

    For maps of at most 1,024 pixels oneDNN reorders the weight once instead of at each call, which takes longer than
    the convolution. A weight is packed at the first call with each input size; sizes with the same oneDNN layout share
    a copy. A copy is as large as the weight and not part of the state. It is made again when the weight has changed, as
    PyTorch counts changes: in-place operators, and other memory. Writes to a frozen weight through `.data` or a NumPy
    array are not counted, as they are not for gradients. Nor are a fused optimiser's: after it, a weight that
    was frozen before is packed again if a call in between saw that it trains, or `torch.compile` traced one. Spare
    copies are kept up to 1 GiB in total.
    In all other cases this is `Conv2d`: with gradients, and for weights in training; while tracing, under transforms
    such as `vmap` and `jvp`, and with autocast; on other devices and dtypes. If `packs` is false nothing is packed.
    """

    packs = True

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C′, H′, W′), as `Conv2d`, up to rounding from another order of sums."""
        weight = self.weight  # once, as modules look up their parameters slowly
        layout = self._choose_layout(x, weight)
        if layout != "packed":
            arranged = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
            return super().forward(arranged)
        settings = self.padding, self.stride, self.dilation, self.groups
        storage = StorageWeakRef(weight.untyped_storage())
        key = (storage.cdata, weight.storage_offset(), weight.shape, weight.stride(), weight.dtype, settings)

        def pack() -> Tensor:
            if self not in _watched:
                _watched.add(self)
                weakref.finalize(self, forget_unused)
            packed: Tensor = _operators()._reorder_convolution_weight(weight.detach(), *settings, x.shape)
            return packed

        packed = CACHE.get(key, (x.shape, torch.get_num_threads()), storage, weight._version, pack)
        out: Tensor = _convolve()(x, packed, self.bias, *settings, "none", (), "")
        return out

    def _choose_layout(self, x: Tensor, weight: Tensor) -> Layout:
        """The policy's layout, if oneDNN computes this call directly, on plain tensors and without gradients."""
        if weight.requires_grad:  # first: an optimiser may write to it uncounted
            forget_traced(weight) if torch.compiler.is_compiling() else forget(weight)
            return "as_given"
        if not (
            not torch.compiler.is_compiling()
            and weight.is_cpu
            and x.is_cpu
            and type(x) is Tensor
            and type(weight) in (Tensor, nn.Parameter)
            and not torch.is_grad_enabled()
            and not is_transformed()  # before sizes are read: a trace would record that
            and x.ndim == 4
            and x.numel() > 0
            and x.shape[1] == weight.shape[1] * self.groups
            and weight.shape[-1] > 1
            and x.dtype == weight.dtype
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and not torch.is_autocast_enabled("cpu")
            and not weight.is_inference()
            and torch._C._get_mkldnn_enabled()
            and is_available(weight.dtype)
        ):
            return "as_given"
        layout = decide_layout(weight.dtype, x.shape[-2] * x.shape[-1])
        return "as_given" if layout == "packed" and not self.packs else layout


decide_layout = lru_cache(maxsize=1024)(CPU_POLICY.layout)
"""The policy's layout for a dtype and a number of pixels, decided once for each."""


def forget_unused() -> None:
    """Drop the packed weights of tensors that no longer exist."""
    CACHE.forget_unused()


def forget(weight: Tensor) -> None:
    """Drop the packed copies of a tensor, or of the tensor that a transform of `torch.func` wraps."""
    if not len(CACHE):
        return
    functorch: Any = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(weight):
        weight = functorch.get_unwrapped(weight)
    CACHE.forget(weight.untyped_storage()._cdata)


def forget_traced(weight: Tensor) -> bool:
    """Call `forget` at compile time, not each time the compiled code runs."""
    forget(weight)
    return True


# What `torch.compiler.assume_constant_result` does, without its import of all of dynamo: called once, while tracing.
forget_traced._dynamo_marked_constant = True  # type: ignore[attr-defined]


def measure_layout(packed: Tensor) -> tuple[bytes, int]:
    """Return the layout of a packed weight, as a digest of oneDNN's description, and its bytes."""
    description: Tensor = _operators()._get_mkldnn_serialized_md(packed)
    digest = hashlib.blake2b(description.numpy().tobytes(), digest_size=16).digest()
    return digest, int(_operators()._nbytes(packed))


CACHE = PackCache(SPARE, measure_layout)
"""Packed weights by the memory they were made from; model copies that share tensors share these too."""


@cache
def _operators() -> Any:
    return torch.ops.mkldnn


@cache
def _convolve() -> Any:
    return _operators()._convolution_pointwise.default


@cache
def is_available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether oneDNN supports the dtype here, and this torch has the operators that its compiler packs weights with."""
    own = ("_reorder_convolution_weight", "_convolution_pointwise", "_get_mkldnn_serialized_md", "_nbytes")
    names = (*own, "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(_operators(), name) for name in names):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(_operators()._is_mkldnn_bf16_supported()))


def set_packing(module: nn.Module, packs: bool) -> None:
    """Allow or forbid packed weights for all convolutions of a network."""
    for layer in module.modules():
        if isinstance(layer, PackedConv2d):
            layer.packs = packs
