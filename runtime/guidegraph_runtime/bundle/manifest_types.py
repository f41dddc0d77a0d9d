"""The contents of `bundle.json`: a bundle's inputs, outputs, plan and files.

Everything is data: the plan refers to host operations of the runtime by name and contains no code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from guidegraph_runtime.bundle.strict_json import Cursor, Json
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
    """An output of a run; `source` is the name of its value in the plan.

    port: the name of its port type, if an installed writer may know it, else "". axes: of a sample of that type.
    """

    type: str
    source: str
    port: str = ""
    axes: int = 0


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


_NAMES = ("low", "above", "high", "below")


def read_bounds(cursor: Cursor, kind: str) -> Range:
    """The bounds of an input of type `kind`. Raises ``BundleError``."""
    if kind not in ("int", "float"):
        cursor.fail("bounds of numbers only", f"an input of type {kind}")
    fields = cursor.fields((), _NAMES)
    for bound in fields.values():
        bound.number()
    if not fields:
        cursor.fail(f"one or more of {', '.join(_NAMES)}")
    return Range(**{name: bound.value for name, bound in fields.items()})


def plain_bounds(bounds: Range) -> dict[str, float]:
    """The entry of `bundle.json` that `read_bounds` reads."""
    return {name: bound for name, bound in bounds._asdict().items() if bound is not None}


def parse_bounds(name: str, value: object) -> Range:
    """The bounds of a part's input. Raises ``ValueError`` for anything but numbers under their names."""
    fields = value if isinstance(value, dict) else {}
    numbers = [item for item in fields.values() if isinstance(item, (int, float)) and not isinstance(item, bool)]
    if not fields or not fields.keys() <= {*_NAMES} or len(numbers) != len(fields):
        raise ValueError(f"the bounds of '{name}': expected numbers for {', '.join(_NAMES)}; found {value!r:.80}")
    return Range(**fields)


def intersect_bounds(bounds: Iterable[Range]) -> Range:
    """The bounds of the numbers that are in all ranges: at most one at each end."""
    entries = [plain_bounds(entry) for entry in bounds]
    by_name = {name: [entry[name] for entry in entries if name in entry] for name in _NAMES}
    ends = {name: (max if name in ("low", "above") else min)(values) for name, values in by_name.items() if values}
    if "low" in ends and "above" in ends:
        del ends["low" if ends["above"] >= ends["low"] else "above"]
    if "high" in ends and "below" in ends:
        del ends["high" if ends["below"] <= ends["high"] else "below"]
    return Range(**ends)


MANIFEST = "bundle.json"
COSTS = "costs.json"
"""The file of the measured costs of the parts' calls, which the manifest does not list."""
ADAPTABLE_TABLE = "lora.json"
"""The file that lists, for each part, the weights that LoRA can change, with the layer names of LoRA files."""
TABLES = "tables.safetensors"
"""The arrays that a plan reads."""
BATCH = "batch"
"""The batch axis of parts, along which a size of 1 is broadcast."""
CALL, FIELDS, MASKS = "call", "fixed", "honours_mask"
"""Settings of the single operation in the plan of a one-node bundle: the node's id, the outputs that are not tensors,
and whether its model uses masks."""
MULTIPLES = "multiples"
"""A setting of a part: the factors of which the sizes of its named axes must be multiples."""
RANGES = "ranges"
"""A setting of a part: the bounds of the numbers of its inputs, by name."""
JOINS = "joins"
"""A setting of a part in a loop: how its calls in several runs become one call, or why they do not ("why").

indices: the axis of the tables whose entries an integer value counts, by value. padded: the axes along which zeros
change nothing, since a mask marks them."""
MAX_LENGTH = 200
MAX_PARTS = 8

_PART = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def file_name_problem(name: str) -> str | None:
    """The expected form if `name` is not a valid file name in a bundle; else None.

    Valid names are relative, with `/` between parts of ASCII letters, digits and `_ . + -`. That excludes `..`, hidden
    files, backslashes, drives, streams, control characters, second spellings of a name, and names that Windows reserves
    or shortens. The caller checks for names that differ only in case.
    """
    parts = name.split("/")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "the relative name of a file in the bundle, not an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "the name of a file in the bundle, not one that leaves it by '..'"
    if len(name) > MAX_LENGTH or len(parts) > MAX_PARTS:
        return f"the name of a file with at most {MAX_LENGTH} characters in {MAX_PARTS} parts"
    if not all(map(_PART.fullmatch, parts)):
        return "the name of a file, parts of letters, digits and '_ . + -' with '/' between them"
    if any(part.endswith(".") or _RESERVED.fullmatch(part) for part in parts):
        return "the name of a file that every system can hold"
    return None


def identifier_problem(name: str) -> str | None:
    """The expected form if `name` is not a valid name of an input or output (as in a workflow); else None."""
    if not name.isidentifier() or len(name) > MAX_LENGTH:
        return f"a name of letters, digits and '_' that starts with no digit, at most {MAX_LENGTH} characters"
    return None


def label_problem(name: str) -> str | None:
    """The expected form if `name` is not valid as any other name, such as a tensor's in a graph; else None."""
    if not 0 < len(name) <= MAX_LENGTH or not name.isprintable():
        return f"a name of 1 to {MAX_LENGTH} printable characters"
    return None
