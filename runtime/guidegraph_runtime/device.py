"""Values of a run that stay on the device of its sessions until the host reads them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.binding import DeviceTensor, dtype_name
from guidegraph_runtime.fitting import Shape, fit
from guidegraph_runtime.manifest_types import Tensor

Array = NDArray[Any]


class Guards(Protocol):
    """What a value needs of the session that made it, whose memory it is."""

    def guard(self, call: Any, *arguments: Any) -> Any: ...


class DeviceValue:
    """A tensor on the device of a session. It never changes, and is copied to the host once, when it is first read.

    shape: sizes of its axes. dtype: as NumPy names it. tensor: where it is now; a copy elsewhere may take its place.
    """

    __slots__ = ("__weakref__", "_array", "_session", "dtype", "shape", "tensor")

    def __init__(self, tensor: DeviceTensor, session: Guards) -> None:
        self.tensor, self._session = tensor, session
        self.shape: Shape = tuple(tensor.shape())
        self.dtype = dtype_name(tensor.data_type())
        self._array: Array | None = None

    def array(self) -> Array:
        """Its elements on the host. Raises ``BundleError`` where the device fails."""
        if self._array is None:
            self._array = np.asarray(self._session.guard(self.tensor.numpy))
        return self._array


def on_host(value: Any) -> Any:
    """The array of a value on a device; any other value as it is."""
    return value.array() if isinstance(value, DeviceValue) else value


def stand_in(value: Any) -> Any:
    """For a value on a device, zeros of its shape and dtype that take the memory of one; any other value as it is."""
    return np.broadcast_to(np.zeros((), value.dtype), value.shape) if isinstance(value, DeviceValue) else value


def shaped(value: Any) -> DeviceValue | Array:
    """What has a value's shape: a value on a device as it is, any other as an array."""
    return value if isinstance(value, DeviceValue) else np.asarray(value)


def placed(tensor: Tensor, value: Any, due: Shape) -> DeviceTensor | Array:
    """What to set an input to: a value on the device as it is where it fits, anything else as a fitting array."""
    if isinstance(value, DeviceValue) and value.dtype == tensor.dtype and value.shape == due:
        return value.tensor
    return fit(tensor, np.asarray(on_host(value)), due)
