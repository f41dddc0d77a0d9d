"""Write the page of a bundle: the files of the page, onnxruntime-web, tables, and page.json, which lists them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from guidegraph_runtime.bundle.bounds import plain_bounds
from guidegraph_runtime.bundle.manifest_types import Input, Manifest, Operation, has_pixels, walk_operations
from guidegraph_runtime.bundle.names import RANGES, TABLES
from guidegraph_runtime.bundle.verify import open_bundle
from guidegraph_runtime.files.atomic_write import atomic_path, write_bytes, write_text
from guidegraph_runtime.files.bounded_json import read_json
from guidegraph_runtime.running.loops import Loop
from guidegraph_runtime.running.operation_order import select_operations
from guidegraph_runtime.running.tensor_inputs import read_tables
from guidegraph_runtime.running.unread_values import find_unread
from guidegraph_runtime.web_page.onnxruntime_web import GLUE, MODULE, WASM, OnnxruntimeWeb
from guidegraph_runtime.web_page.support import PageError, check_inputs, check_parts, check_providers
from guidegraph_runtime.web_page.table_rows import PageTables, PlanSource, make_tables

FORMAT, VERSION = "guidegraph-page", 1
PAGE, BUNDLE, ONNXRUNTIME = "page.json", "bundle", "onnxruntime-web"
MAX_SAFE_INT = 2**53 - 1
"""Larger integers are texts in page.json, because JavaScript reads a number of JSON as a double."""


@dataclass(frozen=True)
class Page:
    """The size of each file that a browser loads, and the ranges of inputs in the tables."""

    sizes: Mapping[str, int]
    ranges: Mapping[str, tuple[int, int]]


def check_page_folder(folder: Path) -> None:
    """Raise ``PageError`` if something other than a page is at ``folder``."""
    try:
        is_page = read_json(folder / PAGE).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        is_page = False
    if folder.exists() and not is_page and not (folder.is_dir() and not any(folder.iterdir())):
        raise PageError(f"'{folder}' exists and is not a page: choose a new folder, or remove it")


def plan_page(source: PlanSource, plan: Sequence[Operation], outputs: Mapping[str, str]) -> PageTables:
    """The page's plan and tables. outputs: the value of each picture. Raises ``PageError`` if it cannot be a page."""
    if not outputs:
        raise PageError("it has no output that is a picture, and a page shows pictures")
    check_inputs(source.inputs)
    targets = [*outputs.values()]
    return make_tables(source, select_operations(plan, targets), targets)


def write_page(folder: Path, web: OnnxruntimeWeb) -> Page:
    """Write the page of the bundle in ``folder/bundle`` into ``folder``; page.json comes last.

    Raises ``PageError`` if the bundle cannot be a page, and ``BundleError`` if it is not valid.
    """
    bundle = open_bundle(folder / BUNDLE)
    manifest = bundle.manifest
    check_providers(manifest.requires.providers)
    check_parts(manifest.parts)
    tables = read_tables(bundle.data(TABLES), TABLES) if TABLES in manifest.files else {}
    outputs = {name: output.source for name, output in manifest.outputs.items() if has_pixels(output.type)}
    source = PlanSource(str(folder / BUNDLE), manifest.inputs, tables, bundle.data)
    page = plan_page(source, manifest.plan, outputs)
    for name, data in _static_files():
        write_bytes(folder / name, data)
    for path in web.files:
        with atomic_path(folder / ONNXRUNTIME / path.name) as temporary:
            shutil.copyfile(path, temporary)
    _write_tables(page, folder / TABLES)
    loaded = [*_bundle_files(manifest, page.plan), *(f"{ONNXRUNTIME}/{path.name}" for path in web.files), TABLES]
    listing = {name: _describe(folder / name) for name in loaded}
    text = json.dumps(_page_json(manifest, bundle.digest, page, outputs, web, listing), indent=1, ensure_ascii=False)
    write_text(folder / PAGE, text + "\n")
    sizes = {name: item["size"] for name, item in listing.items()}
    return Page(sizes, {name: (item.low, item.high) for name, item in page.rows.items() if name})


def _page_json(
    manifest: Manifest,
    digest: str,
    page: PageTables,
    outputs: Mapping[str, str],
    web: OnnxruntimeWeb,
    listing: Mapping[str, Any],
) -> dict[str, Any]:
    parts = {
        name: {"file": f"{BUNDLE}/{part.file}", "inputs": [asdict(tensor) for tensor in part.inputs]}
        for name, part in manifest.parts.items()
        if f"{BUNDLE}/{part.file}" in listing
    }
    inputs = {name: _describe_input(spec) for name, spec in manifest.inputs.items()}
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": manifest.name,
        "digest": digest,
        "inputs": _to_json(inputs),
        "outputs": outputs,
        "parts": parts,
        "plan": [_operation_json(operation, {}) for operation in page.plan],
        "tables": {"file": TABLES, "rows": {name: asdict(item) for name, item in page.rows.items()}},
        "onnxruntime": {
            "version": web.version,
            "license": web.license,
            **{key: f"{ONNXRUNTIME}/{name}" for key, name in (("module", MODULE), ("glue", GLUE), ("wasm", WASM))},
        },
        "files": listing,
    }


def _describe_input(spec: Input) -> dict[str, Any]:
    fields = {"type": spec.type, "default": spec.default, "help": spec.help, "choices": spec.choices}
    return fields if spec.bounds is None else {**fields, "bounds": plain_bounds(spec.bounds)}


def _operation_json(operation: Operation, unread: Mapping[str, Any]) -> dict[str, Any]:
    """An operation in page.json. unread: by node, the flags under which no graph reads its result."""
    made: dict[str, Any] = {"op": operation.op, "node": operation.node, "in": dict(operation.inputs)}
    if operation.op == "loop":
        loop = Loop.of(operation)
        links = {"next": loop.next, "collect": loop.collect, "result": loop.result}
        made["with"] = {"over": loop.over, "item": loop.item, "index": loop.index, **links}
        body = operation.body or ()
        inner = find_unread(loop, body)
        made["body"] = [_operation_json(item, inner) for item in body]
    elif operation.op == "part":
        made["out"] = operation.outputs
        if RANGES in operation.settings:
            made["ranges"] = _to_json(operation.settings[RANGES])
    else:
        made["with"] = _to_json(operation.settings)
        if operation.node in unread:
            made["unread"] = unread[operation.node]
    return made


def _to_json(value: Any) -> Any:
    """A value for page.json, with large integers as texts and the paths of files from the page's folder."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_SAFE_INT:
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, Mapping):
        if [*value] == ["file"]:
            return {"file": f"{BUNDLE}/{value['file']}"}
        return {name: _to_json(item) for name, item in value.items()}
    return value


def _static_files() -> Iterator[tuple[str, bytes]]:
    """The files of the page, which are the same for all bundles."""
    for file in sorted(package_files(__package__).joinpath("static").iterdir(), key=lambda item: item.name):
        yield file.name, file.read_bytes()


def _bundle_files(manifest: Manifest, plan: Sequence[Operation]) -> list[str]:
    """The files of the bundle that a browser loads: the graphs, and those that settings name."""
    names: list[object] = []
    for operation in walk_operations(plan):
        if operation.op == "part":
            names.append(manifest.parts[operation.node].file)
        names += [
            value["file"] for value in operation.settings.values() if isinstance(value, dict) and [*value] == ["file"]
        ]
    return [f"{BUNDLE}/{name}" for name in dict.fromkeys(map(str, names))]


def _write_tables(page: PageTables, path: Path) -> None:
    from safetensors.numpy import save

    write_bytes(path, save(dict(page.arrays)))


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size": path.stat().st_size}
