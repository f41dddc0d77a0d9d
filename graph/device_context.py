"""The device and dtype of the run in progress, on which nodes create values, and values that the host has read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from guidegraph.graph.late import torch

DTYPES = ("float32", "float64", "float16", "bfloat16")
"""The dtypes that a run can use."""

_device: ContextVar[str] = ContextVar("guidegraph_device", default="cpu")
_dtype: ContextVar[str] = ContextVar("guidegraph_dtype", default="float32")


def current_device() -> torch.device:
    """The device of the run in progress (``cpu`` outside a run)."""
    return torch.device(_device.get())


def current_dtype() -> torch.dtype:
    """The floating dtype of the run in progress (``torch.float32`` outside a run)."""
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
MOST_ROWS, MOST_VALUES = 1024, 2**16
"""How many rows are separated at once, which is faster than one by one; each takes memory for a view. The rows of a
tensor with more values, such as a batch of pictures, stay on the device alone."""


def read_on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor on the CPU, copied once as long as the tensor stays the same."""
    if tensor.device.type == "cpu":
        return tensor
    if tensor.is_inference():  # torch counts no changes to it
        return tensor.cpu()
    read: tuple[int, torch.Tensor] | None = getattr(tensor, ATTRIBUTE, None)
    if read is None or read[0] != tensor._version:
        read = tensor._version, tensor.detach().cpu()
        setattr(tensor, ATTRIBUTE, read)
    return read[1]


def separate_rows(items: Any) -> Any:
    """The rows of a tensor, separated at once; other sequences, and tensors that record gradients, as they are.

    The rows of a small tensor on a device have their values on the host, by one copy of all.
    """
    if type(items) is not torch.Tensor or len(items) > MOST_ROWS or torch.is_grad_enabled():
        return items
    if items.layout != torch.strided:
        return items
    rows = items.unbind()
    if items.device.type != "cpu" and items.numel() <= MOST_VALUES and not items.is_inference():
        for row, value in zip(rows, items.cpu().unbind(), strict=True):
            setattr(row, ATTRIBUTE, (row._version, value))
    return rows
