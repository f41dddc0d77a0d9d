"""The precision of torch's matrix products in float32, which torch has two interfaces for.

`torch.set_float32_matmul_precision` sets it for all devices, `fp32_precision` of `torch.backends` for some. torch
raises an error if it is asked for the first after the second was set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias


class DevicePrecision(NamedTuple):
    """The precision for each device, as `fp32_precision` has it: ieee, tf32, bf16 or none."""

    cuda: str
    cpu: str

    def __str__(self) -> str:
        return f"{self.cuda} on CUDA and {self.cpu} on the CPU"


Precision: TypeAlias = str | DevicePrecision
"""highest, high or medium; by device where these words do not describe it."""


def make_precision_reader(torch: Any) -> Callable[[], Precision]:
    """A function that reads the precision."""
    read_word = torch.get_float32_matmul_precision
    backends = torch.backends

    def read_precision() -> Precision:
        try:
            word: str = read_word()
        except RuntimeError:
            return DevicePrecision(backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision)
        return word

    return read_precision


def set_precision(torch: Any, precision: Precision) -> None:
    """Set a precision that was read before."""
    if isinstance(precision, str):
        torch.set_float32_matmul_precision(precision)
    else:
        torch.backends.cuda.matmul.fp32_precision = precision.cuda
        torch.backends.mkldnn.matmul.fp32_precision = precision.cpu
