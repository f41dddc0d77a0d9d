"""The shape of random numbers that is like that of a value inside a graph, in terms of the graph's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.onnx.model import TracedPart
from guidegraph.graph.export.single_file.host_prelude import BUNDLE_REMEDY, DrawnInput, HostPrelude
from guidegraph_runtime.bundle.manifest_types import Operation, walk_operations
from guidegraph_runtime.running.loops import Loop
from guidegraph_runtime.running.single_file_shapes import Axis, Size


class DrawnShapes:
    """The shapes of a plan's values. examples: an example of each value that exists before the graph runs."""

    def __init__(
        self,
        plan: Sequence[Operation],
        parts: Mapping[str, TracedPart],
        before: HostPrelude,
        examples: Mapping[str, Any],
    ) -> None:
        self.parts, self.before, self.examples = parts, before, examples
        operations = list(walk_operations(plan))
        loops = [Loop.of(operation) for operation in operations if operation.op == "loop"]
        self.starts = {carry: start for loop in loops for carry, start in loop.start.items()}
        self.results = {name: carry for loop in loops for name, carry in loop.result.items()}
        self.makers = {
            name: operation for operation in operations if operation.op == "part" for name in operation.outputs
        }
        self.readers: dict[str, tuple[Operation, str]] = {}
        for operation in (operation for operation in operations if operation.op == "part"):
            for port, value_name in operation.inputs.items():
                self.readers.setdefault(value_name, (operation, port))

    def shape_of(self, draw: DrawnInput) -> tuple[Size, ...] | None:
        """The shape of the value that a drawn input is like; None if it has a shape of its own.

        Raises ``ExportError`` if it does not follow from the graph's inputs.
        """
        like = draw.shaped_like
        if like is None:
            return None
        try:
            return self.size_of(like)
        except _UnknownError as error:
            raise ExportError(
                f"'{draw.name}' is drawn like '{like}', whose shape the graph's inputs do not tell ({error})",
                f"give the node a shape of its own, not that of '{like}', or " + BUNDLE_REMEDY,
            ) from None

    def size_of(self, name: str) -> tuple[Size, ...]:
        """The shape of a value."""
        _, _, dims = self._find_axes(name)
        return tuple(self._size_at(name, i) for i in range(len(dims)))

    def _find_axes(self, name: str) -> tuple[str, Operation | None, Sequence[int | str]]:
        """The value whose shape a value has, the part that names its axes, and these; no part: it exists before."""
        while name in self.results or (name in self.starts and name not in self.readers):
            name = self.results[name] if name in self.results else self.starts[name]
        if name in self.examples:
            return name, None, range(getattr(self.examples[name], "ndim", 0))
        if name in self.starts:
            part, port = self.readers[name]
            return name, part, self.parts[part.node].inputs[port]
        if name in self.makers:
            part = self.makers[name]
            return name, part, self.parts[part.node].outputs[name]
        raise _UnknownError(f"'{name}' is none that a part gives")

    def _size_at(self, name: str, index: int) -> Size:
        """The size of one axis of a value, whatever is known of its other axes."""
        name, part, dims = self._find_axes(name)
        if part is None:
            return Size("n", {"n": (Axis(name, index),)})
        dim = dims[index]
        return Size(str(dim), {}) if isinstance(dim, int) else self._size(part, dim)

    def _size(self, part: Operation, text: str) -> Size:
        """The size given by an axis of a part, or by an expression of its axes."""
        names = set(re.findall(r"[A-Za-z_]\w*", text)) - {"floor"}
        part_axes = {axis for dims in self.parts[part.node].inputs.values() for axis in dims}
        if unknown := names - part_axes:
            raise _UnknownError(f"'{part.node}' has no axis '{min(unknown)}'")
        axes: dict[str, tuple[Axis, ...]] = {}
        for name in sorted(names):
            sizes = self._find_sources(part, name)
            if axes_of_inputs := tuple(dict.fromkeys(axis for size in sizes for axis in size.of.get(size.text, ()))):
                axes[name] = axes_of_inputs
            elif fixed := [int(size.text) for size in sizes if size.text.isdecimal()]:
                text = re.sub(rf"\b{name}\b", str(max(fixed)), text)
            else:
                raise _UnknownError(f"no input tells '{name}' of '{part.node}'")
        return Size(text, axes)

    def _find_sources(self, part: Operation, axis: str) -> list[Size]:
        """The sizes that set the size of a part's axis; the largest of them counts."""
        sizes = []
        for port, dims in self.parts[part.node].inputs.items():
            source = part.inputs[port]
            source = self.starts.get(source, source)
            if axis not in dims or source in self.before.drawn_inputs:
                continue
            if source in self.examples and getattr(self.examples[source], "ndim", 0) != len(dims):
                continue
            if source in self.examples or source in self.makers or source in self.results:
                sizes.append(self._size_at(source, dims.index(axis)))
        return sizes


class _UnknownError(Exception):
    pass
