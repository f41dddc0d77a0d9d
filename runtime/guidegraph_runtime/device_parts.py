"""Parts of a bundle on a device: what they give stays there, what they are given goes there when it is another."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from guidegraph_runtime.binding import DeviceTensor
from guidegraph_runtime.device import DeviceValue, placed, shaped
from guidegraph_runtime.fitting import Shape, due_shapes
from guidegraph_runtime.manifest_types import Tensor
from guidegraph_runtime.sessions import Session

Given: TypeAlias = tuple[Tensor, Any, Shape]
"""An input, the value for it, and the shape in which the part takes it."""

Key: TypeAlias = tuple[Session, tuple[tuple[str, Shape], ...]]
"""A session and the shapes of all that it is given."""


class _Sources:
    """What each input was last set to. Values of a run do not change, so the same one need not be set again."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, Shape]] = {}

    def same(self, name: str, value: Any, due: Shape) -> bool:
        """Whether an input has this value already; if not, its last one is let go."""
        last = self._last.get(name)
        if last is not None and last[0] is value and last[1] == due:
            return True
        self._last.pop(name, None)
        return False

    def note(self, name: str, value: Any, due: Shape) -> None:
        """An input was set to a value."""
        self._last[name] = value, due


class BoundPart:
    """A part whose outputs are new tensors at each call."""

    def __init__(self, session: Session) -> None:
        self._session, self._binding, self._sources = session, session.bind(), _Sources()

    def __call__(self, inputs: Sequence[Given]) -> dict[str, DeviceValue]:
        for tensor, value, due in inputs:
            if not self._sources.same(tensor.name, value, due):
                self._binding.set(tensor.name, placed(tensor, value, due))
                self._sources.note(tensor.name, value, due)
        return {name: DeviceValue(one, self._session) for name, one in self._binding.run().items()}


class FixedPart:
    """A part whose tensors keep their addresses, so that a CUDA graph can be replayed.

    An output that is given back to the part is copied once, into the place of the input; then it is there that it
    lies. A value that is still in use when its place is needed is copied out of it first. All of that on the device.
    """

    def __init__(self, session: Session, sizes: Mapping[str, int], weights: Mapping[str, Shape]) -> None:
        self._session, self._sources = session, _Sources()
        self._binding = session.bind_fixed(sizes, weights)
        self._inputs = {name: _Place(tensor) for name, tensor in self._binding.inputs.items()}
        self._outputs = {name: _Place(tensor) for name, tensor in self._binding.outputs.items()}

    def __call__(self, inputs: Sequence[Given]) -> dict[str, DeviceValue]:
        for tensor, value, due in inputs:
            if self._sources.same(tensor.name, value, due):
                continue
            place = self._inputs[tensor.name]
            place.vacate(self._session)
            found = placed(tensor, value, due)
            self._binding.set(tensor.name, found)
            if isinstance(value, DeviceValue) and found is value.tensor:
                place.take(value)
            self._sources.note(tensor.name, value, due)
        for place in self._outputs.values():
            place.vacate(self._session)
        values = {name: DeviceValue(tensor, self._session) for name, tensor in self._binding.run().items()}
        for name, value in values.items():
            self._outputs[name].take(value)
        return values


class _Place:
    """A tensor at a fixed address, and the value that lies in it."""

    def __init__(self, tensor: DeviceTensor) -> None:
        self._tensor = tensor
        self._lying: weakref.ref[DeviceValue] | None = None

    def take(self, value: DeviceValue) -> None:
        """From now on a value whose elements are here lies here."""
        value.tensor, self._lying = self._tensor, weakref.ref(value)

    def vacate(self, session: Session) -> None:
        """Copy the value that lies here elsewhere, if anything still holds it."""
        value = self._lying() if self._lying is not None else None
        if value is not None and value.tensor is self._tensor:
            value.tensor = session.copied(self._tensor)
        self._lying = None


@dataclass
class Graphs:
    """The parts with fixed addresses of a bundle, which last from run to run, and the sizes of axes seen so far."""

    parts: dict[Key, FixedPart] = field(default_factory=dict)
    sizes: dict[Key, dict[str, int]] = field(default_factory=dict)


class DeviceParts:
    """Runs parts for one run of a plan.

    With CUDA graphs the first call at some shapes tells the sizes of all axes, those of outputs too; the calls after it
    are recorded and replayed, one graph for each set of shapes.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._bound: dict[tuple[Session, tuple[str, ...]], BoundPart] = {}

    def __call__(
        self, session: Session, given: Mapping[str, Any], weights: Mapping[str, Any] | None = None
    ) -> dict[str, DeviceValue]:
        """The outputs of a session's part, on its device.

        given: arrays, numbers or values on the device, for each input. weights: others for some of the session's, in
        its dtypes and shapes. Raises ``ValueError`` or ``BundleError`` for what does not fit.
        """
        weights = weights or {}
        inputs = _inputs(session, given, weights)
        if not session.settings.cuda_graph:
            return self._free(session, weights)(inputs)
        key = session, tuple([(tensor.name, due) for tensor, _, due in inputs])
        if key not in self._graphs.sizes:
            found = self._free(session, weights)(inputs)
            self._graphs.sizes[key] = _sizes(session, inputs, found)
            return found
        if key not in self._graphs.parts:
            shapes = {tensor.name: due for tensor, _, due in inputs if tensor.name in weights}
            self._graphs.parts[key] = FixedPart(session, self._graphs.sizes[key], shapes)
        return self._graphs.parts[key](inputs)

    def _free(self, session: Session, weights: Mapping[str, Any]) -> BoundPart:
        key = session, tuple(weights)
        if key not in self._bound:
            self._bound[key] = BoundPart(session)
        return self._bound[key]


def _inputs(session: Session, given: Mapping[str, Any], weights: Mapping[str, Any]) -> list[Given]:
    part = session.part
    due = due_shapes(part, {tensor.name: shaped(given[tensor.name]) for tensor in part.inputs})
    inputs = [(tensor, given[tensor.name], shape) for tensor, shape in zip(part.inputs, due, strict=True)]
    return inputs + [(session.weight(name), value, shaped(value).shape) for name, value in weights.items()]


def _sizes(session: Session, inputs: Sequence[Given], found: Mapping[str, DeviceValue]) -> dict[str, int]:
    """The size of each named axis of inputs and outputs."""
    shapes = {tensor.name: due for tensor, _, due in inputs}
    pairs = [(tensor.dims, shapes[tensor.name]) for tensor in session.part.inputs]
    pairs += [(tensor.dims, found[tensor.name].shape) for tensor in session.part.outputs]
    return {dim: size for dims, shape in pairs for dim, size in zip(dims, shape, strict=True) if isinstance(dim, str)}
