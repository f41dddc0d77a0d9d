"""IO binding: the inputs and outputs of a session stay on its device between runs.

In a loop the output of a step is the input of the next, so nothing is copied to the host until the last one is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest import Part, Tensor
from guidegraph_runtime.errors import BundleError, suggest_name
from guidegraph_runtime.sessions.providers import Provider

Array: TypeAlias = NDArray[Any]
Value: TypeAlias = NDArray[Any] | np.generic
"""An array, or a NumPy scalar, which counts as a 0-d array."""

NO_GRAPH = -1
"""The CUDA graph id that records and replays nothing."""

_DTYPES = {"float": "float32", "double": "float64"}


@runtime_checkable
class DeviceTensor(Protocol):
    """A tensor on a session's device: an `onnxruntime.OrtValue`."""

    def data_type(self) -> str: ...
    def shape(self) -> Sequence[int]: ...
    def numpy(self) -> Array: ...
    def update_inplace(self, data: Any) -> None: ...


class Bindable(Protocol):
    """The interface of a session that a binding uses; tests replace it by a recorder."""

    location: str
    part: Part
    weights: Mapping[str, Tensor]
    session: Any
    onnxruntime: Any

    @property
    def provider(self) -> Provider: ...
    def options(self, adapters: Sequence[Any], graph_id: int) -> Any: ...
    def new_graph_id(self) -> int: ...
    def call_onnxruntime(self, call: Any, *arguments: Any) -> Any: ...
    def call(self, run: Any, *arguments: Any, options: Any) -> Any: ...


class Binding:
    """Tensors on a session's device: `set` sets inputs, which stay until they are set again; `run` returns outputs.

    `session.weights` can be set too: runs with bindings ignore adapters, so this is the way to replace weights.
    Raises ``BundleError`` for a name, dtype or shape that the part does not have.
    """

    def __init__(self, session: Bindable):
        self._session = session
        self._inputs = {tensor.name: tensor for tensor in session.part.inputs}
        self._settable = self._inputs | dict(session.weights)
        self._values: dict[str, DeviceTensor] = {}
        self._uploaded: dict[str, DeviceTensor] = {}

    def set(self, name: str, value: Value | DeviceTensor) -> None:
        """Set an input to an array, which is copied to the device, or to a tensor that is on the device already.

        An array reuses the memory of the previous array of the same shape. The memory of a tensor is shared, and that
        of an array too if the device is the CPU: do not change it until the last run that uses it.
        """
        tensor = find_input(self._session.location, name, self._settable)
        if not isinstance(value, DeviceTensor):
            array = np.asarray(value, order="C")
            check_tensor(self._session.location, tensor, str(array.dtype), array.shape, {})
            device, previous = self._session.provider, self._uploaded.get(name)
            if previous is not None and tuple(previous.shape()) == array.shape and device.device != "cpu":
                self._session.call_onnxruntime(previous.update_inplace, array)
                value = previous
            else:
                make = self._session.onnxruntime.OrtValue.ortvalue_from_numpy
                made = self._session.call_onnxruntime(make, array, device.device, device.device_id)
                value = self._uploaded[name] = cast(DeviceTensor, made)
        check_tensor(self._session.location, tensor, dtype_name(value.data_type()), value.shape(), {})
        self._values[name] = value

    def run(self) -> dict[str, DeviceTensor]:
        """Run the graph; return all outputs by name, on the device. Outputs of earlier runs keep their values."""
        session, device = self._session, self._session.provider
        sizes: dict[str, int] = {}
        for name, tensor in self._inputs.items():
            if name not in self._values:
                message = f"expected the input '{name}' to be set, found {', '.join(self._values) or 'none'}; set it"
                raise BundleError(session.location, "bad-input", message)
            check_tensor(session.location, tensor, tensor.dtype, self._values[name].shape(), sizes)
        # A new binding for each run: a reused one writes into the outputs of the last run. In onnxruntime 1.26 the
        # returned tensors then show the values of the next run, even if the outputs are bound again.
        binding = session.call_onnxruntime(session.session.io_binding)
        for name, value in self._values.items():
            session.call_onnxruntime(binding.bind_ortvalue_input, name, value)
        names = [tensor.name for tensor in session.part.outputs]
        for name in names:
            session.call_onnxruntime(binding.bind_output, name, device.device, device.device_id)
        session.call(session.session.run_with_iobinding, binding, options=session.options((), NO_GRAPH))
        return dict(zip(names, binding.get_outputs(), strict=True))


class FixedBinding:
    """A binding whose tensors are allocated once, for one size of each named axis, so their addresses never change.

    With `cuda_graph` in the session's settings the first run records a CUDA graph, and later runs replay it.
    weights: the shapes of the session's weights that are set like inputs.
    """

    def __init__(self, session: Bindable, sizes: Mapping[str, int], weights: Mapping[str, Sequence[int]] | None = None):
        self._session = session
        self._inputs = {
            tensor.name: Tensor(tensor.name, tensor.dtype, tuple(resolve_shape(session.location, tensor, sizes)))
            for tensor in session.part.inputs
        }
        for name, shape in (weights or {}).items():
            tensor = find_input(session.location, name, session.weights)
            check_tensor(session.location, tensor, tensor.dtype, shape, {})
            self._inputs[name] = Tensor(name, tensor.dtype, tuple(shape))
        self._filled: set[str] = set()
        self._binding = session.call_onnxruntime(session.session.io_binding)
        self._values = {name: self._empty(tensor, sizes) for name, tensor in self._inputs.items()}
        self._outputs = {tensor.name: self._empty(tensor, sizes) for tensor in session.part.outputs}
        for name, value in self._values.items():
            session.call_onnxruntime(self._binding.bind_ortvalue_input, name, value)
        for name, value in self._outputs.items():
            session.call_onnxruntime(self._binding.bind_ortvalue_output, name, value)
        self._options = session.options((), session.new_graph_id())

    @property
    def inputs(self) -> Mapping[str, DeviceTensor]:
        """The tensors that runs read."""
        return self._values

    @property
    def outputs(self) -> Mapping[str, DeviceTensor]:
        """The tensors that runs write."""
        return self._outputs

    def set(self, name: str, value: Value | DeviceTensor) -> None:
        """Copy an array, or a tensor on the device such as an output, into the tensor of an input."""
        tensor = find_input(self._session.location, name, self._inputs)
        if isinstance(value, DeviceTensor):
            check_tensor(self._session.location, tensor, dtype_name(value.data_type()), value.shape(), {})
        else:
            value = np.asarray(value, order="C")
            check_tensor(self._session.location, tensor, str(value.dtype), value.shape, {})
        self._session.call_onnxruntime(self._values[name].update_inplace, value)
        self._filled.add(name)

    def run(self) -> dict[str, DeviceTensor]:
        """Run the graph; return all outputs by name: the same tensors on the device each time, with new values."""
        if lacking := [name for name in self._inputs if name not in self._filled]:
            message = f"expected the input '{lacking[0]}' to be set, found {', '.join(self._filled) or 'none'}; set it"
            raise BundleError(self._session.location, "bad-input", message)
        self._session.call(self._session.session.run_with_iobinding, self._binding, options=self._options)
        return dict(self._outputs)

    def _empty(self, tensor: Tensor, sizes: Mapping[str, int]) -> DeviceTensor:
        return empty(self._session, resolve_shape(self._session.location, tensor, sizes), tensor.dtype)


def empty(session: Bindable, shape: Sequence[int], dtype: str) -> DeviceTensor:
    """Allocate an uninitialised tensor on a session's device."""
    device, make = session.provider, session.onnxruntime.OrtValue.ortvalue_from_shape_and_type
    value = session.call_onnxruntime(make, [*shape], np.dtype(dtype), device.device, device.device_id)
    return cast(DeviceTensor, value)


def dtype_name(ort_type: str) -> str:
    """The NumPy name of the dtype in onnxruntime's "tensor(…)"."""
    name = ort_type.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(name, name)


def check_inputs(
    location: str, part: Part, arrays: Mapping[str, NDArray[Any]], weights: Mapping[str, Tensor] | None = None
) -> dict[str, int]:
    """Check inputs and return the size of each named axis. Raises ``BundleError`` for missing, unknown or wrong inputs.

    weights: the weights of the graph that can be overridden.
    """
    tensors = {tensor.name: tensor for tensor in part.inputs} | dict(weights or {})
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        check_tensor(location, find_input(location, name, tensors), _dtype(array.dtype), array.shape, sizes)
    for tensor in part.inputs:
        if tensor.name not in arrays:
            _fail(location, f"expected the input '{tensor.name}', found {', '.join(arrays) or 'none'}; give it too")
    return sizes


def find_input(location: str, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The input of that name. Raises ``BundleError`` for an unknown name."""
    if name not in tensors:
        _fail(location, f"expected the name of an input, found '{name}'; {suggest_name(name, tensors)}")
    return tensors[name]


def check_tensor(location: str, tensor: Tensor, dtype: str, shape: Sequence[int], sizes: dict[str, int]) -> None:
    """Check one input, and record the sizes of its named axes in `sizes`, with which it must agree."""
    if dtype != tensor.dtype:
        _fail(location, f"expected '{tensor.name}' of dtype {tensor.dtype}, found {dtype}; convert it")
    if len(shape) != len(tensor.dims):
        _fail(location, f"expected '{tensor.name}' of shape {_axes(tensor)}, found {tuple(shape)}")
    for size, dim in zip(shape, tensor.dims, strict=True):
        if isinstance(dim, int) and size != dim:
            _fail(location, f"expected '{tensor.name}' of shape {_axes(tensor)}, found {tuple(shape)}")
        if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
            actual = f"{tuple(shape)}, while {dim} is {sizes[dim]} in another input"
            _fail(location, f"expected '{tensor.name}' of shape {_axes(tensor)}, found {actual}")


def resolve_shape(location: str, tensor: Tensor, sizes: Mapping[str, int]) -> list[int]:
    """The shape of a tensor for these sizes of the named axes. Raises ``BundleError`` if a size is missing."""
    for dim in tensor.dims:
        if isinstance(dim, str) and dim not in sizes:
            _fail(location, f"expected the size of axis '{dim}' of '{tensor.name}', found {suggest_name(dim, sizes)}")
    return [dim if isinstance(dim, int) else sizes[dim] for dim in tensor.dims]


@cache
def _dtype(dtype: Any) -> str:
    # Cached, since NumPy builds the text each time, which takes longer than the other checks of a step.
    return str(dtype)


def _axes(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.dims))}{',' if len(tensor.dims) == 1 else ''})"


def _fail(location: str, message: str) -> NoReturn:
    raise BundleError(location, "bad-input", message)
