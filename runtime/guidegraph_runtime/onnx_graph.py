"""What an ONNX file would make onnxruntime do: the operators it names and the files that its weights lie in."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from guidegraph_runtime.onnx_sizes import SIZED, Ints, SizedNode, size_problems, sparse_problem
from guidegraph_runtime.onnx_wire import MAX_FIELDS, Malformed, Reader, Span, Value

MAX_GRAPHS_DEEP = 16
MAX_NAMES = 100_000

MOST_SIDES = 64
"""Constants of more whole numbers than these are no shapes, and are not read."""

_WHOLE = {6: 4, 7: 8}  # bytes of an element of int32 and int64, by TensorProto.DataType
_MOST_IN_BYTE = 4  # elements, of 2 bits each
_EXTERNAL = 1  # TensorProto.DataLocation
_KEYS = {"location", "offset", "length", "checksum"}
# Bits of an element, by TensorProto.DataType; strings (8) have no fixed size and cannot lie outside.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}


def _is_short(value: Value) -> bool:
    return isinstance(value, int) or value.end - value.start <= 10 * MOST_SIDES


def _signed(number: int) -> int:
    """A varint as the int64 that it stands for."""
    return number - 2**64 if number >= 2**63 else number


@dataclass(frozen=True)
class External:
    """An initializer outside of the graph: `size` bytes from `offset` on of the file `location`, beside the graph."""

    name: str
    location: str
    offset: int
    size: int


@dataclass
class OnnxGraph:
    """What a graph and those in it hold; "ai.onnx" is "", its other name.

    operators: (domain, name), those in the bodies of loops and branches too. sized: nodes that constants make large.
    constants: whole numbers by name, of initializers and of nodes Constant. sparse: the shapes of sparse tensors.
    """

    opsets: dict[str, int] = field(default_factory=dict)
    operators: set[tuple[str, str]] = field(default_factory=set)
    externals: list[External] = field(default_factory=list)
    sized: list[SizedNode] = field(default_factory=list)
    constants: dict[str, list[Ints]] = field(default_factory=dict)
    sparse: list[Ints] = field(default_factory=list)

    def over_limits(self) -> list[str]:
        """What the graph would take above the limits in force."""
        sparse = [message for shape in self.sparse if (message := sparse_problem(shape))]
        return [*size_problems(self.sized, self.constants), *sparse]


def read_graph(data: bytes, max_fields: int = MAX_FIELDS) -> OnnxGraph:
    """Read an ONNX file's bytes. Raises ``Malformed``; time and depth are bounded whatever the bytes are."""
    return _Walk(Reader(data, max_fields)).model(Span(0, len(data)))


class _Walk:
    def __init__(self, reader: Reader):
        self._reader = reader
        self._found = OnnxGraph()

    def model(self, span: Span) -> OnnxGraph:
        has_graph = False
        for name, value in self._reader.fields("ModelProto", span):
            if name == "graph":
                has_graph = True
                self._graph(value, 1)
            elif name == "opset_import":
                self._opset(value)
            elif name == "functions":
                # Calls of calls would grow without bound when onnxruntime puts each function in its place.
                raise Malformed("functions of its own; put their nodes in their places (onnx.inliner)")
            elif name in ("training_info", "configuration"):
                raise Malformed(f"ModelProto.{name}, which is not for inference")
        if not has_graph:
            raise Malformed("no graph")
        if not self._found.opsets:
            raise Malformed("no operator set")
        return self._found

    def _opset(self, value: Value) -> None:
        fields = dict(self._reader.fields("OperatorSetIdProto", value))
        domain, version = self._domain(fields), fields.get("version", 0)
        assert isinstance(version, int)
        if domain in self._found.opsets:
            raise Malformed("one operator set twice")
        self._found.opsets[domain] = version

    def _domain(self, fields: dict[str, Value]) -> str:
        domain = self._reader.text(fields.get("domain", Span(0, 0)))
        return "" if domain == "ai.onnx" else domain

    def _graph(self, value: Value, level: int) -> None:
        if level > MAX_GRAPHS_DEEP:
            raise Malformed(f"more than {MAX_GRAPHS_DEEP} graphs in each other")
        for name, inside in self._reader.fields("GraphProto", value):
            if name == "node":
                self._node(inside, level)
            elif name == "initializer":
                self._tensor(inside, may_lie_outside=level == 1)
            elif name == "sparse_initializer":
                self._sparse(inside)

    def _node(self, value: Value, level: int) -> None:
        named: dict[str, Value] = {}
        inputs: list[Value] = []
        outputs: list[Value] = []
        shapes: list[Ints] = []
        for name, inside in self._reader.fields("NodeProto", value):
            if name == "attribute":
                shapes += self._attribute(inside, level)
            elif name in ("domain", "op_type", "name"):
                named[name] = inside
            elif name in ("input", "output"):
                (inputs if name == "input" else outputs).append(inside)
        op = self._reader.text(named.get("op_type", Span(0, 0)))
        self._found.operators.add((self._domain(named), op))
        if op == "Constant" and outputs:
            self._found.constants.setdefault(self._reader.text(outputs[0]), []).extend(shapes)
        elif op in SIZED:
            title = self._reader.text(named.get("name", Span(0, 0)))
            attributes = tuple(shapes) if op.startswith("Random") else ()
            self._found.sized.append(SizedNode(op, title, tuple(map(self._reader.text, inputs)), attributes))
        if len(self._found.operators) > MAX_NAMES:
            raise Malformed(f"more than {MAX_NAMES} operators of different names")

    def _attribute(self, value: Value, level: int) -> list[Ints]:
        """Read an attribute. The whole numbers in it, where they are few enough for a shape."""
        numbers: list[int] = []
        found: list[Ints] = []
        for name, inside in self._reader.fields("AttributeProto", value):
            if name in ("g", "graphs"):
                self._graph(inside, level + 1)
            elif name in ("t", "tensors"):
                found += self._tensor(inside)
            elif name in ("sparse_tensor", "sparse_tensors"):
                self._sparse(inside)
            elif name == "i" or (name == "ints" and _is_short(inside)):
                numbers += map(_signed, self._reader.varints(inside))
        return [*found, tuple(numbers)] if 0 < len(numbers) <= MOST_SIDES else found

    def _sparse(self, value: Value) -> None:
        dims: list[int] = []
        for name, inside in self._reader.fields("SparseTensorProto", value):
            if name in ("values", "indices"):
                self._tensor(inside)
            elif name == "dims":
                dims += self._reader.varints(inside)
        if len(dims) > MOST_SIDES:
            raise Malformed(f"a sparse tensor of {len(dims)} axes")
        self._found.sparse.append(tuple(dims))

    def _tensor(self, value: Value, may_lie_outside: bool = False) -> list[Ints]:
        """Check a tensor and note it by its name. Its whole numbers, where they are few enough for a shape."""
        dims: list[int] = []
        numbers: list[int] = []
        entries: dict[str, str] = {}
        named: dict[str, Value] = {}
        for name, inside in self._reader.fields("TensorProto", value):
            if name == "external_data":
                self._entry(inside, entries)
            elif name == "dims":
                dims += self._reader.varints(inside)
            elif name in ("int32_data", "int64_data") and _is_short(inside):
                numbers += map(_signed, self._reader.varints(inside))
            else:
                named[name] = inside
        outside = named.get("data_location", 0)
        if outside == _EXTERNAL and not may_lie_outside:
            # onnxruntime takes only the others from memory, and looks for these in the current folder.
            raise Malformed("weights of a body or a constant in another file; they must be in the graph")
        if outside == _EXTERNAL and "location" in entries:
            self._found.externals.append(self._external(dims, entries, named))
        elif outside != 0 or entries:
            raise Malformed("a tensor that is neither inside of the graph nor in a file that it names")
        elif len(dims) > MOST_SIDES or prod(dims) > _MOST_IN_BYTE * len(self._reader.data):
            shape = "×".join(map(str, dims[:8]))
            raise Malformed(f"a tensor of {shape} elements in a graph of {len(self._reader.data)} bytes")
        else:
            return self._whole_numbers(numbers, dims, named)
        return []

    def _whole_numbers(self, numbers: list[int], dims: list[int], named: dict[str, Value]) -> list[Ints]:
        """The values of a small tensor of whole numbers, noted by its name too."""
        kind, raw = named.get("data_type", 0), named.get("raw_data")
        width = _WHOLE.get(kind) if isinstance(kind, int) else None
        if width is None or prod(dims) > MOST_SIDES:
            return []
        if isinstance(raw, Span) and raw.end - raw.start == width * prod(dims):
            data = self._reader.data[raw.start : raw.end]
            parts = (data[i : i + width] for i in range(0, len(data), width))
            numbers = [int.from_bytes(part, "little", signed=True) for part in parts]
        found = tuple(numbers)
        if found and (name := self._reader.text(named.get("name", Span(0, 0)))):
            self._found.constants.setdefault(name, []).append(found)
        return [found] if found else []

    def _entry(self, value: Value, entries: dict[str, str]) -> None:
        fields = dict(self._reader.fields("StringStringEntryProto", value))
        key, text = (self._reader.text(fields.get(name, Span(0, 0))) for name in ("key", "value"))
        if key not in _KEYS or key in entries:
            raise Malformed(f"an entry of external_data that is unknown or comes twice: {key[:40]!r}")
        entries[key] = text

    def _external(self, dims: list[int], entries: dict[str, str], named: dict[str, Value]) -> External:
        kind = named.get("data_type", 0)
        name = self._reader.text(named.get("name", Span(0, 0)))
        if not isinstance(kind, int) or kind not in _BITS or len(dims) > 64:
            raise Malformed(f"a tensor of data type {kind} and {len(dims)} axes outside of the graph")
        # Rank and sizes are bounded (64 axes of 64 bits), so the product is no work.
        size = -(-prod(dims) * _BITS[kind] // 8)
        for key in ("offset", "length"):
            if not (number := entries.get(key, "0")).isdecimal() or not number.isascii() or len(number) > 20:
                raise Malformed(f"a tensor whose {key} is not a number")
        if "length" in entries and int(entries["length"]) != size:
            raise Malformed(f"a tensor of {size} bytes whose length says {int(entries['length'])}")
        return External(name, entries["location"], int(entries.get("offset", "0")), size)
