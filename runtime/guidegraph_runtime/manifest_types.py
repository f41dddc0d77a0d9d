"""What `bundle.json` says: what a bundle takes, gives and holds.

Everything is data: the plan names host operations that the runtime has, never code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from guidegraph_runtime.strict_json import Json

INPUT_TYPES = ("str", "int", "float", "bool", "path", "image", "map", "tensor")
FILE_TYPES = ("path", "image", "map", "tensor")
OUTPUT_TYPES = ("image", "tensor", "table")
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
"""The element types of tensors, as NumPy names them; what has no name there stays inside of the graphs."""

Dims: TypeAlias = tuple[int | str, ...]
"""The shape of a tensor: a size, or the name of an axis; axes of one name have one size in a call."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph."""

    name: str
    dtype: str
    dims: Dims


@dataclass(frozen=True)
class Part:
    """An ONNX graph: its file, the files of its weights, and the version of each operator set that it uses."""

    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opsets: Mapping[str, int]
    externals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Input:
    """A parameter of the workflow that is still open.

    `default` is what is taken where nothing is given, unless `required`; for a path, picture, map or tensor it is a
    file of the bundle. `many`: a list of such values is fine too. `dtype` and `dims` belong to tensors.
    """

    type: str
    required: bool = False
    default: Json = None
    help: str = ""
    choices: tuple[str | int | float, ...] | None = None
    many: bool = False
    dtype: str | None = None
    dims: Dims | None = None

    def wrong(self, value: Json) -> str | None:
        """What is expected of a value for this input where `value` does not fit; else None."""
        if self.many and isinstance(value, list):
            return next((wrong for one in value if (wrong := self._wrong_one(one)) is not None), None)
        return self._wrong_one(value)

    def _wrong_one(self, value: Json) -> str | None:
        kinds, expected = _VALUES[self.type]
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.type != "bool"):
            return expected
        if self.choices is not None and value not in self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        return None


_FILE: tuple[tuple[type, ...], str] = ((str,), "the name of a file")
_VALUES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "int": ((int,), "an integer"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    **dict.fromkeys(FILE_TYPES, _FILE),
}


@dataclass(frozen=True)
class Output:
    """What a run gives: `source` is the value of the plan."""

    type: str
    source: str


@dataclass(frozen=True)
class Operation:
    """A step of the host plan: `inputs` are names of values, `settings` literals, `outputs` names it gives.

    `node` is the workflow's name for it; of a part, the part's name.
    """

    op: str
    node: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Json] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    body: tuple[Operation, ...] | None = None


@dataclass(frozen=True)
class File:
    """sha256 (64 lower-case hexadecimal digits) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Requires:
    """`opset`: the newest version of the standard operators in any part. `providers`: one of them must be there, where
    there is one, since the others lack a kernel (bfloat16 on a CPU)."""

    opset: int
    providers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """A run to repeat: what to give, the file with each output that came, and by how much one may differ from it."""

    inputs: Mapping[str, Json]
    outputs: Mapping[str, str]
    tolerance: float


@dataclass(frozen=True)
class Manifest:
    """The whole of `bundle.json`. `workflow` is the text that was exported, `versions` the packages that did it.

    `fixed` says of each parameter of the workflow that is no input of the bundle why it is not.
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
