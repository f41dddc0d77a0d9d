"""Compute the inputs of a workflow that was exported as one ONNX graph from the workflow's parameters.

``session.run(None, inputs_of("picture.json", prompt="…", seed=3))``, with a session on ``picture.onnx``. The graph
does not depend on this module: any onnxruntime runs it on tensors from elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.admission import (
    SampleCount,
    ShapeOnly,
    find_batch_problem,
    find_memory_problem,
    find_multiple_problem,
)
from guidegraph_runtime.bundle.folder import sha256
from guidegraph_runtime.bundle.manifest import Manifest, Operation, Tensor, read_manifest
from guidegraph_runtime.bundle.manifest_plan import read_guards
from guidegraph_runtime.bundle.manifest_types import BATCH, DTYPES, TABLES, label_problem
from guidegraph_runtime.bundle.strict_json import MAX_BYTES, Cursor, parse_json
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.files.regular_files import open_regular
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.running.compute import Computation, check_guards, check_iterations, refuse_part
from guidegraph_runtime.running.inputs import resolve_inputs
from guidegraph_runtime.running.overrides import override_settings
from guidegraph_runtime.running.rehearse import REFUSED, Axis, Rehearsal, Size
from guidegraph_runtime.running.tensor_inputs import read_tables
from guidegraph_runtime.running.values import Values

FORMAT = "guidegraph-single-file"
VERSION = 1
DATA = ".bin"
STEPS = "steps"
"""The leading axis of inputs that have an entry for each iteration of a loop."""
_TOP = ("format", "version", "about", "graph", "data", "inputs", "outputs", "files", "fields", "recipe")

Array = NDArray[Any]


@dataclass(frozen=True)
class DrawRecipe:
    """A noise input of a graph.

    node: the operation that draws it. over: the name of the loop's sequence, or the number of its iterations, if each
    iteration has its own noise. shape: of the sample `like`, as expressions of the sizes of the inputs.
    """

    node: str
    over: str | int | None
    shape: tuple[Size, ...] | None

    def to_json(self) -> dict[str, Any]:
        """The entry of FILE.json that `_noise` reads."""
        plain: dict[str, Any] = {"node": self.node} | ({} if self.over is None else {"over": self.over})
        if self.shape is not None:
            plain["shape"] = [
                {"size": size.text, "of": {name: [[a.input, a.index] for a in axes] for name, axes in size.of.items()}}
                for size in self.shape
            ]
        return {"noise": plain}


@dataclass(frozen=True)
class Description:
    """The contents of FILE.json: the graph's inputs, and their recipe in the form of a bundle's manifest.

    samples: the inputs that determine the number of samples. multiples: by input, the factors of which the sizes of its
    named axes must be multiples.
    """

    location: str
    inputs: Mapping[str, Tensor]
    noise: Mapping[str, DrawRecipe]
    fields: Mapping[str, Any]
    recipe: Manifest
    files: Mapping[str, bytes]
    samples: frozenset[str] = frozenset()
    multiples: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def file(self, name: str) -> bytes:
        """The bytes of a file of the recipe."""
        return self.files[name]


def inputs_of(path: str | os.PathLike[str], /, **params: Any) -> dict[str, Array]:
    """Compute the inputs of the graph that FILE.json describes, from the workflow's parameters.

    path: FILE.json, with FILE.bin beside it. Omitted parameters take their defaults. Raises ``BundleError``.
    """
    return inputs_with(read_description(path), params)


def inputs_with(
    description: Description, params: Mapping[str, Any], nodes: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """Compute the inputs of the graph from a description.

    nodes: overrides of the host operations: ``node.setting`` sets a setting, and ``node.use`` replaces the operation,
    for example by another sampler.
    """
    location = description.location
    try:
        return _compute_arrays(description, compute_host_values(description, params, nodes or {}), nodes or {})
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise BundleError(location, REFUSED, str(error)) from error


def compute_host_values(description: Description, params: Mapping[str, Any], nodes: Mapping[str, Any]) -> Values:
    """Compute the values of the prelude, except the noise that the graph takes."""
    recipe, location = description.recipe, description.location
    param_values = resolve_inputs(recipe, params, location, description.file)
    tables = read_tables(description.files[TABLES], f"{location}: {TABLES}") if TABLES in description.files else {}
    values = Values(tables | {f"params.{name}": value for name, value in param_values.items()})
    noise_nodes = {operation.node for operation in description.noise.values()}
    plan = override_settings(recipe.plan, nodes, location)
    prelude = [operation for operation in plan if operation.node not in noise_nodes]
    rehearsal = Rehearsal(location, refuse_part, description.file, Values(values))
    rehearsal.run(prelude)
    Computation(location, refuse_part, description.file, values, ready=rehearsal.made).run(prelude)
    return values


def _compute_arrays(description: Description, values: Values, nodes: Mapping[str, Any]) -> dict[str, Array]:
    check_guards(Operation("part", settings={"fields": dict(description.fields)}), values)
    arrays: dict[str, Array] = {}
    for name, tensor in description.inputs.items():
        if name not in description.noise:
            arrays[name] = _array(tensor, values.read(name))
            if tensor.dims[:1] == (STEPS,):
                _check_trips(name, len(arrays[name]))
    shapes = {name: np.shape(value) for name, value in values.items() if isinstance(value, np.ndarray)}
    plan = {
        operation.node: operation
        for operation in override_settings(description.recipe.plan, nodes, description.location)
    }
    for name, noise in description.noise.items():
        arrays[name] = _array(
            description.inputs[name], _draw_noise(description, plan[noise.node], name, noise, values, shapes)
        )
    _check_sizes(description, arrays)
    return {name: arrays[name] for name in description.inputs}


def _check_sizes(description: Description, arrays: Mapping[str, Array]) -> None:
    """Raise ``ValueError`` if inputs disagree on the number of samples, or have sizes that the graph refuses."""
    rows: dict[str, SampleCount] = {}
    for name, tensor in description.inputs.items():
        shape = arrays[name].shape
        if BATCH in tensor.dims:
            rows[name] = SampleCount(shape[tensor.dims.index(BATCH)], f"'{name}'")
        for axis, factor in description.multiples.get(name, {}).items():
            position = tensor.dims.index(axis)
            if (reason := find_multiple_problem(shape, (position,), factor)) is not None:
                raise ValueError(f"'{axis}' of '{name}': {reason}")
    candidates = [name for name in description.samples if name in rows]
    if not candidates:
        return
    # Of those with the most samples, the one with most axes, which is noise or a latent: a person knows it.
    first = max(candidates, key=lambda name: (rows[name].count, arrays[name].ndim, name))
    if (reason := find_batch_problem(rows[first], rows.values())) is not None:
        raise ValueError(reason)


def _draw_noise(
    description: Description,
    operation: Operation,
    name: str,
    noise: DrawRecipe,
    values: Values,
    shapes: Mapping[str, tuple[int, ...]],
) -> Array:
    links = {port: source for port, source in operation.inputs.items() if port not in ("like", "index")}
    draw_values = Values(values)
    trips = None
    if noise.over is not None:
        items = values.read(noise.over) if isinstance(noise.over, str) else noise.over
        check_iterations(noise.over, items)
        trips = items if isinstance(items, int) else len(items)
        check_limit("trips", trips, f"the loop takes {trips:,} trips")
        _check_trips(noise.over, trips)
    if noise.shape is not None:
        sizes = [size.value(shapes) for size in noise.shape]
        if (reason := find_memory_problem([ShapeOnly((trips or 1, *sizes))])) is not None:
            raise ValueError(f"'{name}': {reason}")
        draw_values["like"] = np.broadcast_to(np.zeros((), description.inputs[name].dtype), sizes)
        links["like"] = "like"
    if trips is not None:
        links["index"] = "index"
    draws = []
    for step in [None] if trips is None else range(trips):
        draw_values["index"] = step
        draw = replace(operation, inputs=links, outputs=("drawn",), node="drawn")
        Computation(description.location, refuse_part, description.file, draw_values).run([draw])
        draws.append(draw_values["drawn"])
    return np.asarray(draws[0]) if trips is None else np.stack(draws)


def _check_trips(over: str | int, trips: int) -> None:
    """Raise ``ValueError`` for a loop without iterations, which onnxruntime refuses."""
    if not trips:
        raise ValueError(
            f"'{over}' gives a loop 0 iterations, and one graph runs each loop at least once: give one or more, or "
            "export a bundle, which leaves the loop out"
        )


def _array(tensor: Tensor, value: Any) -> Array:
    array = np.asarray(np.asarray(value).astype(tensor.dtype, copy=False), order="C")
    if array.ndim != len(tensor.dims):
        raise ValueError(f"'{tensor.name}' has shape {array.shape} and the graph takes {len(tensor.dims)} axes")
    for size, dim in zip(array.shape, tensor.dims, strict=True):
        if isinstance(dim, int) and size != dim:
            raise ValueError(f"'{tensor.name}' has shape {array.shape} where the graph takes {tensor.dims}")
    return array


def read_description(path: str | os.PathLike[str]) -> Description:
    """Read FILE.json, and the recipe's files from FILE.bin. Raises ``BundleError`` for an invalid file."""
    location = os.fspath(path)
    text = _read(Path(path), MAX_BYTES)
    top = Cursor(parse_json(text, location), location)
    if not isinstance(top.value, dict) or top.value.get("format") != FORMAT:
        top.fail(f"an object whose format is '{FORMAT}'", do="give the .json beside the .onnx of --single-file")
    if top.value.get("version") != VERSION:
        top.at("version").fail(f"format version {VERSION}", do="export again, or update guidegraph-runtime")
    fields = top.fields(_TOP)
    recipe = read_manifest((json.dumps(fields["recipe"].value, indent=1, ensure_ascii=False) + "\n").encode(), location)
    inputs, noise, samples, multiples = {}, {}, set(), {}
    for name, cursor in fields["inputs"].entries(label_problem):
        spec = cursor.fields(("dtype", "dims", "about", "example"), ("noise", "samples", "multiples"))
        dims = tuple(
            dim.text() if isinstance(dim.value, str) else dim.integer(0, 2**31 - 1) for dim in spec["dims"].items()
        )
        inputs[name] = Tensor(name, spec["dtype"].choice(DTYPES), dims)
        if "noise" in spec:
            noise[name] = _noise(spec["noise"])
        if "samples" in spec and spec["samples"].boolean():
            samples.add(name)
        if "multiples" in spec:
            multiples[name] = _multiples(spec["multiples"], dims)
    nodes = {cursor.node for cursor in recipe.plan}
    if unknown := [cursor.node for cursor in noise.values() if cursor.node not in nodes]:
        fields["inputs"].fail("noise of nodes that the recipe has", f"'{unknown[0]}'")
    read_guards(fields["fields"])
    files = _files(Path(path).with_suffix(DATA), fields["data"], fields["files"], recipe)
    return Description(location, inputs, noise, fields["fields"].value, recipe, files, frozenset(samples), multiples)


def _multiples(cursor: Cursor, dims: Sequence[int | str]) -> dict[str, int]:
    entries = cursor.entries(lambda axis: None if axis in dims else "the name of an axis of this input")
    return {axis: factor.integer(1, 2**31 - 1) for axis, factor in entries}


def _noise(cursor: Cursor) -> DrawRecipe:
    fields = cursor.fields(("node",), ("over", "shape"))
    shape = tuple(_size(size) for size in fields["shape"].items()) if "shape" in fields else None
    over: str | int | None = None
    if "over" in fields:
        cursor = fields["over"]
        over = cursor.text() if isinstance(cursor.value, str) else cursor.integer(1, 2**31 - 1)
    return DrawRecipe(fields["node"].text(), over, shape)


def _size(cursor: Cursor) -> Size:
    fields = cursor.fields(("size", "of"))
    of = {}
    for name, axes in fields["of"].entries(label_problem):
        pairs = [axis.items() for axis in axes.items()]
        of[name] = tuple(Axis(pair[0].text(), pair[1].integer(0, 64)) for pair in pairs)
    return Size(fields["size"].text(), of)


def _files(path: Path, data: Cursor, offsets: Cursor, recipe: Manifest) -> dict[str, bytes]:
    """Extract the recipe's files from FILE.bin."""
    fields = data.fields(("file", "sha256", "size"))
    content = _read(path, fields["size"].integer(0, 2**40))
    if sha256(content) != fields["sha256"].text():
        fields["sha256"].fail(f"the sha256 of {path.name}", f"{sha256(content)}: the file was changed")
    files = {}
    for name, offset in offsets.entries(
        lambda name: None if name in recipe.files else "the name of a file of the recipe"
    ):
        start = offset.integer(0, len(content))
        files[name] = content[start : start + recipe.files[name].size]
        if sha256(files[name]) != recipe.files[name].sha256:
            offset.fail(f"the file '{name}' at this place", "other bytes")
    if missing := recipe.files.keys() - files.keys():
        offsets.fail(f"the place of '{min(missing)}'", "none")
    return files


def _read(path: Path, limit: int) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise BundleError(str(path), "no-file", f"cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise BundleError(str(path), "bad-manifest", f"expected at most {limit} bytes, found more")
    return content
