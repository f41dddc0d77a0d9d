"""Convolutions that keep their weight in the layout that a CPU's kernels read, beside the one it is stored in."""

from __future__ import annotations

import weakref
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

PIXELS = 1024
"""The largest map, in pixels of a sample, for which a weight is packed: above it, arithmetic hides the reordering."""

DTYPES = (torch.float32, torch.bfloat16)

Key: TypeAlias = tuple[object, ...]

_packed: dict[Key, tuple[StorageWeakRef, Tensor]] = {}
"""Packed weights by what they were made of: copies of a model that share tensors share these too."""


class PackedConv2d(nn.Conv2d):
    """A `Conv2d` that, on a CPU and without gradients, has oneDNN reorder its weight once and not at each call.

    On small maps the reordering takes longer than the convolution. A weight is packed at the first call on a map of at
    most 1,024 pixels. What is packed is as large as the weight, no part of the state, and made anew when the weight has
    changed. Everywhere else this is `Conv2d`: for gradients, while tracing, on other devices and dtypes, and where
    `packs` is false.
    """

    packs = True

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C′, H′, W′), as `Conv2d`, within the rounding of another order of sums."""
        if not self._packs(x):
            return super().forward(x)
        operators: Any = torch.ops.mkldnn
        settings = list(self.padding), list(self.stride), list(self.dilation), self.groups
        out: Tensor = operators._convolution_pointwise(x, self._weight(x), self.bias, *settings, "none", [], "")
        return out

    def _weight(self, x: Tensor) -> Tensor:
        weight = self.weight
        storage = StorageWeakRef(weight.untyped_storage())
        settings = (self.padding, self.stride, self.dilation, self.groups)
        place = (storage.cdata, weight.storage_offset())
        key = (*place, weight.shape, weight.stride(), weight.dtype, weight._version, *settings)
        known = _packed.get(key)
        if known is None or known[0].expired():
            operators: Any = torch.ops.mkldnn
            packed = operators._reorder_convolution_weight(weight.detach(), *settings, list(x.shape))
            forget_unused(place)
            known = _packed[key] = (storage, packed)
            weakref.finalize(self, forget_unused)
        return known[1]

    def _packs(self, x: Tensor) -> bool:
        weight = self.weight
        return (
            self.packs
            and x.shape[-2] * x.shape[-1] <= PIXELS
            and x.device.type == weight.device.type == "cpu"
            and x.dtype == weight.dtype
            and weight.dtype in DTYPES
            and weight.shape[-1] > 1
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and not torch.is_grad_enabled()
            and type(x) is Tensor
            and not torch.compiler.is_compiling()
            and available()
        )


def forget_unused(changed: Key = ()) -> None:
    """Let go of the packed weights of tensors that are gone, and of older states of one that has changed."""
    for key, (storage, _) in list(_packed.items()):
        if storage.expired() or key[:2] == changed:
            _packed.pop(key, None)


def available() -> bool:
    """Whether this torch has oneDNN and the operators by which its compiler packs weights."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def set_packing(module: nn.Module, packs: bool) -> None:
    """Say for all of a network's convolutions whether they may keep a packed weight."""
    for layer in module.modules():
        if isinstance(layer, PackedConv2d):
            layer.packs = packs
