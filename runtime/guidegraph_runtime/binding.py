"""IO binding: the inputs and outputs of a session stay on its device between runs.

In a loop the output of a step is the input of the next, so nothing is copied to the host until the last one is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.manifest import Part, Tensor
from guidegraph_runtime.providers import Provider
from guidegraph_runtime.shapes import check_tensor, find_input, shape_of

Array: TypeAlias = NDArray[Any]
Value: TypeAlias = NDArray[Any] | np.generic
"""An array, or a NumPy scalar, which counts as a 0-d array."""

NO_GRAPH = -1
"""As the number of a CUDA graph: none is recorded or replayed."""

_DTYPES = {"float": "float32", "double": "float64"}


@runtime_checkable
class DeviceTensor(Protocol):
    """A tensor on a session's device: an `onnxruntime.OrtValue`."""

    def data_type(self) -> str: ...
    def shape(self) -> Sequence[int]: ...
    def numpy(self) -> Array: ...
    def update_inplace(self, data: Any) -> None: ...


class Bindable(Protocol):
    """What a binding needs of a session, so that one that only records can take its place."""

    where: str
    part: Part
    weights: Mapping[str, Tensor]
    session: Any
    onnxruntime: Any

    @property
    def provider(self) -> Provider: ...
    def options(self, adapters: Sequence[Any], graph_id: int) -> Any: ...
    def new_graph_id(self) -> int: ...
    def guard(self, call: Any, *arguments: Any) -> Any: ...
    def call(self, run: Any, *arguments: Any, options: Any) -> Any: ...


class Binding:
    """Tensors on a session's device: `set` gives inputs, which stay until they are set again; `run` gives outputs.

    `session.weights` may be set too: runs with bindings ignore adapters, so this is how weights are exchanged here.
    ``BundleError`` is raised for a name, dtype or shape that the part does not have.
    """

    def __init__(self, session: Bindable):
        self._session = session
        self._inputs = {tensor.name: tensor for tensor in session.part.inputs}
        self._known = self._inputs | dict(session.weights)
        self._values: dict[str, DeviceTensor] = {}
        self._uploaded: dict[str, DeviceTensor] = {}

    def set(self, name: str, value: Value | DeviceTensor) -> None:
        """Give an input: an array, which is copied to the device, or a tensor that is there already.

        An array takes the place of the one given before it, if that is as large. The memory of a tensor is shared, and
        of an array too where the device is the CPU: leave it as it is until the last run with it.
        """
        tensor = find_input(self._session.where, name, self._known)
        if not isinstance(value, DeviceTensor):
            array = np.asarray(value, order="C")
            check_tensor(self._session.where, tensor, str(array.dtype), array.shape, {})
            value = self._on_device(name, array)
        check_tensor(self._session.where, tensor, dtype_name(value.data_type()), value.shape(), {})
        self._values[name] = value

    def run(self) -> dict[str, DeviceTensor]:
        """All outputs by name, on the device. Those of earlier runs keep their values."""
        session, device = self._session, self._session.provider
        self._check_sizes()
        # A new one each time: one that is used again writes into the outputs of the last run, and in onnxruntime 1.26,
        # outputs bound anew or not, the tensors that it gave out then show the values of the next run.
        binding = session.guard(session.session.io_binding)
        for name, value in self._values.items():
            session.guard(binding.bind_ortvalue_input, name, value)
        names = [tensor.name for tensor in session.part.outputs]
        for name in names:
            session.guard(binding.bind_output, name, device.device, device.device_id)
        session.call(session.session.run_with_iobinding, binding, options=session.options((), NO_GRAPH))
        return dict(zip(names, binding.get_outputs(), strict=True))

    def _on_device(self, name: str, array: Array) -> DeviceTensor:
        device, before = self._session.provider, self._uploaded.get(name)
        if before is not None and tuple(before.shape()) == array.shape and device.device != "cpu":
            self._session.guard(before.update_inplace, array)
            return before
        make = self._session.onnxruntime.OrtValue.ortvalue_from_numpy
        value = cast(DeviceTensor, self._session.guard(make, array, device.device, device.device_id))
        self._uploaded[name] = value
        return value

    def _check_sizes(self) -> None:
        sizes: dict[str, int] = {}
        for name, tensor in self._inputs.items():
            if name not in self._values:
                message = f"expected the input '{name}' to be set, found {', '.join(self._values) or 'none'}; set it"
                raise BundleError(self._session.where, "bad-input", message)
            check_tensor(self._session.where, tensor, tensor.dtype, self._values[name].shape(), sizes)


class FixedBinding:
    """A binding whose tensors are made once, for one size of each named axis: their addresses never change.

    With `cuda_graph` in the session's settings the first run records a CUDA graph, and later ones replay it.
    `weights` are the shapes of those of the session's that are to be set as inputs are.
    """

    def __init__(self, session: Bindable, sizes: Mapping[str, int], weights: Mapping[str, Sequence[int]] | None = None):
        self._session = session
        self._inputs = {
            tensor.name: Tensor(tensor.name, tensor.dtype, tuple(shape_of(session.where, tensor, sizes)))
            for tensor in session.part.inputs
        }
        for name, shape in (weights or {}).items():
            tensor = find_input(session.where, name, session.weights)
            check_tensor(session.where, tensor, tensor.dtype, shape, {})
            self._inputs[name] = Tensor(name, tensor.dtype, tuple(shape))
        self._given: set[str] = set()
        self._binding = session.guard(session.session.io_binding)
        self._values = {name: self._empty(tensor, sizes) for name, tensor in self._inputs.items()}
        self._outputs = {tensor.name: self._empty(tensor, sizes) for tensor in session.part.outputs}
        for name, value in self._values.items():
            session.guard(self._binding.bind_ortvalue_input, name, value)
        for name, value in self._outputs.items():
            session.guard(self._binding.bind_ortvalue_output, name, value)
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
        """Copy an array, or a tensor on the device (an output, say), into the place of an input."""
        place = find_input(self._session.where, name, self._inputs)
        if isinstance(value, DeviceTensor):
            check_tensor(self._session.where, place, dtype_name(value.data_type()), value.shape(), {})
        else:
            value = np.asarray(value, order="C")
            check_tensor(self._session.where, place, str(value.dtype), value.shape, {})
        self._session.guard(self._values[name].update_inplace, value)
        self._given.add(name)

    def run(self) -> dict[str, DeviceTensor]:
        """All outputs by name, on the device: the same tensors each time, with the values of this run."""
        if lacking := [name for name in self._inputs if name not in self._given]:
            message = f"expected the input '{lacking[0]}' to be set, found {', '.join(self._given) or 'none'}; set it"
            raise BundleError(self._session.where, "bad-input", message)
        self._session.call(self._session.session.run_with_iobinding, self._binding, options=self._options)
        return dict(self._outputs)

    def _empty(self, tensor: Tensor, sizes: Mapping[str, int]) -> DeviceTensor:
        return empty(self._session, shape_of(self._session.where, tensor, sizes), tensor.dtype)


def empty(session: Bindable, shape: Sequence[int], dtype: str) -> DeviceTensor:
    """A tensor on a session's device with no values yet."""
    device, make = session.provider, session.onnxruntime.OrtValue.ortvalue_from_shape_and_type
    value = session.guard(make, [*shape], np.dtype(dtype), device.device, device.device_id)
    return cast(DeviceTensor, value)


def dtype_name(ort_type: str) -> str:
    """The dtype of onnxruntime's "tensor(…)", as NumPy names it."""
    name = ort_type.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(name, name)
