"""The device and floating dtype of the run in progress, on which nodes create new values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

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
