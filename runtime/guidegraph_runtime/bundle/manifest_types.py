"""The contents of `bundle.json`: a bundle's inputs, outputs, plan and files.

Everything is data: the plan refers to host operations of the runtime by name and contains no code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from guidegraph_runtime.bundle.strict_json import Json
from guidegraph_runtime.declare.settings import Range

PICTURE_TYPES = ("image", "mask", "map")
"""Inputs that are picture files: a picture, a mask, and a semantic map. `path` is any other file."""
FILE_TYPES = ("path", *PICTURE_TYPES, "tensor")
INPUT_TYPES = ("str", "int", "float", "bool", "numbers", *FILE_TYPES)
"""`numbers` is a list of numbers, such as the four edges of a box, and with `many` a list of such lists."""
OUTPUT_TYPES = ("image", "tensor", "table")


def has_pixels(kind: str) -> bool:
    """Whether an output of this type is a picture, which is written as pixels."""
    return kind == "image"


DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
"""The element types of tensors by their NumPy names; other types occur only inside the graphs."""

Kinds: TypeAlias = tuple[type, ...]
"""The types of Python that a value may have, as JSON is read."""
Dims: TypeAlias = tuple[int | str, ...]
"""The shape of a tensor: sizes or names of axes; axes of the same name have the same size in a call."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph."""

    name: str
    dtype: str
    dims: Dims


@dataclass(frozen=True)
class Cost:
    """The measured cost of a call of a part: the sizes of its axes, its bytes without the weights, its seconds."""

    sizes: Mapping[str, int]
    nbytes: int
    seconds: float


@dataclass(frozen=True)
class Part:
    """An ONNX graph: its file, the files of its weights, and the version of each operator set that it uses.

    costs: of a call at a smaller size and one at a larger size; () if they were not measured.
    """

    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opsets: Mapping[str, int]
    externals: tuple[str, ...] = ()
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True)
class Input:
    """A parameter of the workflow that a run can set.

    `default` applies if no value is given, unless `required`; for a path, picture, map or tensor it is a file of the
    bundle. `many`: a list of such values is accepted too. `optional`: null is accepted too, as it always is if the
    default is null. `dtype` and `dims` belong to tensors, `bounds` to numbers and to each number of a list.
    """

    type: str
    required: bool = False
    default: Json = None
    help: str = ""
    choices: tuple[str | int | float, ...] | None = None
    many: bool = False
    dtype: str | None = None
    dims: Dims | None = None
    optional: bool = False
    bounds: Range | None = None

    @property
    def takes_null(self) -> bool:
        """Whether a run may set the input to null."""
        return self.optional or (self.default is None and not self.required)

    @property
    def kinds(self) -> Kinds:
        """The kinds of one value; a file is its name."""
        return _EXPECTED[self.type][0]

    @property
    def other_kinds(self) -> tuple[str, ...]:
        """The kinds that fit as well as one value of the type, for listings: `list` and `null`."""
        return ("list",) * self.many + ("null",) * self.takes_null

    def wrong(self, value: Json) -> str | None:
        """The expected kind of value if `value` does not fit this input; else None."""
        if self.many and isinstance(value, list):
            return next((wrong for item in value if (wrong := self._wrong_one(item)) is not None), None)
        return self._wrong_one(value)

    def _wrong_one(self, value: Json) -> str | None:
        kinds, expected = _EXPECTED[self.type]
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.type != "bool"):
            return expected
        if isinstance(value, list) and any(Input("float").wrong(number) for number in value):
            return expected
        if self.choices is not None and value not in self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.bounds is not None and isinstance(value, (int, float)) and not self.bounds.contains(value):
            return expected + self.bounds.describe()
        return None


_FILE: tuple[Kinds, str] = ((str,), "the name of a file")
_EXPECTED: dict[str, tuple[Kinds, str]] = {
    "str": ((str,), "a text"),
    "int": ((int,), "an integer"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "numbers": ((list,), "a list of numbers"),
    **dict.fromkeys(FILE_TYPES, _FILE),
}


@dataclass(frozen=True)
class Output:
    """An output of a run; `source` is the name of its value in the plan."""

    type: str
    source: str


@dataclass(frozen=True)
class Operation:
    """A step of the host plan: `inputs` are names of values, `settings` literals, `outputs` names of its results.

    `node` is the name of the node in the workflow, or of the part.
    """

    op: str
    node: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Json] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    body: tuple[Operation, ...] | None = None


def walk_operations(plan: Iterable[Operation]) -> Iterator[Operation]:
    """All operations of a plan; a loop is followed by the operations of its body."""
    for operation in plan:
        yield operation
        yield from walk_operations(operation.body or ())


@dataclass(frozen=True)
class File:
    """sha256 (64 lower-case hexadecimal digits) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Requires:
    """`opset`: the newest version of the standard operators in any part. `providers`: if not empty, one of them must be
    available, since the others lack a kernel (bfloat16 on a CPU)."""

    opset: int
    providers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """A reference run: its inputs, the file of each output of the engine, and the tolerance of a comparison.

    The inputs may have fewer steps than the bundle's defaults.
    """

    inputs: Mapping[str, Json]
    outputs: Mapping[str, str]
    tolerance: float


@dataclass(frozen=True)
class Preview:
    """A linear map from a sample (B, C, h, w) that a loop carries to colours in [-1, 1].

    carry: its name in the plan. matrix: for red, green and blue, C weights and a constant.
    """

    carry: str
    matrix: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Manifest:
    """The contents of `bundle.json`. `workflow` is the exported text, `versions` are the packages used for the export.

    `fixed` gives the reason for each parameter of the workflow that is not an input of the bundle.
    """

    name: str
    workflow: str
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    parts: Mapping[str, Part]
    plan: tuple[Operation, ...]
    files: Mapping[str, File]
    versions: Mapping[str, str]
    requires: Requires
    fixed: Mapping[str, str] = field(default_factory=dict)
    reference: Reference | None = None
    preview: Preview | None = None
