"""Read and write `bundle.json`, format version 1, with strict checks of types, fields and references."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from guidegraph_runtime.bundle.manifest_plan import read_plan
from guidegraph_runtime.bundle.manifest_types import (
    DTYPES,
    FILE_TYPES,
    INPUT_TYPES,
    MANIFEST,
    OUTPUT_TYPES,
    Dims,
    File,
    Input,
    Manifest,
    Operation,
    Output,
    Part,
    Preview,
    Reference,
    Requires,
    Tensor,
    file_name_problem,
    identifier_problem,
    label_problem,
    plain_bounds,
    read_bounds,
)
from guidegraph_runtime.bundle.strict_json import Cursor, parse_json
from guidegraph_runtime.run_json import RECORD

__all__ = [
    "Dims",
    "File",
    "Input",
    "Manifest",
    "Operation",
    "Output",
    "Part",
    "Preview",
    "Reference",
    "Requires",
    "Tensor",
    "digest_of",
    "read_manifest",
    "seal",
    "write_manifest",
]

FORMAT = "guidegraph-bundle"
VERSION = 1
MAX_SIZE = 2**40
MAX_DIM = 2**31 - 1
MAX_CHANNELS = 1024
_LONG_TEXT = 2**20
_FIELDS = ("name", "workflow", "inputs", "outputs", "parts", "plan", "files", "versions", "requires", "fixed")
_NO_DIGEST = "0" * 64
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_manifest(data: bytes, location: str = MANIFEST) -> Manifest:
    """Parse the manifest in `data`, the bytes of the file `location`. Raises ``BundleError`` for the first error."""
    top = Cursor(parse_json(data, location), location)
    _check_format(top)
    fields = top.fields(("format", "version", *_FIELDS, "digest"), ["reference", "preview"])
    _check_digest(fields["digest"], data)
    files = {name: _file(cursor) for name, cursor in fields["files"].entries(_manifest_name_problem)}
    _check_case(fields["files"], files)
    inputs = {name: _input(cursor, files) for name, cursor in fields["inputs"].entries(identifier_problem)}
    outputs = {}
    for name, cursor in fields["outputs"].entries(identifier_problem):
        output = cursor.fields(["type", "source"], ["port", "axes"])
        port = output["port"].name(identifier_problem) if "port" in output else ""
        axes = output["axes"].integer(0, 32) if "axes" in output else 0
        outputs[name] = Output(output["type"].choice(OUTPUT_TYPES), output["source"].name(label_problem), port, axes)
    record = RECORD.removesuffix(".json")
    if record in outputs and outputs[record].type == "table":
        fields["outputs"].at(record).fail(f"another name for a table, since a run writes {RECORD}", f"'{record}'")
    parts = {name: _part(cursor, files) for name, cursor in fields["parts"].entries(label_problem)}
    needs = fields["requires"].fields(["opset", "providers"])
    providers = tuple(name.name(identifier_problem) for name in needs["providers"].items())
    requires = Requires(needs["opset"].integer(1, 10_000), providers)
    for name, part in parts.items():
        if part.opsets.get("", 0) > requires.opset:
            opset = str(part.opsets[""])
            fields["parts"].at(name).fail(f"at most opset {requires.opset}, as 'requires' says", opset)
    reference = _reference(fields["reference"], inputs, outputs, files) if "reference" in fields else None
    plan = read_plan(fields["plan"], parts)
    return Manifest(
        name=fields["name"].name(label_problem),
        workflow=fields["workflow"].text(_LONG_TEXT),
        inputs=inputs,
        outputs=outputs,
        parts=parts,
        plan=plan,
        files=files,
        versions={name: cursor.name(label_problem) for name, cursor in fields["versions"].entries(label_problem)},
        requires=requires,
        fixed={name: cursor.text() for name, cursor in fields["fixed"].entries(identifier_problem)},
        reference=reference,
        preview=_preview(fields["preview"], plan) if "preview" in fields else None,
    )


def write_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as `bundle.json`. Raises ``BundleError`` if it could not be read back."""
    text = json.dumps(_plain(manifest) | {"digest": _NO_DIGEST}, indent=1, ensure_ascii=False) + "\n"
    data = seal(text.encode("utf-8", "surrogatepass"))
    read_manifest(data)
    return data


def seal(data: bytes) -> bytes:
    """Fill in the digest, the last field of `bundle.json`: the sha256 of `data`, where it is 64 zeros."""
    before, _, after = data.rpartition(_NO_DIGEST.encode())
    return before + hashlib.sha256(data).hexdigest().encode() + after


def digest_of(data: bytes) -> str:
    """The digest in the bytes of a valid `bundle.json`."""
    return str(json.loads(data)["digest"])


def _check_format(top: Cursor) -> None:
    # First of all: files of another version cannot be checked further.
    if not isinstance(top.value, dict) or top.value.get("format") != FORMAT:
        top.fail(f"an object whose format is '{FORMAT}'", do="is this the folder that guidegraph export wrote?")
    version = top.value.get("version")
    if version != VERSION or isinstance(version, bool | float):
        do = "export the workflow again, or install the guidegraph-runtime of its guidegraph"
        Cursor(version, top.location, "version").fail(f"format version {VERSION}", do=do)


def _check_digest(cursor: Cursor, data: bytes) -> None:
    digest = cursor.text()
    if not _SHA256.fullmatch(digest):
        cursor.fail("64 lower-case hexadecimal digits")
    before, separator, after = data.rpartition(digest.encode())
    if not separator or seal(before + _NO_DIGEST.encode() + after) != data:
        cursor.fail("the digest of this file", f"another one: {cursor.location} was changed", "get the bundle again")


def _manifest_name_problem(name: str) -> str | None:
    if name.casefold() == MANIFEST:
        return "the name of another file than this one"
    return file_name_problem(name)


def _check_case(cursor: Cursor, files: Mapping[str, File]) -> None:
    """Refuse names that collide on a case-insensitive file system."""
    spellings: dict[str, str] = {}
    for name in files:
        if (other := spellings.setdefault(name.casefold(), name)) != name:
            cursor.fail("names that differ in more than case", f"'{other}' and '{name}'")
    folders: dict[str, str] = {}
    for name in files:
        parts = name.split("/")
        for folder in ("/".join(parts[:i]) for i in range(1, len(parts))):
            if folder.casefold() in spellings:
                cursor.fail("files and folders of different names", f"'{spellings[folder.casefold()]}' and '{name}'")
            if (other := folders.setdefault(folder.casefold(), folder)) != folder:
                cursor.fail("folders that differ in more than case", f"'{other}' and '{folder}'")


def _file(cursor: Cursor) -> File:
    fields = cursor.fields(["sha256", "size"])
    sha256 = fields["sha256"].text()
    if not _SHA256.fullmatch(sha256):
        fields["sha256"].fail("64 lower-case hexadecimal digits")
    return File(sha256, fields["size"].integer(0, MAX_SIZE))


def _file_reference(cursor: Cursor, files: Mapping[str, File]) -> str:
    name = cursor.name(file_name_problem)
    if name not in files:
        cursor.fail("a file that 'files' lists")
    return name


def _input(cursor: Cursor, files: Mapping[str, File]) -> Input:
    kind = cursor.at("type").choice(INPUT_TYPES) if isinstance(cursor.value, dict) and "type" in cursor.value else ""
    tensor = ["dtype", "dims"] if kind == "tensor" else []
    fields = cursor.fields(["type", *tensor], ["required", "default", "help", "choices", "many", "optional", "bounds"])
    if ("required" in fields) == ("default" in fields) or ("required" in fields and not fields["required"].boolean()):
        cursor.fail("either a default or required: true")
    optional = "optional" in fields and fields["optional"].boolean()
    if optional and "required" in fields:
        fields["optional"].fail("an input with a default")
    result = Input(
        type=kind,
        required="required" in fields,
        default=fields["default"].value if "default" in fields else None,
        help=fields["help"].text() if "help" in fields else "",
        choices=_choices(fields["choices"], kind) if "choices" in fields else None,
        many="many" in fields and fields["many"].boolean(),
        dtype=fields["dtype"].choice(DTYPES) if tensor else None,
        dims=_dims(fields["dims"]) if tensor else None,
        optional=optional,
        bounds=read_bounds(fields["bounds"], kind) if "bounds" in fields else None,
    )
    if result.default is not None:
        _check_default(fields["default"], result, files)
    return result


def _choices(cursor: Cursor, kind: str) -> tuple[str | int | float, ...]:
    if kind not in ("str", "int", "float"):
        cursor.fail("choices of texts or numbers only", f"an input of type {kind}")
    for item in cursor.items():
        if (wrong := Input(kind).wrong(item.value)) is not None:
            item.fail(wrong)
    if not cursor.value:
        cursor.fail("at least one choice")
    return tuple(cursor.value)


def _check_default(cursor: Cursor, spec: Input, files: Mapping[str, File]) -> None:
    if (wrong := spec.wrong(cursor.value)) is not None:
        cursor.fail(wrong)
    if spec.type in FILE_TYPES:
        for item in cursor.items() if isinstance(cursor.value, list) else [cursor]:
            _file_reference(item, files)


def _dims(cursor: Cursor) -> Dims:
    return tuple(
        dim.name(label_problem) if isinstance(dim.value, str) else dim.integer(0, MAX_DIM) for dim in cursor.items()
    )


def _tensors(cursor: Cursor) -> tuple[Tensor, ...]:
    tensors: dict[str, Tensor] = {}
    for item in cursor.items():
        fields = item.fields(["name", "dtype", "dims"])
        name = fields["name"].name(label_problem)
        if name in tensors:
            fields["name"].fail("each name once")
        tensors[name] = Tensor(name, fields["dtype"].choice(DTYPES), _dims(fields["dims"]))
    return tuple(tensors.values())


def _part(cursor: Cursor, files: Mapping[str, File]) -> Part:
    fields = cursor.fields(["file", "inputs", "outputs", "externals", "opsets"])
    outputs = _tensors(fields["outputs"])
    if not outputs:
        fields["outputs"].fail("at least one output")
    opsets = {
        domain: version.integer(1, 10_000)
        for domain, version in fields["opsets"].entries(lambda name: label_problem(name) if name else None)
    }
    return Part(
        file=_file_reference(fields["file"], files),
        inputs=_tensors(fields["inputs"]),
        outputs=outputs,
        opsets=opsets,
        externals=tuple(_file_reference(name, files) for name in fields["externals"].items()),
    )


def _reference(
    cursor: Cursor, inputs: Mapping[str, Input], outputs: Mapping[str, Output], files: Mapping[str, File]
) -> Reference:
    fields = cursor.fields(["inputs", "outputs", "tolerance"])
    input_values = {}
    for name, value in fields["inputs"].entries(lambda name: None if name in inputs else "the name of an input"):
        if value.value is not None:
            _check_default(value, inputs[name], files)
        input_values[name] = value.value
    output_files = {
        name: _file_reference(value, files)
        for name, value in fields["outputs"].entries(lambda name: None if name in outputs else "the name of an output")
    }
    tolerance = fields["tolerance"].number()
    if tolerance < 0:
        fields["tolerance"].fail("a number that is not negative")
    return Reference(input_values, output_files, tolerance)


def _preview(cursor: Cursor, plan: Sequence[Operation]) -> Preview:
    fields = cursor.fields(["carry", "matrix"])
    matrix = tuple(tuple(value.number() for value in row.items()) for row in fields["matrix"].items())
    if len(matrix) != 3 or len({len(row) for row in matrix}) != 1 or not 2 <= len(matrix[0]) <= MAX_CHANNELS + 1:
        fields["matrix"].fail(f"three rows of equal length, from 2 to {MAX_CHANNELS + 1} numbers each")
    carries = sorted({name for operation in plan if operation.op == "loop" for name in operation.inputs})
    if fields["carry"].value not in carries:
        fields["carry"].fail(f"a value that a loop of the plan carries: {', '.join(carries) or 'there is none'}")
    return Preview(fields["carry"].name(label_problem), matrix)


def _plain(manifest: Manifest) -> dict[str, Any]:
    reference, preview = manifest.reference, manifest.preview
    plain_preview = {} if preview is None else {"preview": {"carry": preview.carry, "matrix": preview.matrix}}
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": manifest.name,
        "workflow": manifest.workflow,
        "inputs": {name: _plain_input(item) for name, item in manifest.inputs.items()},
        "outputs": {name: _output_to_json(item) for name, item in manifest.outputs.items()},
        "parts": {
            name: {
                "file": part.file,
                "inputs": [_plain_tensor(tensor) for tensor in part.inputs],
                "outputs": [_plain_tensor(tensor) for tensor in part.outputs],
                "externals": list(part.externals),
                "opsets": dict(part.opsets),
            }
            for name, part in manifest.parts.items()
        },
        "plan": [_plain_operation(item) for item in manifest.plan],
        "files": {name: {"sha256": item.sha256, "size": item.size} for name, item in manifest.files.items()},
        "versions": dict(manifest.versions),
        "requires": {"opset": manifest.requires.opset, "providers": list(manifest.requires.providers)},
        "fixed": dict(manifest.fixed),
        **plain_preview,
    } | (
        {}
        if reference is None
        else {
            "reference": {
                "inputs": dict(reference.inputs),
                "outputs": dict(reference.outputs),
                "tolerance": reference.tolerance,
            }
        }
    )


def _plain_input(spec: Input) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": spec.type}
    fields |= {"required": True} if spec.required else {"default": spec.default}
    fields |= {"help": spec.help} if spec.help else {}
    fields |= {"choices": list(spec.choices)} if spec.choices is not None else {}
    fields |= {"many": True} if spec.many else {}
    fields |= {"optional": True} if spec.optional else {}
    fields |= {"bounds": plain_bounds(spec.bounds)} if spec.bounds is not None else {}
    fields |= {"dtype": spec.dtype} if spec.dtype is not None else {}
    return fields | ({"dims": list(spec.dims)} if spec.dims is not None else {})


def _plain_tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "dims": list(tensor.dims)}


def _plain_operation(operation: Operation) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "op": operation.op,
        "node": operation.node,
        "in": dict(operation.inputs),
        "with": dict(operation.settings),
        "out": list(operation.outputs),
    }
    return (
        fields if operation.body is None else fields | {"body": [_plain_operation(inner) for inner in operation.body]}
    )


def _output_to_json(output: Output) -> dict[str, Any]:
    port = {"port": output.port, "axes": output.axes} if output.port else {}
    return {"type": output.type, "source": output.source, **port}
