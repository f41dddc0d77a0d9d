"""The device and dtype of the run in progress, on which nodes create values, and values that the host has read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float64", "float16", "bfloat16")
"""The dtypes that a run can use."""

_device: ContextVar[str] = ContextVar("guidegraph_device", default="cpu")
_dtype: ContextVar[str] = ContextVar("guidegraph_dtype", default="float32")


def current_device() -> torch.device:
    """The device of the run in progress (``cpu`` outside a run)."""
    import torch

    return torch.device(_device.get())


def current_dtype() -> torch.dtype:
    """The floating dtype of the run in progress (``torch.float32`` outside a run)."""
    import torch

    dtype: torch.dtype = getattr(torch, _dtype.get())
    return dtype


@contextmanager
def use_device(device: str, dtype: str) -> Iterator[None]:
    """Set device and dtype (their torch names) for nodes called inside the ``with`` block."""
    tokens = _device.set(device), _dtype.set(dtype)
    try:
        yield
    finally:
        _device.reset(tokens[0])
        _dtype.reset(tokens[1])


ATTRIBUTE = "_guidegraph_host_value"
"""Of a tensor on a device: the number of changes to it, and its values then on the CPU."""
MOST_VALUES = 2**16
"""The rows of a larger tensor, such as a batch of pictures, stay on the device alone."""


def read_on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor on the CPU, copied once as long as the tensor stays the same."""
    if tensor.device.type == "cpu":
        return tensor
    changes = _count_changes(tensor)
    read: tuple[int, torch.Tensor] | None = getattr(tensor, ATTRIBUTE, None)
    if read is None or read[0] != changes:
        read = changes, tensor.detach().cpu()
        setattr(tensor, ATTRIBUTE, read)
    return read[1]


def separate_rows(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a tensor; those of a small one have their values on the host, by one copy of all."""
    rows = [*tensor.unbind()]
    if tensor.device.type != "cpu" and tensor.numel() <= MOST_VALUES:
        for row, value in zip(rows, tensor.detach().cpu().unbind(), strict=True):
            setattr(row, ATTRIBUTE, (_count_changes(row), value))
    return rows


def _count_changes(tensor: Any) -> int:
    return 0 if tensor.is_inference() else int(tensor._version)
