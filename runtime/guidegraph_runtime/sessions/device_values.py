"""Values of a run that stay on the device of its sessions until the host reads them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Tensor
from guidegraph_runtime.sessions.binding import DeviceTensor, dtype_name
from guidegraph_runtime.sessions.broadcasting import Shape, broadcast_to

Array = NDArray[Any]


class Guards(Protocol):
    """The interface of a session that its values on the device use."""

    def call_onnxruntime(self, call: Any, *arguments: Any) -> Any: ...


class DeviceValue:
    """A tensor on the device of a session. It never changes, and is copied to the host once, on the first read.

    shape: sizes of its axes. dtype: its NumPy name. tensor: its current memory, which may be replaced by a copy.
    """

    __slots__ = ("__weakref__", "_array", "_session", "dtype", "shape", "tensor")

    def __init__(self, tensor: DeviceTensor, session: Guards) -> None:
        self.tensor, self._session = tensor, session
        self.shape: Shape = tuple(tensor.shape())
        self.dtype = dtype_name(tensor.data_type())
        self._array: Array | None = None

    def array(self) -> Array:
        """Copy the elements to the host. Raises ``BundleError`` if the device fails."""
        if self._array is None:
            self._array = np.asarray(self._session.call_onnxruntime(self.tensor.numpy))
        return self._array


def to_host(value: Any) -> Any:
    """Copy a value on a device to an array on the host; return any other value unchanged."""
    return value.array() if isinstance(value, DeviceValue) else value


def to_placeholder(value: Any) -> Any:
    """Replace a value on a device by zeros of its shape and dtype, in the memory of one element."""
    return np.broadcast_to(np.zeros((), value.dtype), value.shape) if isinstance(value, DeviceValue) else value


def as_array_like(value: Any) -> DeviceValue | Array:
    """Return a value on a device unchanged, and any other value as an array, so that the result has a shape."""
    return value if isinstance(value, DeviceValue) else np.asarray(value)


def prepare_input(tensor: Tensor, value: Any, due: Shape) -> DeviceTensor | Array:
    """Prepare a value for an input: a matching value on the device unchanged, others as an array of the due shape."""
    if isinstance(value, DeviceValue) and value.dtype == tensor.dtype and value.shape == due:
        return value.tensor
    return broadcast_to(tensor, np.asarray(to_host(value)), due)
