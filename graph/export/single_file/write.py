"""Writing a workflow as one ONNX file, with a description and example inputs in files beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir
from safetensors.torch import save

from guidegraph.graph.export.errors import ExportError, raise_together
from guidegraph.graph.export.onnx.model import EMBEDDED_LIMIT
from guidegraph.graph.export.onnx.program import OPSET
from guidegraph.graph.export.single_file.compose import PIXELS, SingleGraph, compose_graph, unmade_output_error
from guidegraph.graph.export.single_file.drawn_shapes import DrawnShapes
from guidegraph.graph.export.single_file.host_prelude import HostPrelude, check_indices, count_iterations, plan_prelude
from guidegraph.graph.export.single_file.input_constraints import find_input_multiples, find_starting_values
from guidegraph.graph.export.workflow import Exported
from guidegraph_runtime.bundle.manifest import File, Manifest, Operation, Output, Requires, Tensor, write_manifest
from guidegraph_runtime.bundle.manifest_types import has_pixels, walk_operations
from guidegraph_runtime.bundle.names import TABLES
from guidegraph_runtime.files.atomic_write import atomic_files
from guidegraph_runtime.files.bounded_json import read_json
from guidegraph_runtime.operations import OPERATIONS, shapes_read_by
from guidegraph_runtime.running.single_file import (
    DATA,
    FORMAT,
    VERSION,
    Description,
    DrawRecipe,
    compute_host_values,
    inputs_with,
)


def describe_input(name: str, draw: DrawRecipe | None, recipe: Manifest) -> str:
    """A sentence that describes an input and the node or parameter that it comes from."""
    if name.startswith("params."):
        parameter = name.removeprefix("params.")
        help = recipe.inputs[parameter].help
        return f"the parameter '{parameter}'" + (f": {help}" if help else "")
    operation = next((candidate for candidate in recipe.plan if name in candidate.outputs), None)
    if operation is None:
        return f"the value '{name}'"
    text = f"{_look_up_meaning(name, operation)}; node '{operation.node}' ({operation.op})"
    if draw is not None and draw.over is not None:
        entries = f"entry of {draw.over}" if isinstance(draw.over, str) else f"of {draw.over} iterations"
        text += ", another for each " + entries
    files = [
        str(value["file"]) for value in operation.settings.values() if isinstance(value, dict) and [*value] == ["file"]
    ]
    return text + (f", with the file {', '.join(files)}" if files else "")


def _look_up_meaning(name: str, operation: Operation) -> str:
    field_name = name.removeprefix(operation.node).rpartition(".")[2]
    help = OPERATIONS[operation.op].output_help if operation.op in OPERATIONS else ""
    text = help if isinstance(help, str) else help.get(field_name, "")
    return text or (f"'{field_name}' of it" if field_name else "what it gives")


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
    drawn = _describe_drawn_inputs(exported, plan.prelude, plan.host_examples, single)
    described = Description(
        str(out),
        {item.name: item for item in single.inputs},
        drawn,
        plan.fields,
        plan.recipe,
        plan.files,
        samples=find_starting_values(exported.plan) & {item.name for item in single.inputs},
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


def _describe_drawn_inputs(
    exported: Exported, before: HostPrelude, host_values: Mapping[str, Any], single: SingleGraph
) -> dict[str, DrawRecipe]:
    shapes = DrawnShapes(exported.plan, {part.plan.name: part.traced for part in exported.parts}, before, host_values)
    input_names = {value.name for value in single.inputs}
    recipes = {}
    for name, draw in before.drawn_inputs.items():
        over = None if draw.loop is None else count_iterations(draw.loop, exported.host.tables) or draw.loop.over
        if name in input_names:
            recipes[name] = DrawRecipe(draw.operation.node, over, shapes.shape_of(draw))
    return recipes


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
