"""Writing a workflow as one ONNX file, with a description and example inputs in files beside it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir
from safetensors.torch import save

from guidegraph.graph.export.errors import ExportError, raise_together
from guidegraph.graph.export.onnx.model import EMBEDDED_LIMIT, TracedPart
from guidegraph.graph.export.onnx.program import OPSET
from guidegraph.graph.export.single_file.compose import PIXELS, SingleGraph, compose_graph, unmade_output_error
from guidegraph.graph.export.single_file.host_prelude import (
    BUNDLE_REMEDY,
    DrawnInput,
    HostPrelude,
    check_indices,
    count_iterations,
    plan_prelude,
)
from guidegraph.graph.export.single_file.input_constraints import find_input_multiples, find_starting_values
from guidegraph.graph.export.workflow import Exported
from guidegraph_runtime.bundle.manifest import File, Manifest, Output, Requires, Tensor, write_manifest
from guidegraph_runtime.bundle.manifest_types import TABLES, Operation, has_pixels, walk_operations
from guidegraph_runtime.files.atomic_write import atomic_files
from guidegraph_runtime.files.regular_files import read_json
from guidegraph_runtime.operations import OPERATIONS, shapes_read_by
from guidegraph_runtime.running.rehearse import Axis, Size
from guidegraph_runtime.running.single_file import (
    DATA,
    FORMAT,
    VERSION,
    Description,
    DrawRecipe,
    compute_host_values,
    inputs_with,
)
from guidegraph_runtime.running.values import Loop


def describe_input(name: str, draw: DrawRecipe | None, recipe: Manifest) -> str:
    """A sentence that describes an input and the node or parameter that it comes from."""
    if name.startswith("params."):
        parameter = name.removeprefix("params.")
        help = recipe.inputs[parameter].help
        return f"the parameter '{parameter}'" + (f": {help}" if help else "")
    operation = next((candidate for candidate in recipe.plan if name in candidate.outputs), None)
    if operation is None:
        return f"the value '{name}'"
    field_name = name.removeprefix(operation.node).rpartition(".")[2]
    output_help = OPERATIONS[operation.op].output_help if operation.op in OPERATIONS else ""
    meaning = output_help if isinstance(output_help, str) else output_help.get(field_name, "")
    meaning = meaning or (f"'{field_name}' of it" if field_name else "what it gives")
    text = f"{meaning}; node '{operation.node}' ({operation.op})"
    if draw is not None and draw.over is not None:
        entries = f"entry of {draw.over}" if isinstance(draw.over, str) else f"of {draw.over} iterations"
        text += ", another for each " + entries
    files = [
        str(value["file"]) for value in operation.settings.values() if isinstance(value, dict) and [*value] == ["file"]
    ]
    return text + (f", with the file {', '.join(files)}" if files else "")


ALIGNMENT = 64
MAX_SHOWN_VALUES = 2048
"""Examples with at most this many numbers are in the description too."""


@dataclass(frozen=True)
class SingleFile:
    """The graph, its description, and the files written with their sizes in bytes."""

    single: SingleGraph
    description: Description
    files: Mapping[Path, int]


@dataclass
class _Data:
    """Concatenated blocks of bytes, each at an offset that is a multiple of 64."""

    blocks: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> int:
        self.blocks.extend(bytes(-len(self.blocks) % ALIGNMENT))
        start = len(self.blocks)
        self.blocks.extend(data)
        return start


@dataclass(frozen=True)
class _SinglePlan:
    """The contents of a single file without its parts. host_examples: values that exist before the graph runs."""

    prelude: HostPrelude
    host_examples: Mapping[str, Any]
    files: Mapping[str, bytes]
    fields: Mapping[str, Any]
    recipe: Manifest


def check_single(planned: Exported, *, kinds: Mapping[str, str]) -> None:
    """Raise ``ExportError`` for an export, whose parts are not traced yet, that one graph cannot hold.

    kinds: one of `OUTPUT_TYPES` for each output.
    """
    _plan_single(planned, kinds, {})
    made = {name for operation in planned.plan if operation.op in ("part", "loop") for name in operation.outputs}
    raise_together(
        [unmade_output_error(name, source) for name, source in planned.outputs.items() if source not in made]
    )


def _plan_single(exported: Exported, kinds: Mapping[str, str], versions: Mapping[str, str]) -> _SinglePlan:
    tables = exported.host.tables
    available = {*tables, *(f"params.{name}" for name in exported.inputs)}
    before = plan_prelude(exported.plan, available)
    files = dict(exported.host.files)
    read = {name: tables[name] for item in before.operations for name in item.inputs.values() if name in tables}
    if read:
        files[TABLES] = save({name: item.detach().cpu().contiguous().clone() for name, item in read.items()})
    recipe = Manifest(
        name=exported.graph.name,
        workflow=exported.graph.sources.get(str(exported.graph.file), ""),
        inputs=exported.inputs,
        outputs={name: Output(kinds[name], source) for name, source in exported.outputs.items()},
        parts={},
        plan=(*before.operations, *(draw.operation for draw in before.drawn_inputs.values())),
        files={name: File(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        versions=versions,
        requires=Requires(OPSET),
        fixed=exported.fixed,
    )
    drawn = {name: DrawRecipe(draw.operation.node, None, None) for name, draw in before.drawn_inputs.items()}
    fields: dict[str, Any] = {}
    for item in walk_operations(exported.plan):
        part_fields: Any = item.settings.get("fields", {}) if item.op == "part" else {}
        fields |= part_fields
    host_examples = compute_host_values(Description("the plan", {}, drawn, fields, recipe, files), {}, {})
    check_indices(before, host_examples)
    return _SinglePlan(before, host_examples, files, fields, recipe)


def write_single(exported: Exported, out: Path, *, kinds: Mapping[str, str], versions: Mapping[str, str]) -> SingleFile:
    """Write an export, planned with ``one_graph``, as FILE.onnx, FILE.json and FILE.bin.

    kinds: one of `OUTPUT_TYPES` for each output. Raises ``ExportError``, before anything is written, for parts
    that one graph cannot hold and for more than 2 GiB of weights.
    """
    plan = _plan_single(exported, kinds, versions)
    with_pixels = {name for name, kind in kinds.items() if has_pixels(kind)}
    single = compose_graph(exported, plan.prelude, plan.host_examples, with_pixels)
    parts = {part.plan.name: part.traced for part in exported.parts}
    shapes = DrawnShapes(exported.plan, parts, plan.prelude, plan.host_examples)
    input_names = {value.name for value in single.inputs}
    drawn = {}
    for name, draw in plan.prelude.drawn_inputs.items():
        over = None if draw.loop is None else count_iterations(draw.loop, exported.host.tables) or draw.loop.over
        if name in input_names:
            drawn[name] = DrawRecipe(draw.operation.node, over, shapes.shape_of(draw))
    described = Description(
        str(out),
        {item.name: item for item in single.inputs},
        drawn,
        plan.fields,
        plan.recipe,
        plan.files,
        samples=find_starting_values(exported.plan) & input_names,
        multiples=find_input_multiples(exported.plan, single.inputs),
    )
    examples = inputs_with(described, {})
    return SingleFile(single, described, _write(out, single, described, drawn, examples))


def check_single_path(out: Path) -> None:
    """Raise ``ExportError`` if FILE.json or FILE.bin beside ``out`` exists and is not from an earlier export."""
    description_path, data = out.with_suffix(".json"), out.with_suffix(DATA)
    try:
        is_earlier_export = description_path.is_file() and read_json(description_path).get("format") == FORMAT
    except (ValueError, AttributeError):
        is_earlier_export = False
    if occupied := [path for path in (description_path, data) if path.exists() and not is_earlier_export]:
        raise ExportError(f"'{occupied[0]}' is there and of no single file", "choose another name, or remove it")


def _write(
    out: Path,
    single: SingleGraph,
    described: Description,
    drawn: Mapping[str, DrawRecipe],
    examples: Mapping[str, Any],
) -> dict[Path, int]:
    weights = sum(
        value.const_value.nbytes
        for graph in (single.model.graph, *single.model.graph.subgraphs())
        for value in graph.initializers.values()
        if value.const_value is not None
    )
    if weights >= EMBEDDED_LIMIT:
        raise ExportError(
            f"{weights} bytes of weights do not fit one ONNX file", "export a bundle instead: leave out --single-file"
        )
    graph: bytes = onnx_ir.to_proto(single.model).SerializeToString()
    data = _Data()
    inputs = {
        name: _plain_input(tensor, described, drawn.get(name), data, examples[name])
        for name, tensor in described.inputs.items()
    }
    for name in described.samples:
        inputs[name]["samples"] = True
    for name, factors in described.multiples.items():
        inputs[name]["multiples"] = dict(factors)
    offsets = {name: data.add(content) for name, content in described.files.items()}
    blocks = bytes(data.blocks)
    paths = [out, out.with_suffix(DATA), out.with_suffix(".json")]
    top = {
        "format": FORMAT,
        "version": VERSION,
        "about": "inputs and outputs are those of the graph; an example of each input lies in the data file, as plain "
        "little-endian numbers in C order. Axes of one name have one size, or 1. recipe: how the inputs come from the "
        "workflow's parameters",
        "graph": _file(out, graph),
        "data": _file(paths[1], blocks),
        "inputs": inputs,
        "outputs": {str(value.name): _plain_output(value, single) for value in single.model.graph.outputs},
        "files": offsets,
        "fields": dict(described.fields),
        "recipe": json.loads(write_manifest(described.recipe)),
    }
    text = _readable(top)
    with atomic_files(out) as folder:
        for path, content in zip(paths, (graph, blocks, text.encode()), strict=True):
            (folder / path.name).write_bytes(content)
    return {path: path.stat().st_size for path in paths}


def _readable(top: Mapping[str, Any]) -> str:
    """Format JSON with one line for each input and output."""
    lines = []
    for name, value in top.items():
        if isinstance(value, dict) and name in ("inputs", "outputs"):
            inner = [f"  {_json(key)}: {_json(item)}" for key, item in value.items()]
            lines.append(f" {_json(name)}: {{\n" + ",\n".join(inner) + "\n }")
        else:
            lines.append(f" {_json(name)}: {_json(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _file(path: Path, content: bytes) -> dict[str, Any]:
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _plain_input(
    tensor: Tensor, described: Description, draw: DrawRecipe | None, data: _Data, example: Any
) -> dict[str, Any]:
    content = example.astype(example.dtype.newbyteorder("<")).tobytes()
    example_entry: dict[str, Any] = {"shape": list(example.shape), "offset": data.add(content), "bytes": len(content)}
    random = {operation.outputs[0] for operation in described.recipe.plan if shapes_read_by(operation.op)}
    if example.size <= MAX_SHOWN_VALUES and tensor.name not in random:
        example_entry["values"] = example.tolist()
    plain_input: dict[str, Any] = {
        "dtype": tensor.dtype,
        "dims": list(tensor.dims),
        "about": describe_input(tensor.name, draw, described.recipe),
        "example": example_entry,
    }
    return plain_input if draw is None else plain_input | draw.to_json()


def _plain_output(value: onnx_ir.Value, single: SingleGraph) -> dict[str, Any]:
    name = single.outputs[str(value.name)]
    pixels = str(value.name).endswith(f".{PIXELS}")
    assert value.dtype is not None
    dims = [size if isinstance(size, int) else str(size.value).rpartition(".")[2] for size in value.shape or ()]
    about = f"the workflow's output '{name}'" + (" as pixels: height, width and colours, 0 to 255" if pixels else "")
    return {"dtype": str(value.dtype.numpy()), "dims": dims, "about": about}


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
