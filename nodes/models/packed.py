"""Convolutions that keep their weight in the layout that a CPU's kernels read, beside the one it is stored in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PIXELS = 1024
"""The largest map, in pixels of a sample, for which a weight is packed: above it, arithmetic hides the reordering."""

DTYPES = (torch.float32, torch.bfloat16)


class PackedConv2d(nn.Conv2d):
    """A `Conv2d` that, on a CPU and without gradients, has oneDNN reorder its weight once and not at each call.

    On small maps the reordering takes longer than the convolution. A weight is packed at the first call on a map of at
    most 1,024 pixels. What is packed is as large as the weight, and no part of the state: it follows the weight, and
    copies do not take it along. Everywhere else this is `Conv2d`: for gradients, while tracing, on other devices and
    dtypes, and where `packs` is false.
    """

    packs = True

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C′, H′, W′), as `Conv2d`, within the rounding of another order of sums."""
        if not self._packs(x):
            return super().forward(x)
        operators: Any = torch.ops.mkldnn
        weight = self.weight
        settings = list(self.padding), list(self.stride), list(self.dilation), self.groups
        stamp = (id(weight), weight.data_ptr(), weight._version)
        known: tuple[object, Tensor, Tensor] | None = self.__dict__.get("_packed")
        if known is None or known[0] != stamp:  # the weight is kept, so that its id stays its own
            packed = operators._reorder_convolution_weight(weight.detach(), *settings, list(x.shape))
            known = self.__dict__["_packed"] = (stamp, packed, weight)
        out: Tensor = operators._convolution_pointwise(x, known[1], self.bias, *settings, "none", [], "")
        return out

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.__dict__.pop("_packed", None)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

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

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}


def available() -> bool:
    """Whether this torch has oneDNN and the operators by which its compiler packs weights."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def set_packing(module: nn.Module, packs: bool) -> None:
    """Say for all of a network's convolutions whether they may keep a packed weight."""
    for layer in module.modules():
        if isinstance(layer, PackedConv2d):
            layer.packs = packs
