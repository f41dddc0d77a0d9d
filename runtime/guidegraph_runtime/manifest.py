"""`bundle.json`, format version 1: every field has one type, nothing is missing or unknown, and all of it agrees."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from guidegraph_runtime.choices import CHOOSE, Choice
from guidegraph_runtime.loops import Loop
from guidegraph_runtime.manifest_types import (
    DTYPES,
    FILE_TYPES,
    INPUT_TYPES,
    OUTPUT_TYPES,
    Dims,
    File,
    Input,
    Manifest,
    Operation,
    Output,
    Part,
    Reference,
    Requires,
    Tensor,
)
from guidegraph_runtime.names import MANIFEST, wrong_file_name, wrong_identifier, wrong_label
from guidegraph_runtime.strict_json import Cursor, loads

__all__ = [
    "Dims",
    "File",
    "Input",
    "Manifest",
    "Operation",
    "Output",
    "Part",
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
MAX_BODIES = 8
_LONG_TEXT = 2**20
_FIELDS = ("name", "workflow", "inputs", "outputs", "parts", "plan", "files", "versions", "requires", "fixed")
_NO_DIGEST = "0" * 64
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_manifest(data: bytes, where: str = MANIFEST) -> Manifest:
    """The manifest that `data`, the bytes of `where`, holds; ``BundleError`` for the first thing that is wrong."""
    top = Cursor(loads(data, where), where)
    _check_format(top)
    fields = top.fields(("format", "version", *_FIELDS, "digest"), ["reference"])
    _check_digest(fields["digest"], data)
    files = {name: _file(one) for name, one in fields["files"].entries(_wrong_listed_name)}
    _check_case(fields["files"], files)
    inputs = {name: _input(one, files) for name, one in fields["inputs"].entries(wrong_identifier)}
    outputs = {name: _output(one) for name, one in fields["outputs"].entries(wrong_identifier)}
    parts = {name: _part(one, files) for name, one in fields["parts"].entries(wrong_label)}
    requires = _requires(fields["requires"])
    _check_opsets(fields["parts"], parts, requires)
    reference = _reference(fields["reference"], inputs, outputs, files) if "reference" in fields else None
    return Manifest(
        name=fields["name"].name(wrong_label),
        workflow=fields["workflow"].text(_LONG_TEXT),
        inputs=inputs,
        outputs=outputs,
        parts=parts,
        plan=_operations(fields["plan"], MAX_BODIES),
        files=files,
        versions={name: one.name(wrong_label) for name, one in fields["versions"].entries(wrong_label)},
        requires=requires,
        fixed={name: one.text() for name, one in fields["fixed"].entries(wrong_identifier)},
        reference=reference,
    )


def write_manifest(manifest: Manifest) -> bytes:
    """`bundle.json` for a manifest; ``BundleError`` for one that could not be read again."""
    text = json.dumps(_plain(manifest) | {"digest": _NO_DIGEST}, indent=1, ensure_ascii=False) + "\n"
    data = seal(text.encode("utf-8", "surrogatepass"))
    read_manifest(data)
    return data


def seal(data: bytes) -> bytes:
    """Fill in the digest of `bundle.json`, its last field, which is 64 zeros in `data`: the sha256 of these bytes."""
    before, _, after = data.rpartition(_NO_DIGEST.encode())
    return before + hashlib.sha256(data).hexdigest().encode() + after


def digest_of(data: bytes) -> str:
    """The digest in the bytes of a `bundle.json` that was read."""
    return str(json.loads(data)["digest"])


def _check_format(top: Cursor) -> None:
    # Before all else: of another version nothing more can be said.
    if not isinstance(top.value, dict) or top.value.get("format") != FORMAT:
        top.fail(f"an object whose format is '{FORMAT}'", do="is this the folder that guidegraph export wrote?")
    version = top.value.get("version")
    if version != VERSION or isinstance(version, bool | float):
        do = "export the workflow again, or install the guidegraph-runtime of its guidegraph"
        Cursor(version, top.where, "version").fail(f"format version {VERSION}", do=do)


def _check_digest(cursor: Cursor, data: bytes) -> None:
    digest = cursor.text()
    if not _SHA256.fullmatch(digest):
        cursor.fail("64 lower-case hexadecimal digits")
    before, found, after = data.rpartition(digest.encode())
    if not found or seal(before + _NO_DIGEST.encode() + after) != data:
        cursor.fail("the digest of this file", f"another one: {cursor.where} was changed", "get the bundle again")


def _wrong_listed_name(name: str) -> str | None:
    if name.casefold() == MANIFEST:
        return "the name of another file than this one"
    return wrong_file_name(name)


def _check_case(cursor: Cursor, files: Mapping[str, File]) -> None:
    """Refuse what a system that ignores case takes for one file, or for a file and a folder."""
    spelt: dict[str, str] = {}
    for name in files:
        if (other := spelt.setdefault(name.casefold(), name)) != name:
            cursor.fail("names that differ in more than case", f"'{other}' and '{name}'")
    folders: dict[str, str] = {}
    for name in files:
        parts = name.split("/")
        for folder in ("/".join(parts[:i]) for i in range(1, len(parts))):
            if folder.casefold() in spelt:
                cursor.fail("files and folders of different names", f"'{spelt[folder.casefold()]}' and '{name}'")
            if (other := folders.setdefault(folder.casefold(), folder)) != folder:
                cursor.fail("folders that differ in more than case", f"'{other}' and '{folder}'")


def _file(cursor: Cursor) -> File:
    fields = cursor.fields(["sha256", "size"])
    sha256 = fields["sha256"].text()
    if not _SHA256.fullmatch(sha256):
        fields["sha256"].fail("64 lower-case hexadecimal digits")
    return File(sha256, fields["size"].integer(0, MAX_SIZE))


def _listed(cursor: Cursor, files: Mapping[str, File]) -> str:
    name = cursor.name(wrong_file_name)
    if name not in files:
        cursor.fail("a file that 'files' lists")
    return name


def _input(cursor: Cursor, files: Mapping[str, File]) -> Input:
    kind = cursor.at("type").choice(INPUT_TYPES) if isinstance(cursor.value, dict) and "type" in cursor.value else ""
    tensor = ["dtype", "dims"] if kind == "tensor" else []
    fields = cursor.fields(["type", *tensor], ["required", "default", "help", "choices", "many"])
    if ("required" in fields) == ("default" in fields) or ("required" in fields and not fields["required"].boolean()):
        cursor.fail("either a default or required: true")
    found = Input(
        type=kind,
        required="required" in fields,
        default=fields["default"].value if "default" in fields else None,
        help=fields["help"].text() if "help" in fields else "",
        choices=_choices(fields["choices"], kind) if "choices" in fields else None,
        many="many" in fields and fields["many"].boolean(),
        dtype=fields["dtype"].choice(DTYPES) if tensor else None,
        dims=_dims(fields["dims"]) if tensor else None,
    )
    if found.default is not None:
        _check_default(fields["default"], found, files)
    return found


def _choices(cursor: Cursor, kind: str) -> tuple[str | int | float, ...]:
    if kind not in ("str", "int", "float"):
        cursor.fail("choices of texts or numbers only", f"an input of type {kind}")
    for item in cursor.items():
        if (wrong := Input(kind).wrong(item.value)) is not None:
            item.fail(wrong)
    if not cursor.value:
        cursor.fail("at least one choice")
    return tuple(cursor.value)


def _check_default(cursor: Cursor, found: Input, files: Mapping[str, File]) -> None:
    if (wrong := found.wrong(cursor.value)) is not None:
        cursor.fail(wrong)
    if found.type in FILE_TYPES:
        for one in cursor.items() if isinstance(cursor.value, list) else [cursor]:
            _listed(one, files)


def _output(cursor: Cursor) -> Output:
    fields = cursor.fields(["type", "source"])
    return Output(fields["type"].choice(OUTPUT_TYPES), fields["source"].name(wrong_label))


def _dims(cursor: Cursor) -> Dims:
    return tuple(
        one.name(wrong_label) if isinstance(one.value, str) else one.integer(0, MAX_DIM) for one in cursor.items()
    )


def _tensors(cursor: Cursor) -> tuple[Tensor, ...]:
    found: dict[str, Tensor] = {}
    for item in cursor.items():
        fields = item.fields(["name", "dtype", "dims"])
        name = fields["name"].name(wrong_label)
        if name in found:
            fields["name"].fail("each name once")
        found[name] = Tensor(name, fields["dtype"].choice(DTYPES), _dims(fields["dims"]))
    return tuple(found.values())


def _part(cursor: Cursor, files: Mapping[str, File]) -> Part:
    fields = cursor.fields(["file", "inputs", "outputs", "externals", "opsets"])
    outputs = _tensors(fields["outputs"])
    if not outputs:
        fields["outputs"].fail("at least one output")
    opsets = {
        domain: version.integer(1, 10_000)
        for domain, version in fields["opsets"].entries(lambda name: wrong_label(name) if name else None)
    }
    return Part(
        file=_listed(fields["file"], files),
        inputs=_tensors(fields["inputs"]),
        outputs=outputs,
        opsets=opsets,
        externals=tuple(_listed(one, files) for one in fields["externals"].items()),
    )


def _requires(cursor: Cursor) -> Requires:
    fields = cursor.fields(["opset", "providers"])
    providers = tuple(one.name(wrong_identifier) for one in fields["providers"].items())
    return Requires(fields["opset"].integer(1, 10_000), providers)


def _check_opsets(cursor: Cursor, parts: Mapping[str, Part], requires: Requires) -> None:
    for name, part in parts.items():
        if part.opsets.get("", 0) > requires.opset:
            cursor.at(name).fail(f"at most opset {requires.opset}, as 'requires' says", str(part.opsets[""]))


def _operations(cursor: Cursor, levels: int) -> tuple[Operation, ...]:
    if levels == 0:
        cursor.fail(f"at most {MAX_BODIES} bodies in each other", "more")
    return tuple(_operation(one, levels) for one in cursor.items())


def _operation(cursor: Cursor, levels: int) -> Operation:
    fields = cursor.fields(["op", "node", "in", "with", "out"], ["body"])
    outputs = tuple(one.name(wrong_label) for one in fields["out"].items())
    if len(set(outputs)) < len(outputs):
        fields["out"].fail("each name once")
    operation = Operation(
        op=fields["op"].name(wrong_label),
        node=fields["node"].name(wrong_label),
        inputs={name: one.name(wrong_label) for name, one in fields["in"].entries(wrong_label)},
        settings={name: one.value for name, one in fields["with"].entries(wrong_label)},
        outputs=outputs,
        body=_operations(fields["body"], levels - 1) if "body" in fields else None,
    )
    if operation.op in ("loop", CHOOSE):
        try:
            Loop.of(operation) if operation.op == "loop" else Choice.of(operation)
        except ValueError as error:
            fields["with"].fail(f"what makes a {'loop' if operation.op == 'loop' else 'choice'}", str(error))
    return operation


def _reference(
    cursor: Cursor, inputs: Mapping[str, Input], outputs: Mapping[str, Output], files: Mapping[str, File]
) -> Reference:
    fields = cursor.fields(["inputs", "outputs", "tolerance"])
    given = {}
    for name, value in fields["inputs"].entries(lambda name: None if name in inputs else "the name of an input"):
        if value.value is not None:
            _check_default(value, inputs[name], files)
        given[name] = value.value
    found = {
        name: _listed(value, files)
        for name, value in fields["outputs"].entries(lambda name: None if name in outputs else "the name of an output")
    }
    tolerance = fields["tolerance"].number()
    if tolerance < 0:
        fields["tolerance"].fail("a number that is not negative")
    return Reference(given, found, tolerance)


def _plain(manifest: Manifest) -> dict[str, Any]:
    reference = manifest.reference
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": manifest.name,
        "workflow": manifest.workflow,
        "inputs": {name: _plain_input(one) for name, one in manifest.inputs.items()},
        "outputs": {name: {"type": one.type, "source": one.source} for name, one in manifest.outputs.items()},
        "parts": {name: _plain_part(one) for name, one in manifest.parts.items()},
        "plan": [_plain_operation(one) for one in manifest.plan],
        "files": {name: {"sha256": one.sha256, "size": one.size} for name, one in manifest.files.items()},
        "versions": dict(manifest.versions),
        "requires": {"opset": manifest.requires.opset, "providers": list(manifest.requires.providers)},
        "fixed": dict(manifest.fixed),
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


def _plain_input(one: Input) -> dict[str, Any]:
    given: dict[str, Any] = {"type": one.type}
    given |= {"required": True} if one.required else {"default": one.default}
    given |= {"help": one.help} if one.help else {}
    given |= {"choices": list(one.choices)} if one.choices is not None else {}
    given |= {"many": True} if one.many else {}
    given |= {"dtype": one.dtype} if one.dtype is not None else {}
    return given | ({"dims": list(one.dims)} if one.dims is not None else {})


def _plain_part(one: Part) -> dict[str, Any]:
    return {
        "file": one.file,
        "inputs": [_plain_tensor(tensor) for tensor in one.inputs],
        "outputs": [_plain_tensor(tensor) for tensor in one.outputs],
        "externals": list(one.externals),
        "opsets": dict(one.opsets),
    }


def _plain_tensor(one: Tensor) -> dict[str, Any]:
    return {"name": one.name, "dtype": one.dtype, "dims": list(one.dims)}


def _plain_operation(one: Operation) -> dict[str, Any]:
    given: dict[str, Any] = {
        "op": one.op,
        "node": one.node,
        "in": dict(one.inputs),
        "with": dict(one.settings),
        "out": list(one.outputs),
    }
    return given if one.body is None else given | {"body": [_plain_operation(inner) for inner in one.body]}
