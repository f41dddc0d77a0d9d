"""Write the page of a bundle: the files of the page, onnxruntime-web, tables, and page.json, which lists them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from guidegraph_browser.support import (
    GLUE,
    MODULE,
    WASM,
    OnnxruntimeWeb,
    PageError,
    find_input_problems,
    find_part_problems,
    find_provider_problems,
    page_inputs,
)
from guidegraph_browser.table_rows import PageTables, PlanSource, find_table_problems, make_tables, split_plan
from guidegraph_runtime.bundle.manifest_types import (
    FILE_TYPES,
    RANGES,
    TABLES,
    Input,
    Manifest,
    Operation,
    Output,
    plain_bounds,
    walk_operations,
)
from guidegraph_runtime.bundle.verify import open_bundle
from guidegraph_runtime.declare.choice_words import WHEN
from guidegraph_runtime.files.atomic_write import atomic_path, write_bytes, write_text
from guidegraph_runtime.files.regular_files import read_json
from guidegraph_runtime.pictures import scene_objects
from guidegraph_runtime.pictures.semantic_maps import CLASSES, COLOURS
from guidegraph_runtime.running.operation_order import select_operations
from guidegraph_runtime.running.tensor_inputs import read_tables
from guidegraph_runtime.running.unread_values import find_unread
from guidegraph_runtime.running.values import Loop

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


def choose_outputs(source: PlanSource, plan: Sequence[Operation], outputs: Mapping[str, Output]) -> dict[str, Output]:
    """The outputs for a page to show: pictures and the tables that it can compute, or all tables without a picture."""
    pictures = {name for name, output in outputs.items() if output.type == "image"}
    tables = {name for name, output in outputs.items() if output.type == "table"}
    if pictures:
        tables -= {
            name for name in tables if split_plan(source, select_operations(plan, [outputs[name].source])).problems
        }
    return {name: output for name, output in outputs.items() if name in pictures | tables}


def find_page_problems(source: PlanSource, plan: Sequence[Operation], outputs: Mapping[str, Output]) -> list[str]:
    """All reasons, known without the graphs, why a plan cannot be a page. outputs: those that it shows."""
    problems = [] if outputs else ["it has no output that is a picture or a table, and a page shows these"]
    problems += find_input_problems(source.inputs)
    targets = [output.source for output in outputs.values()]
    return problems + find_table_problems(source, select_operations(plan, targets), targets)


def write_page(folder: Path, web: OnnxruntimeWeb) -> Page:
    """Write the page of the bundle in ``folder/bundle`` into ``folder``; page.json comes last.

    Raises ``PageError`` if the bundle cannot be a page, and ``BundleError`` if it is not valid.
    """
    from safetensors.numpy import save

    bundle = open_bundle(folder / BUNDLE)
    manifest = bundle.manifest
    tables = read_tables(bundle.data(TABLES), TABLES) if TABLES in manifest.files else {}
    source = PlanSource(str(folder / BUNDLE), manifest.inputs, tables, bundle.data)
    outputs = choose_outputs(source, manifest.plan, manifest.outputs)
    problems = [
        *find_provider_problems(manifest.requires.providers),
        *find_part_problems(manifest.parts),
        *find_page_problems(source, manifest.plan, outputs),
    ]
    if problems:
        raise PageError(*problems)
    targets = [output.source for output in outputs.values()]
    page = make_tables(source, select_operations(manifest.plan, targets), targets)
    for static in package_files(__package__).joinpath("static").iterdir():
        write_bytes(folder / static.name, static.read_bytes())
    for path in web.files:
        with atomic_path(folder / ONNXRUNTIME / path.name) as temporary:
            shutil.copyfile(path, temporary)
    write_bytes(folder / TABLES, save(dict(page.arrays)))
    loaded = [*_bundle_files(manifest, page.plan), *(f"{ONNXRUNTIME}/{path.name}" for path in web.files), TABLES]
    listing: dict[str, Any] = {}
    for name in loaded:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        listing[name] = {"sha256": digest, "size": (folder / name).stat().st_size}
    text = json.dumps(_page_json(manifest, bundle.digest, page, outputs, web, listing), indent=1, ensure_ascii=False)
    write_text(folder / PAGE, text + "\n")
    sizes = {name: item["size"] for name, item in listing.items()}
    widest = sorted(page.ranges, key=lambda item: item.high)
    return Page(sizes, {item.input: (item.low, item.high) for item in widest if item.input})


def _page_json(
    manifest: Manifest,
    digest: str,
    page: PageTables,
    outputs: Mapping[str, Output],
    web: OnnxruntimeWeb,
    listing: Mapping[str, Any],
) -> dict[str, Any]:
    parts = {
        name: {
            "file": f"{BUNDLE}/{part.file}",
            "externals": {external: f"{BUNDLE}/{external}" for external in part.externals},
            "inputs": [asdict(tensor) for tensor in part.inputs],
        }
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
        "outputs": {name: asdict(output) for name, output in outputs.items()},
        "parts": parts,
        "plan": [_operation_json(operation, {}) for operation in page.plan],
        "tables": {"file": TABLES, "ranges": [asdict(item) for item in page.ranges]},
        "onnxruntime": {
            "version": web.version,
            "license": web.license,
            **{key: f"{ONNXRUNTIME}/{name}" for key, name in (("module", MODULE), ("glue", GLUE), ("wasm", WASM))},
        },
        "files": listing,
    }


def _describe_input(spec: Input) -> dict[str, Any]:
    default = spec.default
    if spec.type in FILE_TYPES and isinstance(default, str):
        default = f"{BUNDLE}/{default}"
    fields = {"type": spec.type, "default": default, "help": spec.help, "choices": spec.choices, "many": spec.many}
    return fields if spec.bounds is None else {**fields, "bounds": plain_bounds(spec.bounds)}


def extra_settings(op: str) -> dict[str, Any]:
    """Further settings of an operation in the page: words and colours of the runtime."""
    if op == "semantic.load":
        return {"names": CLASSES, "colours": COLOURS}
    if op not in ("layout.place", "layout.table"):
        return {}
    words = {"names": scene_objects.NAMES, "colour_names": scene_objects.COLOURS}
    if op == "layout.table":
        return words
    return {
        **words,
        "nouns": scene_objects.list_nouns(),
        "plurals": {kind.plural: kind.name for kind in scene_objects.OBJECTS if kind.plural != kind.name},
        "colours": scene_objects.list_colours(),
        "natural": [scene_objects.natural_colour(i, 0) for i in range(len(scene_objects.NAMES))],
    }


def _operation_json(operation: Operation, unread: Mapping[str, Any]) -> dict[str, Any]:
    """An operation in page.json. unread: by node, the flags under which no graph reads its result."""
    made: dict[str, Any] = {"op": operation.op, "node": operation.node, "in": page_inputs(operation)}
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
        if WHEN in operation.settings:
            made["with"] = {WHEN: operation.settings[WHEN]}
        if operation.body:
            made["body"] = [_operation_json(form, unread) for form in operation.body]
    else:
        made["with"] = _to_json({**extra_settings(operation.op), **operation.settings})
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


def _bundle_files(manifest: Manifest, plan: Sequence[Operation]) -> list[str]:
    """The files of the bundle that a browser loads: the graphs, and those that settings and defaults name."""
    names: list[object] = []
    for spec in manifest.inputs.values():
        if spec.type in FILE_TYPES and spec.default is not None:
            names += spec.default if isinstance(spec.default, list) else [spec.default]
    for operation in walk_operations(plan):
        if operation.op == "part":
            part = manifest.parts[operation.node]
            names += [part.file, *part.externals]
        names += [
            value["file"] for value in operation.settings.values() if isinstance(value, dict) and [*value] == ["file"]
        ]
    return [f"{BUNDLE}/{name}" for name in dict.fromkeys(map(str, names))]
