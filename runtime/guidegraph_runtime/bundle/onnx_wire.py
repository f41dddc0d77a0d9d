"""Read the wire format of untrusted ONNX files: every byte once, in bounded time, without unknown fields.

Only messages that can name a file, an operator or another graph are parsed. Fields that the protobuf library would
silently merge or skip (repeated, unknown, or of another wire type) are refused, so that onnxruntime sees nothing that
the check does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

MAX_FIELDS = 4_000_000
"""The most fields of a graph: some hundred times as many as a large U-Net has, read in a few seconds."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """Not an ONNX file, or one of a newer ONNX version than this reader supports."""


class Field(NamedTuple):
    """A field of a message. wires: allowed wire types. many: whether it may repeat. message: the type of its value."""

    name: str
    wires: tuple[int, ...]
    many: bool
    message: str | None = None


class Span(NamedTuple):
    """A range of bytes of the file, `start` to `end`."""

    start: int
    end: int


Value: TypeAlias = int | Span


def _int(name: str) -> Field:
    return Field(name, (_VARINT,), False)


def _ints(name: str) -> Field:
    return Field(name, (_VARINT, _BYTES), True)


def _text(name: str) -> Field:
    return Field(name, (_BYTES,), False)


def _texts(name: str) -> Field:
    return Field(name, (_BYTES,), True)


def _one(name: str, message: str | None = None) -> Field:
    return Field(name, (_BYTES,), False, message)


def _many(name: str, message: str | None = None) -> Field:
    return Field(name, (_BYTES,), True, message)


# onnx/onnx.proto of ONNX 1.23. Messages without graphs, tensors or operators are left out.
MESSAGES: Mapping[str, Mapping[int, Field]] = {
    "ModelProto": {
        1: _int("ir_version"),
        2: _text("producer_name"),
        3: _text("producer_version"),
        4: _text("domain"),
        5: _int("model_version"),
        6: _text("doc_string"),
        7: _one("graph", "GraphProto"),
        8: _many("opset_import", "OperatorSetIdProto"),
        14: _many("metadata_props"),
        20: _many("training_info"),
        25: _many("functions"),
        26: _many("configuration"),
    },
    "OperatorSetIdProto": {1: _text("domain"), 2: _int("version")},
    "GraphProto": {
        1: _many("node", "NodeProto"),
        2: _text("name"),
        5: _many("initializer", "TensorProto"),
        10: _text("doc_string"),
        11: _many("input"),
        12: _many("output"),
        13: _many("value_info"),
        14: _many("quantization_annotation"),
        15: _many("sparse_initializer", "SparseTensorProto"),
        16: _many("metadata_props"),
    },
    "NodeProto": {
        1: _texts("input"),
        2: _texts("output"),
        3: _text("name"),
        4: _text("op_type"),
        5: _many("attribute", "AttributeProto"),
        6: _text("doc_string"),
        7: _text("domain"),
        8: _text("overload"),
        9: _many("metadata_props"),
        10: _many("device_configurations"),
    },
    "AttributeProto": {
        1: _text("name"),
        2: Field("f", (_FIXED32,), False),
        3: _int("i"),
        4: _text("s"),
        5: _one("t", "TensorProto"),
        6: _one("g", "GraphProto"),
        7: Field("floats", (_FIXED32, _BYTES), True),
        8: _ints("ints"),
        9: _texts("strings"),
        10: _many("tensors", "TensorProto"),
        11: _many("graphs", "GraphProto"),
        13: _text("doc_string"),
        14: _one("tp"),
        15: _many("type_protos"),
        20: _int("type"),
        21: _text("ref_attr_name"),
        22: _one("sparse_tensor", "SparseTensorProto"),
        23: _many("sparse_tensors", "SparseTensorProto"),
    },
    "TensorProto": {
        1: _ints("dims"),
        2: _int("data_type"),
        3: _one("segment"),
        4: Field("float_data", (_FIXED32, _BYTES), True),
        5: _ints("int32_data"),
        6: _texts("string_data"),
        7: _ints("int64_data"),
        8: _text("name"),
        9: _text("raw_data"),
        10: Field("double_data", (_FIXED64, _BYTES), True),
        11: _ints("uint64_data"),
        12: _text("doc_string"),
        13: _many("external_data", "StringStringEntryProto"),
        14: _int("data_location"),
        16: _many("metadata_props"),
    },
    "SparseTensorProto": {1: _one("values", "TensorProto"), 2: _one("indices", "TensorProto"), 3: _ints("dims")},
    "StringStringEntryProto": {1: _text("key"), 2: _text("value")},
}


@dataclass
class Reader:
    """Reads the messages of a file; raises ``Malformed``."""

    data: bytes
    fields_left: int

    def fields(self, message: str, span: Value) -> Iterator[tuple[str, Value]]:
        """Yield the fields of a message in order as (name, value): a number, or the span of any other value."""
        if isinstance(span, int):
            raise Malformed(f"a number where a {message} is due")
        fields = MESSAGES[message]
        seen: set[int] = set()
        position = span.start
        while position < span.end:
            self._count()
            tag, position = self.varint(position, span.end)
            number, wire = tag >> 3, tag & 7
            field = fields.get(number)
            if field is None or wire not in field.wires:
                raise Malformed(f"field {number} of wire type {wire} in a {message}, which ONNX 1.23 has not")
            if number in seen and not field.many:
                raise Malformed(f"the field {message}.{field.name} twice")
            seen.add(number)
            if wire == _VARINT:
                value, position = self.varint(position, span.end)
                yield field.name, value
                continue
            fixed = 8 if wire == _FIXED64 else 4
            length, start = self.varint(position, span.end) if wire == _BYTES else (fixed, position)
            position = start + length
            if position > span.end:
                raise Malformed("a field that is longer than its message")
            yield field.name, Span(start, position)

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """Read the number at `position`, 0 to 2**64 - 1; return it and its end."""
        if position < end and (byte := self.data[position]) < 0x80:  # the common case
            return byte, position + 1
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise Malformed("a number that goes on beyond its message")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 2**64:
                    break
                return value, position
        raise Malformed("a number of more than 64 bits")

    def varints(self, value: Value) -> Iterator[int]:
        """Read the numbers of a repeated field, packed or not."""
        if isinstance(value, int):
            yield value
            return
        position = value.start
        while position < value.end:
            self._count()
            number, position = self.varint(position, value.end)
            yield number

    def text(self, value: Value) -> str:
        """Read the text of a span of at most 4096 bytes."""
        if isinstance(value, int) or value.end - value.start > 4096:
            raise Malformed("a name of more than 4096 bytes")
        try:
            return self.data[value.start : value.end].decode()
        except UnicodeDecodeError as error:
            raise Malformed("a name that is not UTF-8") from error

    def _count(self) -> None:
        self.fields_left -= 1
        if self.fields_left < 0:
            raise Malformed("more fields than any graph has")
