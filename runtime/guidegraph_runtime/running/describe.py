"""Describe a bundle's inputs, settings and outputs for a user."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from guidegraph_runtime.bundle.manifest_types import FILE_TYPES, Input, Manifest, Part, walk_operations
from guidegraph_runtime.errors import format_value
from guidegraph_runtime.open_runs.joined_calls import describe_joins
from guidegraph_runtime.running.overrides import NodeOverrides

_LONG = 100


def describe_bundle(manifest: Manifest, digest: str, offers: Iterable[NodeOverrides]) -> str:
    """The text of ``--describe``: inputs, fixed parameters, settings of nodes, outputs and parts, and their options.

    Of each part in a loop, it says whether unlike runs share its calls, or why each runs alone.

    offers: the nodes with settings that can be overridden.
    """
    size = sum(item.size for item in manifest.files.values())
    versions = " ".join(
        f"{name} {manifest.versions[name]}" for name in ("guidegraph", "torch") if name in manifest.versions
    )
    lines = [f"{manifest.name}, {size / 1e6:.1f} MB, sha256 {digest}" + (f", made by {versions}" if versions else "")]
    lines += _section("inputs, --set NAME=VALUE", map(_input, manifest.inputs.items()))
    lines += _section("fixed when the bundle was made", manifest.fixed.items())
    lines += _section("nodes, --node NODE.SETTING=VALUE and --node NODE.use=OPERATION", _nodes(offers))
    lines += _section(
        "fields that the graphs were traced with; settings that change one are refused", _fields(manifest)
    )
    lines += _section("outputs, --only NAME", ((name, item.type) for name, item in manifest.outputs.items()))
    lines += _section("parts", ((name, _part(manifest, item)) for name, item in manifest.parts.items()))
    lines += _section("runs that step together (start, step and finish of Bundle)", describe_joins(manifest))
    if manifest.reference is not None:
        lines += ["", "carries a run to repeat: --verify"]
    return "\n".join(lines)


def _section(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    entries = list(rows)
    width = max((len(name) for name, _ in entries), default=0)
    return ["", title, *(f"  {name:{width}}  {text}".rstrip() for name, text in entries)] if entries else []


def _input(entry: tuple[str, Input]) -> tuple[str, str]:
    name, spec = entry
    kind = spec.type if spec.dims is None else f"{spec.type} {spec.dtype} ({', '.join(map(str, spec.dims))})"
    kind = " or ".join((kind, *spec.other_kinds))
    if spec.required:
        default = "required"
    elif spec.type in FILE_TYPES and spec.default is not None:
        default = f"default: the bundle's {spec.default}"
    else:
        default = f"default {_value(spec.default)}"
    choices = f", one of {', '.join(map(str, spec.choices))}" if spec.choices else ""
    bounds = "" if spec.bounds is None else f",{spec.bounds.describe()}"
    return name, f"{kind}, {default}{bounds}{choices}" + (f": {spec.help}" if spec.help else "")


def _nodes(offers: Iterable[NodeOverrides]) -> Iterator[tuple[str, str]]:
    for offer in offers:
        settings = [f"{name}={offer.linked.get(name) or _value(value)}" for name, value in offer.settings.items()]
        yield offer.node, f"{offer.op}  {', '.join(settings)}".rstrip()
        if offer.alternatives:
            yield "", f"or {', '.join(offer.alternatives)}"


def _fields(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for operation in walk_operations(manifest.plan):
        fields = operation.settings.get("fields") if operation.op == "part" else None
        for name, guard in (fields if isinstance(fields, dict) else {}).items():
            yield name, _value(guard.get("is") if isinstance(guard, dict) else guard)


def _value(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return format_value(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def _part(manifest: Manifest, part: Part) -> str:
    size = sum(manifest.files[name].size for name in (part.file, *part.externals))
    free = dict.fromkeys(dim for tensor in part.inputs for dim in tensor.dims if isinstance(dim, str))
    return f"{size / 1e6:.1f} MB, free axes: {', '.join(free) or 'none'}"
