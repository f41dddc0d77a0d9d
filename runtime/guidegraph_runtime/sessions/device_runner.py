"""Run parts of a bundle on a device: outputs stay there, and inputs are uploaded when they change."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from guidegraph_runtime.bundle.manifest_types import Tensor
from guidegraph_runtime.sessions.binding import DeviceTensor
from guidegraph_runtime.sessions.broadcasting import Shape, broadcast_shapes
from guidegraph_runtime.sessions.device_values import DeviceValue, as_array_like, prepare_input
from guidegraph_runtime.sessions.sessions import Session

PartInput: TypeAlias = tuple[Tensor, Any, Shape]
"""An input, the value for it, and the shape in which the part takes it."""

Key: TypeAlias = tuple[Session, tuple[tuple[str, Shape], ...]]
"""A session and the shapes of its inputs."""


class _Sources:
    """Remembers the last value of each input. Values of a run never change, so the same one is not set twice."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, Shape]] = {}

    def same(self, name: str, value: Any, due: Shape) -> bool:
        """Whether an input has this value already; if not, forget its last value."""
        last = self._last.get(name)
        if last is not None and last[0] is value and last[1] == due:
            return True
        self._last.pop(name, None)
        return False

    def note(self, name: str, value: Any, due: Shape) -> None:
        """Note that an input was set to a value."""
        self._last[name] = value, due


class BoundPart:
    """Runs a part; its outputs are new tensors at each call."""

    def __init__(self, session: Session) -> None:
        self._session, self._binding, self._sources = session, session.bind(), _Sources()

    def __call__(self, inputs: Sequence[PartInput]) -> dict[str, DeviceValue]:
        for tensor, value, due in inputs:
            if not self._sources.same(tensor.name, value, due):
                self._binding.set(tensor.name, prepare_input(tensor, value, due))
                self._sources.note(tensor.name, value, due)
        return {name: DeviceValue(output, self._session) for name, output in self._binding.run().items()}


class FixedPart:
    """Runs a part whose tensors keep their addresses, so that a CUDA graph can be replayed.

    An output that becomes an input is copied once, into the tensor of the input, which then holds the value. A value
    that is still in use when its tensor is needed is copied out of it first. All copies stay on the device.
    """

    def __init__(self, session: Session, sizes: Mapping[str, int], weights: Mapping[str, Shape]) -> None:
        self._session, self._sources = session, _Sources()
        self._binding = session.bind_fixed(sizes, weights)
        self._inputs = {name: _FixedTensor(tensor) for name, tensor in self._binding.inputs.items()}
        self._outputs = {name: _FixedTensor(tensor) for name, tensor in self._binding.outputs.items()}

    def __call__(self, inputs: Sequence[PartInput]) -> dict[str, DeviceValue]:
        for tensor, value, due in inputs:
            if self._sources.same(tensor.name, value, due):
                continue
            slot = self._inputs[tensor.name]
            slot.vacate(self._session)
            prepared = prepare_input(tensor, value, due)
            self._binding.set(tensor.name, prepared)
            if isinstance(value, DeviceValue) and prepared is value.tensor:
                slot.take(value)
            self._sources.note(tensor.name, value, due)
        for slot in self._outputs.values():
            slot.vacate(self._session)
        values = {name: DeviceValue(tensor, self._session) for name, tensor in self._binding.run().items()}
        for name, value in values.items():
            self._outputs[name].take(value)
        return values


class _FixedTensor:
    """A tensor at a fixed address, and the value that it holds."""

    def __init__(self, tensor: DeviceTensor) -> None:
        self._tensor = tensor
        self._value: weakref.ref[DeviceValue] | None = None

    def take(self, value: DeviceValue) -> None:
        """Make this tensor the memory of a value whose elements it holds."""
        value.tensor, self._value = self._tensor, weakref.ref(value)

    def vacate(self, session: Session) -> None:
        """Copy the value that it holds elsewhere, if the value is still in use."""
        value = self._value() if self._value is not None else None
        if value is not None and value.tensor is self._tensor:
            value.tensor = session.copy_tensor(self._tensor)
        self._value = None


MAX_SHAPES = 8
"""The most sets of shapes of a session whose CUDA graphs are kept: each has tensors of its own."""


@dataclass
class CudaGraphs:
    """The parts with fixed addresses of a bundle, kept from run to run, and the sizes of axes seen so far.

    sizes: in the order of their last use. retired: sessions that no new run uses, of which nothing is kept.
    """

    parts: dict[Key, FixedPart] = field(default_factory=dict)
    sizes: dict[Key, dict[str, int]] = field(default_factory=dict)
    retired: weakref.WeakSet[Session] = field(default_factory=weakref.WeakSet)

    def remember(self, key: Key, sizes: dict[str, int]) -> None:
        """Note the use of a session at some shapes, and drop its earliest shapes beyond ``MAX_SHAPES``."""
        self.sizes.pop(key, None)
        self.sizes[key] = sizes
        self._drop([other for other in self.sizes if other[0] is key[0]][:-MAX_SHAPES])

    def retire(self, sessions: Iterable[Session]) -> None:
        """Drop everything of sessions, and keep nothing of the runs that still use them."""
        self.retired.update(sessions)
        self._drop([key for key in self.sizes if key[0] in self.retired])

    def _drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            del self.sizes[key]
            self.parts.pop(key, None)


class DeviceRunner:
    """Runs parts for one run of a plan.

    With CUDA graphs, the first call at some shapes determines the sizes of all axes, also of outputs. Later calls are
    recorded and replayed, one graph for each set of shapes.
    """

    def __init__(self, graphs: CudaGraphs) -> None:
        self._graphs = graphs
        self._bound: dict[tuple[Session, tuple[str, ...]], BoundPart] = {}

    def __call__(
        self, session: Session, values: Mapping[str, Any], weights: Mapping[str, Any] | None = None
    ) -> dict[str, DeviceValue]:
        """Run a session's part; return its outputs on the device.

        values: an array, number or value on the device for each input. weights: replacements for some of the session's
        weights, in their dtypes and shapes. Raises ``ValueError`` or ``BundleError`` for values that do not fit.
        """
        weights = weights or {}
        inputs = _inputs(session, values, weights)
        if not session.settings.cuda_graph or session in self._graphs.retired:
            return self._part_for(session, weights)(inputs)
        key = session, tuple([(tensor.name, due) for tensor, _, due in inputs])
        if key not in self._graphs.sizes:
            outputs = self._part_for(session, weights)(inputs)
            self._graphs.remember(key, _sizes(session, inputs, outputs))
            return outputs
        self._graphs.remember(key, self._graphs.sizes[key])
        if key not in self._graphs.parts:
            shapes = {tensor.name: due for tensor, _, due in inputs if tensor.name in weights}
            self._graphs.parts[key] = FixedPart(session, self._graphs.sizes[key], shapes)
        return self._graphs.parts[key](inputs)

    def _part_for(self, session: Session, weights: Mapping[str, Any]) -> BoundPart:
        key = session, tuple(weights)
        if key not in self._bound:
            self._bound[key] = BoundPart(session)
        return self._bound[key]


def _inputs(session: Session, values: Mapping[str, Any], weights: Mapping[str, Any]) -> list[PartInput]:
    part = session.part
    due = broadcast_shapes(part, {tensor.name: as_array_like(values[tensor.name]) for tensor in part.inputs})
    inputs = [(tensor, values[tensor.name], shape) for tensor, shape in zip(part.inputs, due, strict=True)]
    return inputs + [(session.weight(name), value, as_array_like(value).shape) for name, value in weights.items()]


def _sizes(session: Session, inputs: Sequence[PartInput], outputs: Mapping[str, DeviceValue]) -> dict[str, int]:
    """The size of each named axis of inputs and outputs."""
    shapes = {tensor.name: due for tensor, _, due in inputs}
    pairs = [(tensor.dims, shapes[tensor.name]) for tensor in session.part.inputs]
    pairs += [(tensor.dims, outputs[tensor.name].shape) for tensor in session.part.outputs]
    return {dim: size for dims, shape in pairs for dim, size in zip(dims, shape, strict=True) if isinstance(dim, str)}
