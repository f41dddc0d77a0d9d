"""Read from an ONNX file the operators that it uses and the files of its weights.

Bound the memory and iterations of an ONNX graph as far as its constants determine them.

Four bytes of a constant can request a terabyte, or an endless loop. Sizes computed in the graph are unknown here; the
limits on the memory and time of a call bound those (`sessions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from guidegraph_runtime.bundle.onnx_wire import MAX_FIELDS, Malformed, Reader, Span, Value
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import current_limits, limit_message

Ints = tuple[int, ...]


class SizedNode(NamedTuple):
    """A node whose constant inputs determine the size of its output. shapes: constant shapes among its attributes."""

    op: str
    name: str
    inputs: tuple[str, ...]
    shapes: tuple[Ints, ...] = ()


_PRODUCTS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1, "Resize": 3}
"""By operator, the input whose product is a lower bound on the elements of the output."""

SIZED = frozenset({*_PRODUCTS, "Loop", "Range", "Pad", "RandomNormal", "RandomUniform"})
"""The operators that `size_problems` checks."""


def size_problems(nodes: Sequence[SizedNode], constants: Mapping[str, Sequence[Ints]]) -> list[str]:
    """Messages about nodes that exceed the limits in force. constants: by name, which nested graphs may share."""
    limits = current_limits()
    messages = []
    for node in nodes:
        for name, count, description in _demands(node, constants):
            if message := limit_message(name, count, f"the node {node.op} '{node.name[:80]}' {description}", limits):
                messages.append(message)
    return messages


def _demands(node: SizedNode, constants: Mapping[str, Sequence[Ints]]) -> list[tuple[str, int, str]]:
    """(limit, lower bound, description) for each limited quantity of a node."""

    def constants_of(i: int) -> list[Ints]:
        return list(constants.get(node.inputs[i], ())) if i < len(node.inputs) and node.inputs[i] else []

    if node.op == "Loop":
        if not node.inputs or not node.inputs[0]:
            return [("trips", 2**63 - 1, "is a loop with no number of trips")]
        return [("trips", trips[0], f"takes {trips[0]:,} trips") for trips in constants_of(0) if trips]
    shapes = [*node.shapes]
    if node.op in _PRODUCTS:
        shapes += constants_of(_PRODUCTS[node.op])
    elif node.op == "Pad":
        shapes += [(sum(max(0, side) for side in pads),) for pads in constants_of(1)]
    elif node.op == "Range":
        shapes += [
            (max(0, -((end[0] - start[0]) // -step[0])),)
            for start in constants_of(0)
            for end in constants_of(1)
            for step in constants_of(2)
            if start and end and step and step[0]
        ]
    counts = [prod(max(0, side) for side in shape) for shape in shapes]
    return [("elements", count, f"makes {count:,} elements") for count in counts]


def sparse_problem(shape: Ints) -> str | None:
    """A message if a sparse tensor of this shape is too large when dense; else None."""
    count = prod(shape)
    return limit_message("elements", count, f"a sparse tensor has {count:,} elements")


MAX_GRAPH_DEPTH = 16
MAX_NAMES = 100_000

MAX_SHAPE_INTEGERS = 64
"""Constants of more integers than this are not shapes, and are not read."""

_INTEGER_BYTES = {6: 4, 7: 8}  # bytes of an element of int32 and int64, by TensorProto.DataType
_MAX_ELEMENTS_PER_BYTE = 4  # elements, of 2 bits each
_EXTERNAL = 1  # TensorProto.DataLocation
_KEYS = {"location", "offset", "length", "checksum"}
# Bits of an element, by TensorProto.DataType; strings (8) have no fixed size and cannot be external.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}


def _is_short(value: Value) -> bool:
    return isinstance(value, int) or value.end - value.start <= 10 * MAX_SHAPE_INTEGERS


def _to_int64(number: int) -> int:
    """Convert a varint to int64."""
    return number - 2**64 if number >= 2**63 else number


@dataclass(frozen=True)
class ExternalTensor:
    """An external initializer: `size` bytes at `offset` of the file `location`, beside the graph.

    data_type: its element type, a number of TensorProto.DataType.
    """

    name: str
    location: str
    offset: int
    size: int
    data_type: int
    dims: tuple[int, ...]


@dataclass
class OnnxGraph:
    """The contents of a graph and its subgraphs. The domain "ai.onnx" is given as "", its alias.

    operators: (domain, name), including the bodies of loops and branches. sized: nodes whose output size depends on
    constants. constants: integers by name, of initializers and Constant nodes. sparse: the shapes of sparse tensors.
    """

    opsets: dict[str, int] = field(default_factory=dict)
    operators: set[tuple[str, str]] = field(default_factory=set)
    externals: list[ExternalTensor] = field(default_factory=list)
    sized: list[SizedNode] = field(default_factory=list)
    constants: dict[str, list[Ints]] = field(default_factory=dict)
    sparse: list[Ints] = field(default_factory=list)

    def limit_problems(self) -> list[str]:
        """Messages about constants that exceed the limits in force."""
        sparse = [message for shape in self.sparse if (message := sparse_problem(shape))]
        return [*size_problems(self.sized, self.constants), *sparse]


def read_graph(data: bytes, max_fields: int = MAX_FIELDS) -> OnnxGraph:
    """Read an ONNX file's bytes. Raises ``Malformed``; time and depth are bounded whatever the bytes are."""
    return _GraphReader(Reader(data, max_fields)).model(Span(0, len(data)))


class _GraphReader:
    def __init__(self, reader: Reader):
        self._reader = reader
        self._result = OnnxGraph()

    def model(self, span: Span) -> OnnxGraph:
        has_graph = False
        for name, value in self._reader.fields("ModelProto", span):
            if name == "graph":
                has_graph = True
                self._graph(value, 1)
            elif name == "opset_import":
                fields = dict(self._reader.fields("OperatorSetIdProto", value))
                domain, version = self._domain(fields), fields.get("version", 0)
                assert isinstance(version, int)
                if domain in self._result.opsets:
                    raise Malformed("one operator set twice")
                self._result.opsets[domain] = version
            elif name == "functions":
                # Nested functions could grow without bound when onnxruntime inlines them.
                raise Malformed("functions of its own; put their nodes in their places (onnx.inliner)")
            elif name in ("training_info", "configuration"):
                raise Malformed(f"ModelProto.{name}, which is not for inference")
        if not has_graph:
            raise Malformed("no graph")
        if not self._result.opsets:
            raise Malformed("no operator set")
        return self._result

    def _domain(self, fields: dict[str, Value]) -> str:
        domain = self._reader.text(fields.get("domain", Span(0, 0)))
        return "" if domain == "ai.onnx" else domain

    def _graph(self, value: Value, level: int) -> None:
        if level > MAX_GRAPH_DEPTH:
            raise Malformed(f"more than {MAX_GRAPH_DEPTH} graphs in each other")
        for name, inside in self._reader.fields("GraphProto", value):
            if name == "node":
                self._node(inside, level)
            elif name == "initializer":
                self._tensor(inside, may_lie_outside=level == 1)
            elif name == "sparse_initializer":
                self._sparse(inside)

    def _node(self, value: Value, level: int) -> None:
        fields: dict[str, Value] = {}
        inputs: list[Value] = []
        outputs: list[Value] = []
        shapes: list[Ints] = []
        for name, inside in self._reader.fields("NodeProto", value):
            if name == "attribute":
                shapes += self._attribute(inside, level)
            elif name in ("domain", "op_type", "name"):
                fields[name] = inside
            elif name in ("input", "output"):
                (inputs if name == "input" else outputs).append(inside)
        op = self._reader.text(fields.get("op_type", Span(0, 0)))
        self._result.operators.add((self._domain(fields), op))
        if op == "Constant" and outputs:
            self._result.constants.setdefault(self._reader.text(outputs[0]), []).extend(shapes)
        elif op in SIZED:
            title = self._reader.text(fields.get("name", Span(0, 0)))
            attributes = tuple(shapes) if op.startswith("Random") else ()
            self._result.sized.append(SizedNode(op, title, tuple(map(self._reader.text, inputs)), attributes))
        if len(self._result.operators) > MAX_NAMES:
            raise Malformed(f"more than {MAX_NAMES} operators of different names")

    def _attribute(self, value: Value, level: int) -> list[Ints]:
        """Read an attribute; return its integers if they are few enough for a shape."""
        numbers: list[int] = []
        constants: list[Ints] = []
        for name, inside in self._reader.fields("AttributeProto", value):
            if name in ("g", "graphs"):
                self._graph(inside, level + 1)
            elif name in ("t", "tensors"):
                constants += self._tensor(inside)
            elif name in ("sparse_tensor", "sparse_tensors"):
                self._sparse(inside)
            elif name == "i" or (name == "ints" and _is_short(inside)):
                numbers += map(_to_int64, self._reader.varints(inside))
        return [*constants, tuple(numbers)] if 0 < len(numbers) <= MAX_SHAPE_INTEGERS else constants

    def _sparse(self, value: Value) -> None:
        dims: list[int] = []
        for name, inside in self._reader.fields("SparseTensorProto", value):
            if name in ("values", "indices"):
                self._tensor(inside)
            elif name == "dims":
                dims += self._reader.varints(inside)
        if len(dims) > MAX_SHAPE_INTEGERS:
            raise Malformed(f"a sparse tensor of {len(dims)} axes")
        self._result.sparse.append(tuple(dims))

    def _tensor(self, value: Value, may_lie_outside: bool = False) -> list[Ints]:
        """Check a tensor and record it by name; return its integers if they are few enough for a shape."""
        dims: list[int] = []
        numbers: list[int] = []
        external_data: dict[str, str] = {}
        fields: dict[str, Value] = {}
        for name, inside in self._reader.fields("TensorProto", value):
            if name == "external_data":
                entry = dict(self._reader.fields("StringStringEntryProto", inside))
                key, text = (self._reader.text(entry.get(part, Span(0, 0))) for part in ("key", "value"))
                if key not in _KEYS or key in external_data:
                    raise Malformed(f"an entry of external_data that is unknown or comes twice: {key[:40]!r}")
                external_data[key] = text
            elif name == "dims":
                dims += self._reader.varints(inside)
            elif name in ("int32_data", "int64_data") and _is_short(inside):
                numbers += map(_to_int64, self._reader.varints(inside))
            else:
                fields[name] = inside
        data_location = fields.get("data_location", 0)
        if data_location == _EXTERNAL and not may_lie_outside:
            # onnxruntime would look for these in the current folder instead of memory.
            raise Malformed("weights of a body or a constant in another file; they must be in the graph")
        if data_location == _EXTERNAL and "location" in external_data:
            self._result.externals.append(self._external(dims, external_data, fields))
        elif data_location != 0 or external_data:
            raise Malformed("a tensor that is neither inside of the graph nor in a file that it names")
        elif len(dims) > MAX_SHAPE_INTEGERS or prod(dims) > _MAX_ELEMENTS_PER_BYTE * len(self._reader.data):
            shape = "×".join(map(str, dims[:8]))
            raise Malformed(f"a tensor of {shape} elements in a graph of {len(self._reader.data)} bytes")
        else:
            return self._integers(numbers, dims, fields)
        return []

    def _integers(self, numbers: list[int], dims: list[int], fields: dict[str, Value]) -> list[Ints]:
        """The values of a small tensor of integers, which is also recorded by name."""
        kind, raw = fields.get("data_type", 0), fields.get("raw_data")
        width = _INTEGER_BYTES.get(kind) if isinstance(kind, int) else None
        if width is None or prod(dims) > MAX_SHAPE_INTEGERS:
            return []
        if isinstance(raw, Span) and raw.end - raw.start == width * prod(dims):
            data = self._reader.data[raw.start : raw.end]
            parts = (data[i : i + width] for i in range(0, len(data), width))
            numbers = [int.from_bytes(part, "little", signed=True) for part in parts]
        values = tuple(numbers)
        if values and (name := self._reader.text(fields.get("name", Span(0, 0)))):
            self._result.constants.setdefault(name, []).append(values)
        return [values] if values else []

    def _external(self, dims: list[int], external_data: dict[str, str], fields: dict[str, Value]) -> ExternalTensor:
        kind = fields.get("data_type", 0)
        name = self._reader.text(fields.get("name", Span(0, 0)))
        if not isinstance(kind, int) or kind not in _BITS or len(dims) > 64:
            raise Malformed(f"a tensor of data type {kind} and {len(dims)} axes outside of the graph")
        # Rank and sizes are bounded (64 axes of 64 bits), so the product is cheap.
        size = -(-prod(dims) * _BITS[kind] // 8)
        for key in ("offset", "length"):
            if not (number := external_data.get(key, "0")).isdecimal() or not number.isascii() or len(number) > 20:
                raise Malformed(f"a tensor whose {key} is not a number")
        if "length" in external_data and int(external_data["length"]) != size:
            raise Malformed(f"a tensor of {size} bytes whose length says {int(external_data['length'])}")
        offset = int(external_data.get("offset", "0"))
        return ExternalTensor(name, external_data["location"], offset, size, kind, tuple(dims))


STANDARD = ("", "ai.onnx.ml")
"""The domains that a graph may use. com.microsoft, onnxruntime's own, is excluded: onnxruntime adds the operators it
needs itself while loading a graph, and some of the others open files."""

# The newest opset of "" since a version of onnxruntime, determined by loading graphs of rising opsets.
_NEWEST = (((1, 23), 23), ((1, 24), 25), ((1, 26), 26))
_NEWEST_ML = 5


def newest_opsets(version: str | None = None) -> dict[str, int]:
    """The newest opset of each standard domain in a version of onnxruntime, by default the installed one."""
    installed = onnxruntime_release(version)
    supported = [opset for since, opset in _NEWEST if since <= installed]
    return {"": max(supported, default=_NEWEST[0][1]), "ai.onnx.ml": _NEWEST_ML}


def onnxruntime_release(version: str | None = None) -> tuple[int, int]:
    """(major, minor) of a version of onnxruntime, by default the installed one.

    Raises ``BundleError`` where none is installed.
    """
    if version is None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            message = "bundles run on onnxruntime: pip install 'guidegraph-runtime[cpu]', or [gpu] where there is a GPU"
            raise BundleError("onnxruntime", "missing-extra", message) from error
        version = str(onnxruntime.__version__)
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
