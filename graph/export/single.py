"""A whole workflow as one ONNX graph: the parts in a row, and each loop as a `Scan` with its weights inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir

from guidegraph.graph.export.before import BUNDLE, Before, Dims, Wanted, flat, readers
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.leaves import DYNAMIC
from guidegraph.graph.export.part import OPSET
from guidegraph.graph.export.region import Region, prefixed, typed
from guidegraph.graph.export.workflow import Exported
from guidegraph_runtime.loops import Loop
from guidegraph_runtime.manifest import Operation, Tensor

STEPS = "steps"
PIXELS = "uint8"


@dataclass
class Single:
    """The graph. inputs: values of the plan. outputs: for each, the workflow's name for it."""

    model: onnx_ir.Model
    inputs: list[Tensor] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)


def single_graph(exported: Exported, before: Before, given: Mapping[str, Any], pictures: Sequence[str]) -> Single:
    """One graph of an export that was planned for one.

    given: an example of each value that the runtime has before the graph. pictures: the outputs that are pictures,
    which the graph gives as pixels too. Raises ``ExportError`` for what one graph cannot hold.
    """
    composer = _Composer(exported, before, given)
    composer.operations(exported.plan, composer.main)
    outputs = composer.outputs(pictures)
    graph = composer.main.graph([*composer.inputs.values()], outputs, exported.graph.name or "workflow", OPSET)
    version = max((one.traced.model.ir_version for one in exported.parts), default=10)
    model = onnx_ir.Model(graph, ir_version=version, producer_name="guidegraph")
    return Single(model, composer.described, composer.called)


class _Composer:
    """inputs and described: the graph's inputs by name. called: the workflow's name of each output."""

    def __init__(self, exported: Exported, before: Before, given: Mapping[str, Any]) -> None:
        self.exported, self.before, self.given = exported, before, given
        self.parts = {one.plan.name: one.traced for one in exported.parts}
        self.main = Region("main")
        self.inputs: dict[str, onnx_ir.Value] = {}
        self.described: list[Tensor] = []
        self.called: dict[str, str] = {}
        self.wanted = readers(exported.plan, {name: _used(part.model.graph) for name, part in self.parts.items()})
        self.overs = {Loop.of(one).over for one in flat(exported.plan) if one.op == "loop"}
        self.sizes: dict[tuple[Region, str, str], onnx_ir.Value] = {}

    def operations(self, plan: Sequence[Operation], region: Region) -> None:
        """Put what is traced of a plan into a graph; the host's share comes before it."""
        for operation in plan:
            if operation.op == "part":
                self._part(operation, region)
            elif operation.op == "loop":
                self._loop(operation, region)

    def outputs(self, pictures: Sequence[str]) -> list[onnx_ir.Value]:
        found = []
        for name, source in self.exported.outputs.items():
            value = self.main.values.get(source)
            if value is None or source in self.inputs:
                raise ExportError(
                    f"output '{name}' ('{source}') is there before the graph runs, which gives only what it computes",
                    "leave it out of the exported outputs (--only), or " + BUNDLE,
                )
            called = f"{name}.result" if name in self.inputs else name
            result = self.main.add("Identity", value)
            result.name, result.shape = called, value.shape
            found.append(result)
            self.called[called] = name
            if name in pictures:
                found.append(self._pixels(value, f"{called}.{PIXELS}"))
                self.called[f"{called}.{PIXELS}"] = name
        return found

    def _pixels(self, picture: onnx_ir.Value, name: str) -> onnx_ir.Value:
        """A picture (B, 3, H, W) as uint8 (B, H, W, 3): round((v + 1) · 127.5), clamped."""
        main = self.main
        picture = main.cast(picture, onnx_ir.DataType.FLOAT)
        one, half, low, high = (main.constant(np.float32(number)) for number in (1, 127.5, 0, 255))
        scaled = main.add("Mul", main.add("Add", picture, one), half)
        whole = main.add("Clip", main.add("Round", scaled), low, high)
        found = main.add("Cast", main.add("Transpose", whole, perm=[0, 2, 3, 1]), to=int(onnx_ir.DataType.UINT8))
        batch, channels, height, width = picture.shape or (None, None, None, None)
        found.name, found.dtype = name, onnx_ir.DataType.UINT8
        found.shape = onnx_ir.Shape([batch, height, width, channels])
        return found

    def read(self, name: str, region: Region) -> tuple[Region, onnx_ir.Value]:
        """The value of a name, and where it is; a table or an input of the graph where nothing in it has that name."""
        if found := region.find(name):
            return found
        if name in self.exported.host.tables:
            table = self.exported.host.tables[name]
            self.main.values[name] = self.main.constant(table.detach().cpu().numpy(), name)
        else:
            self.main.values[name] = self._input(name)
        return self.main, self.main.values[name]

    def _input(self, name: str) -> onnx_ir.Value:
        """A new input of the graph."""
        wanted, draw = self.wanted.get(name), self.before.draws.get(name)
        if draw is not None:
            if wanted is None:
                raise ExportError(f"nothing in the graph takes the noise '{name}'", BUNDLE)
            dtype, dims = wanted.dtype, ((STEPS,) if draw.loop else ()) + wanted.dims
        else:
            dtype, dims = _input_type(np.asarray(self.given[name]), wanted)
            if wanted is None and name in self.overs:
                dims = (STEPS, *dims[1:]) if dims else ()
        self.described.append(Tensor(name, dtype, dims))
        self.inputs[name] = typed(name, dtype, dims)
        prefixed(self.inputs[name], name)
        return self.inputs[name]

    def _part(self, operation: Operation, region: Region) -> None:
        """Put a part's nodes and weights into a graph."""
        where = operation.node
        graph = self.parts[where].model.graph.clone()
        used = _used(graph)
        for value in list(graph.inputs):
            if value.name in used:
                given = self._fitted(operation, str(value.name), region)
                value.replace_all_uses_with(given, replace_graph_outputs=True)
        outputs, weights, nodes = list(graph.outputs), list(graph.initializers.values()), list(graph)
        inner = list(graph.all_nodes())
        graph.outputs.clear()
        graph.initializers.clear()
        graph.remove(nodes)
        for node in inner:
            node.name = f"{where}/{node.name}"
            for value in node.outputs:
                value.name = f"{where}/{value.name}"
                prefixed(value, where)
        for value in weights:
            value.name = f"{where}/{value.name}"
        region.nodes += nodes
        region.weights += weights
        region.values.update(zip(operation.outputs, outputs, strict=True))

    def _fitted(self, operation: Operation, port: str, region: Region) -> onnx_ir.Value:
        """A value as a part's input takes it: of its dtype, and repeated for the batch, as `guidegraph-run` does it.

        What comes from outside of a loop is made fit outside of it, once.
        """
        source = operation.inputs[port]
        home, value = self.read(source, region)
        if home is region and source in region.starts and self._is_start(operation, source):
            return value
        inside = home is region or region.outer is None
        return self._spread(operation, port, value, region if inside else region.outer or region, region)

    def _is_start(self, operation: Operation, source: str) -> bool:
        """Whether a carried value starts, and goes on, as this part takes it."""
        wanted = self.wanted.get(source)
        return wanted is not None and wanted.part is operation

    def _spread(
        self, operation: Operation, port: str, value: onnx_ir.Value, here: Region, region: Region
    ) -> onnx_ir.Value:
        """A value in a part's dtype and shape. here: where the nodes for it go; region: where the part is."""
        tensor = next(one for one in self.parts[operation.node].model.graph.inputs if one.name == port)
        assert tensor.dtype is not None
        assert tensor.shape is not None
        assert value.shape is not None
        dims = self.parts[operation.node].inputs[port]
        value = here.cast(value, tensor.dtype)
        if len(value.shape or ()) == len(dims) and all(
            size == dim if isinstance(dim, int) else self._is_alone(operation, dim)
            for dim, size in zip(dims, value.shape or (), strict=True)
        ):
            return value
        sizes = [dim if isinstance(dim, int) else self._size(operation, dim, here, region) for dim in dims]
        found = here.expanded(value, sizes)
        found.shape = onnx_ir.Shape(list(tensor.shape))
        prefixed(found, operation.node)
        return found

    def _is_alone(self, operation: Operation, axis: str) -> bool:
        """Whether nothing is repeated along an axis: one input alone has it, or it is that of a table's rows."""
        shapes = self.parts[operation.node].inputs
        return sum(axis in dims for dims in shapes.values()) == 1 or axis.partition("_")[0] == DYNAMIC["R"]

    def _size(self, operation: Operation, axis: str, here: Region, region: Region) -> onnx_ir.Value:
        """The size of a part's axis: the largest among its inputs, since what has size 1 is repeated.

        Of what a loop's body computes, only what it starts from is asked.
        """
        at = region.outer or region
        key = at, operation.node, axis
        if key not in self.sizes:
            found = [
                at.size(value, dims.index(axis) + extra)
                for port, dims in self.parts[operation.node].inputs.items()
                if axis in dims and (source := operation.inputs[port]) not in self.before.draws
                for value, extra in self._outside(source, region)
                if value.shape is not None and len(value.shape) == len(dims) + extra
            ]
            if not found:
                raise ExportError(f"nothing tells the size of '{axis}' of part '{operation.node}' in time", BUNDLE)
            self.sizes[key] = at.add("Max", *found) if len(found) > 1 else found[0]
        return self.sizes[key]

    def _outside(self, source: str, region: Region) -> list[tuple[onnx_ir.Value, int]]:
        """What tells the shape of a value outside of the loop in which it is read, and how many axes it has before."""
        if region.outer is None:
            return [(self.read(source, region)[1], 0)]
        if source in region.starts:
            return [(region.starts[source], 0)]
        if source in region.entries:
            return [(region.entries[source], 1)]
        home, value = self.read(source, region)
        return [] if home is region else [(value, 0)]

    def _loop(self, operation: Operation, region: Region) -> None:
        """A loop as a Scan. Its state starts in the shape and dtype in which the body's first reader takes it."""
        loop = Loop.of(operation)
        body = Region(operation.node, region)
        body.starts = {name: self.read(source, region)[1] for name, source in loop.start.items()}
        self._entries(loop, region, body)
        states = {}
        for name, start in body.starts.items():
            wanted = self.wanted.get(name)
            if wanted is not None and wanted.part in (operation.body or ()):
                start = self._spread(wanted.part, wanted.port, start, region, body)
            states[name] = start
            body.values[name] = onnx_ir.val(f"{body.where}/{name}", dtype=start.dtype, shape=start.shape)
        carried = [body.values[name] for name in states]
        self.operations(operation.body or (), body)
        following = [
            self._result(name, loop.next[name], start.dtype, start.shape, body) for name, start in states.items()
        ]
        kept = [self._result(name, at, None, None, body) for name, at in loop.collect.items()]
        graph = body.graph(
            [*carried, *(entry for _, entry in body.scanned)], [*following, *kept], f"{body.where}.body", OPSET
        )
        node = onnx_ir.node(
            "Scan",
            [*states.values(), *(whole for whole, _ in body.scanned)],
            {"body": graph, "num_scan_inputs": len(body.scanned)},
            num_outputs=len(following) + len(kept),
            name=body.where,
        )
        region.nodes.append(node)
        for i, (value, inner) in enumerate(zip(node.outputs, [*following, *kept], strict=True)):
            value.name = f"{body.where}/out_{i}"
            if inner.dtype is not None:
                value.dtype = inner.dtype
            shape = list(inner.shape or ())
            value.shape = onnx_ir.Shape(shape if i < len(following) else [None, *shape])
        order = {name: i for i, name in enumerate(states)}
        region.values |= {name: node.outputs[order[carry]] for name, carry in loop.result.items()}
        region.values |= {name: node.outputs[len(order) + i] for i, name in enumerate(loop.collect)}

    def _entries(self, loop: Loop, region: Region, body: Region) -> None:
        """What a loop walks over: its entries, the number of each iteration where one asks for it, and noise."""
        over = region.constant(loop.over, loop.item) if isinstance(loop.over, int) else self.read(loop.over, region)[1]
        assert over.shape is not None
        if len(over.shape) == 0:
            body.scan(loop.item, region.numbers(region.cast(over, onnx_ir.DataType.INT64)))
        else:
            entry = body.scan(loop.item, over)
            if len(over.shape) == 1:  # a number is an entry of one for the whole batch
                body.values[loop.item] = body.add("Unsqueeze", entry, body.integers(0))
                body.values[loop.item].shape = onnx_ir.Shape([1])
        if loop.index in self.wanted or loop.index in (*loop.next.values(), *loop.collect.values()):
            count = over if len(over.shape) == 0 else region.add("Squeeze", region.size(over, 0))
            body.scan(loop.index, region.numbers(region.cast(count, onnx_ir.DataType.INT64)))
        for draw in self.before.draws.values():
            if draw.loop is not None and draw.loop.index == loop.index:
                body.scan(draw.name, self._input(draw.name))

    def _result(
        self, name: str, source: str, dtype: onnx_ir.DataType | None, shape: onnx_ir.Shape | None, body: Region
    ) -> onnx_ir.Value:
        """An output of a loop's body: a value of its own, in the dtype and shape of the state."""
        value = self.read(source, body)[1]
        found = body.add("Identity", value if dtype is None else body.cast(value, dtype))
        found.name = f"{body.where}/next.{name}"
        found.shape = shape if shape is not None else value.shape
        return found


def _used(graph: onnx_ir.Graph) -> dict[str, tuple[str, Dims]]:
    """Dtype and dims of the inputs that a graph has a use for."""
    return {
        str(value.name): (
            str(value.dtype.numpy()) if value.dtype is not None else "",
            tuple(size if isinstance(size, int) else str(size.value) for size in value.shape or ()),
        )
        for value in graph.inputs
        if value.uses() or value.is_graph_output()
    }


def _input_type(example: Any, wanted: Wanted | None) -> tuple[str, Dims]:
    """Dtype and dims of a graph's input: those that its reader takes where it has as many axes."""
    if wanted is None:
        return str(example.dtype), tuple(f"axis_{i}" for i in range(example.ndim))
    if example.ndim != len(wanted.dims):
        return wanted.dtype, tuple(example.shape)
    return wanted.dtype, tuple(
        dim if isinstance(dim, str) or dim == size else f"axis_{i}"
        for i, (dim, size) in enumerate(zip(wanted.dims, example.shape, strict=True))
    )
