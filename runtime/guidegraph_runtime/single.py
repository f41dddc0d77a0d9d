"""A workflow that is one ONNX graph: its inputs, made of the workflow's parameters.

``session.run(None, inputs_of("picture.json", prompt="…", seed=3))``, with a session on ``picture.onnx``. The graph
needs nothing of this: any onnxruntime runs it on tensors that were made in another way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.admission import Rows, Sized, batch_problem, memory_problem, multiple_problem
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.inputs import given_inputs
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.manifest import Manifest, Operation, Tensor, read_manifest
from guidegraph_runtime.manifest_types import DTYPES
from guidegraph_runtime.memory import Memory
from guidegraph_runtime.names import BATCH, wrong_label
from guidegraph_runtime.overrides import overridden
from guidegraph_runtime.plan import PlanRun, check_fields
from guidegraph_runtime.reading import sha256
from guidegraph_runtime.regular_files import open_regular
from guidegraph_runtime.rehearsal import REFUSED, Rehearsal
from guidegraph_runtime.single_shapes import Axis, Size
from guidegraph_runtime.strict_json import MAX_BYTES, Cursor, loads

FORMAT = "guidegraph-single-file"
VERSION = 1
DATA = ".bin"
TABLES = "tables.safetensors"
_TOP = ("format", "version", "about", "graph", "data", "inputs", "outputs", "files", "fields", "recipe")

Array = NDArray[Any]


@dataclass(frozen=True)
class Noise:
    """Noise for the inside of a graph.

    node: the operation that draws it. over: the name of what the loop runs over, where each iteration has noise of its
    own. shape: that of the sample that it is like, by the sizes of the inputs.
    """

    node: str
    over: str | None
    shape: tuple[Size, ...] | None


@dataclass(frozen=True)
class Description:
    """What FILE.json says: the graph's inputs, and the recipe for them in the terms of a bundle.

    samples: the inputs that samples come from, with which the others must agree. multiples: by input, what the sizes of
    its named axes are multiples of.
    """

    where: str
    inputs: Mapping[str, Tensor]
    noise: Mapping[str, Noise]
    fields: Mapping[str, Any]
    recipe: Manifest
    files: Mapping[str, bytes]
    samples: frozenset[str] = frozenset()
    multiples: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def file(self, name: str) -> bytes:
        """The bytes of a file that the recipe has."""
        return self.files[name]


def inputs_of(path: str | os.PathLike[str], /, **params: Any) -> dict[str, Array]:
    """The inputs of the graph that FILE.json describes, for values of the workflow's parameters.

    path: FILE.json, with FILE.bin beside it. What is left out has its default. Raises ``BundleError``.
    """
    return inputs_with(read_description(path), params)


def inputs_with(
    description: Description, params: Mapping[str, Any], nodes: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """The same of a description that was read.

    nodes: other settings of the host's operations, by ``node.setting``, and by ``node.use`` another operation in the
    place of one, such as another sampler.
    """
    where = description.where
    try:
        return _made(description, host_values(description, params, nodes or {}), nodes or {})
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise BundleError(where, REFUSED, str(error)) from error


def host_values(description: Description, params: Mapping[str, Any], nodes: Mapping[str, Any]) -> Memory:
    """All values that are there before the graph runs, but for the noise that depends on it."""
    recipe, where = description.recipe, description.where
    values = given_inputs(recipe, params, where, description.file)
    memory = Memory(_tables(description) | {f"params.{name}": value for name, value in values.items()})
    drawn = {one.node for one in description.noise.values()}
    plan = overridden(recipe.plan, nodes, where)
    before = [one for one in plan if one.node not in drawn]
    rehearsal = Rehearsal(where, _no_part, description.file, Memory(memory))
    rehearsal.run(before)
    PlanRun(where, _no_part, description.file, memory, ready=rehearsal.made).run(before)
    return memory


def _made(description: Description, memory: Memory, nodes: Mapping[str, Any]) -> dict[str, Array]:
    check_fields(Operation("part", settings={"fields": dict(description.fields)}), memory)
    found: dict[str, Array] = {}
    for name, tensor in description.inputs.items():
        if name not in description.noise:
            found[name] = _array(tensor, memory.read(name))
    shapes = {name: np.shape(value) for name, value in memory.items() if isinstance(value, np.ndarray)}
    plan = {one.node: one for one in overridden(description.recipe.plan, nodes, description.where)}
    for name, noise in description.noise.items():
        found[name] = _array(
            description.inputs[name], _drawn(description, plan[noise.node], name, noise, memory, shapes)
        )
    _check_sizes(description, found)
    return {name: found[name] for name in description.inputs}


def _check_sizes(description: Description, arrays: Mapping[str, Array]) -> None:
    """Inputs agree on how many samples there are, and are of sizes that the graph takes. Raises ``ValueError``."""
    rows: dict[str, Rows] = {}
    for name, tensor in description.inputs.items():
        shape = arrays[name].shape
        if BATCH in tensor.dims:
            rows[name] = Rows(shape[tensor.dims.index(BATCH)], f"'{name}'")
        for axis, factor in description.multiples.get(name, {}).items():
            at = tensor.dims.index(axis)
            if (reason := multiple_problem(shape, (at,), factor)) is not None:
                raise ValueError(f"'{axis}' of '{name}': {reason}")
    samples = max((rows[name] for name in description.samples if name in rows), key=lambda one: one.count, default=None)
    if samples is not None and (reason := batch_problem(samples, rows.values())) is not None:
        raise ValueError(reason)


def _drawn(
    description: Description,
    operation: Operation,
    name: str,
    noise: Noise,
    memory: Memory,
    shapes: Mapping[str, tuple[int, ...]],
) -> Array:
    links = {port: at for port, at in operation.inputs.items() if port not in ("like", "index")}
    given = Memory(memory)
    if noise.shape is not None:
        sizes = [size.value(shapes) for size in noise.shape]
        count = len(memory.read(noise.over)) if noise.over is not None and np.ndim(memory.read(noise.over)) else 1
        if (reason := memory_problem([Sized((count, *sizes))])) is not None:
            raise ValueError(f"'{name}': {reason}")
        given["like"] = np.broadcast_to(np.zeros((), description.inputs[name].dtype), sizes)
        links["like"] = "like"
    if noise.over is None:
        steps: list[int | None] = [None]
    else:
        over = memory.read(noise.over)
        trips = over if isinstance(over, int) else len(over)
        check_limit("trips", trips, f"the loop takes {trips:,} trips")
        steps = list(range(trips))
        links["index"] = "index"
    drawn = []
    for step in steps:
        given["index"] = step
        one = replace(operation, inputs=links, outputs=("drawn",), node="drawn")
        PlanRun(description.where, _no_part, description.file, given).run([one])
        drawn.append(given["drawn"])
    return np.stack(drawn) if noise.over is not None else np.asarray(drawn[0])


def _array(tensor: Tensor, value: Any) -> Array:
    array = np.asarray(np.asarray(value).astype(tensor.dtype, copy=False), order="C")
    if array.ndim != len(tensor.dims):
        raise ValueError(f"'{tensor.name}' has shape {array.shape} and the graph takes {len(tensor.dims)} axes")
    for size, dim in zip(array.shape, tensor.dims, strict=True):
        if isinstance(dim, int) and size != dim:
            raise ValueError(f"'{tensor.name}' has shape {array.shape} where the graph takes {tensor.dims}")
    return array


def _tables(description: Description) -> dict[str, Array]:
    if TABLES not in description.files:
        return {}
    from safetensors.numpy import load

    try:
        return load(description.files[TABLES])
    except Exception as error:
        raise BundleError(f"{description.where}: {TABLES}", "bad-tables", f"no safetensors file: {error}") from None


def _no_part(part: str, inputs: Mapping[str, Array]) -> NoReturn:
    raise ValueError(f"part '{part}' is in the graph, and no operation of the host")


def read_description(path: str | os.PathLike[str]) -> Description:
    """Read FILE.json, and the recipe's files in FILE.bin. Raises ``BundleError`` for what is not as it should be."""
    where = os.fspath(path)
    text = _read(Path(path), MAX_BYTES)
    top = Cursor(loads(text, where), where)
    if not isinstance(top.value, dict) or top.value.get("format") != FORMAT:
        top.fail(f"an object whose format is '{FORMAT}'", do="give the .json beside the .onnx of --single-file")
    if top.value.get("version") != VERSION:
        top.at("version").fail(f"format version {VERSION}", do="export again, or update guidegraph-runtime")
    fields = top.fields(_TOP)
    recipe = read_manifest((json.dumps(fields["recipe"].value, indent=1, ensure_ascii=False) + "\n").encode(), where)
    inputs, noise, samples, multiples = {}, {}, set(), {}
    for name, one in fields["inputs"].entries(wrong_label):
        given = one.fields(("dtype", "dims", "about", "example"), ("noise", "samples", "multiples"))
        dims = tuple(d.text() if isinstance(d.value, str) else d.integer(0, 2**31 - 1) for d in given["dims"].items())
        inputs[name] = Tensor(name, given["dtype"].choice(DTYPES), dims)
        if "noise" in given:
            noise[name] = _noise(given["noise"])
        if "samples" in given and given["samples"].boolean():
            samples.add(name)
        if "multiples" in given:
            multiples[name] = _multiples(given["multiples"], dims)
    known = {one.node for one in recipe.plan}
    if strange := [one.node for one in noise.values() if one.node not in known]:
        fields["inputs"].fail("noise of nodes that the recipe has", f"'{strange[0]}'")
    if not isinstance(fields["fields"].value, dict):
        fields["fields"].fail("an object")
    files = _files(Path(path).with_suffix(DATA), fields["data"], fields["files"], recipe)
    return Description(where, inputs, noise, fields["fields"].value, recipe, files, frozenset(samples), multiples)


def _multiples(cursor: Cursor, dims: Sequence[int | str]) -> dict[str, int]:
    entries = cursor.entries(lambda axis: None if axis in dims else "the name of an axis of this input")
    return {axis: at.integer(1, 2**31 - 1) for axis, at in entries}


def _noise(cursor: Cursor) -> Noise:
    given = cursor.fields(("node",), ("over", "shape"))
    shape = tuple(_size(one) for one in given["shape"].items()) if "shape" in given else None
    return Noise(given["node"].text(), given["over"].text() if "over" in given else None, shape)


def _size(cursor: Cursor) -> Size:
    given = cursor.fields(("size", "of"))
    of = {}
    for name, axes in given["of"].entries(wrong_label):
        pairs = [one.items() for one in axes.items()]
        of[name] = tuple(Axis(pair[0].text(), pair[1].integer(0, 64)) for pair in pairs)
    return Size(given["size"].text(), of)


def _files(path: Path, data: Cursor, offsets: Cursor, recipe: Manifest) -> dict[str, bytes]:
    """The recipe's files, cut out of FILE.bin."""
    given = data.fields(("file", "sha256", "size"))
    whole = _read(path, given["size"].integer(0, 2**40))
    if sha256(whole) != given["sha256"].text():
        given["sha256"].fail(f"the sha256 of {path.name}", f"{sha256(whole)}: the file was changed")
    found = {}
    for name, at in offsets.entries(lambda name: None if name in recipe.files else "the name of a file of the recipe"):
        start = at.integer(0, len(whole))
        found[name] = whole[start : start + recipe.files[name].size]
        if sha256(found[name]) != recipe.files[name].sha256:
            at.fail(f"the file '{name}' at this place", "other bytes")
    if missing := recipe.files.keys() - found.keys():
        offsets.fail(f"the place of '{min(missing)}'", "none")
    return found


def _read(path: Path, limit: int) -> bytes:
    try:
        with open_regular(path) as file:
            found = file.read(limit + 1)
    except OSError as error:
        raise BundleError(str(path), "no-file", f"cannot be read: {error.strerror}") from None
    if len(found) > limit:
        raise BundleError(str(path), "bad-manifest", f"expected at most {limit} bytes, found more")
    return found
