"""Where a run computes: the device and the floating dtype that nodes should make new values on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float64", "float16", "bfloat16")
"""The dtypes that a run may have."""

_device: ContextVar[str] = ContextVar("guidegraph_device", default="cpu")
_dtype: ContextVar[str] = ContextVar("guidegraph_dtype", default="float32")


def current_device() -> torch.device:
    """The device of the run in progress (``cpu`` outside a run)."""
    import torch

    return torch.device(_device.get())


def current_dtype() -> torch.dtype:
    """The floating dtype of the run in progress (``torch.float32`` outside a run)."""
    import torch

    found: torch.dtype = getattr(torch, _dtype.get())
    return found


@contextmanager
def placement(device: str, dtype: str) -> Iterator[None]:
    """Set device and dtype (their torch names) for the nodes called inside."""
    tokens = _device.set(device), _dtype.set(dtype)
    try:
        yield
    finally:
        _device.reset(tokens[0])
        _dtype.reset(tokens[1])
