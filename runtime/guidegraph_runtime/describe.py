"""What a bundle takes and gives, for a person who is to run it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from guidegraph_runtime.errors import shown
from guidegraph_runtime.manifest_types import FILE_TYPES, Input, Manifest, Part
from guidegraph_runtime.offers import Offer

_LONG = 100


def described(manifest: Manifest, digest: str, found: Iterable[Offer]) -> str:
    """Inputs, fixed parameters, settings of nodes, outputs and parts, each with what may be done with it.

    found: the nodes of which something may be changed.
    """
    size = sum(one.size for one in manifest.files.values())
    versions = " ".join(
        f"{name} {manifest.versions[name]}" for name in ("guidegraph", "torch") if name in manifest.versions
    )
    lines = [f"{manifest.name}, {size / 1e6:.1f} MB, sha256 {digest}" + (f", made by {versions}" if versions else "")]
    lines += _section("inputs, --set NAME=VALUE", map(_input, manifest.inputs.items()))
    lines += _section("fixed when the bundle was made", manifest.fixed.items())
    lines += _section("nodes, --node NODE.SETTING=VALUE and --node NODE.use=OPERATION", _nodes(found))
    lines += _section(
        "fields that the graphs were traced with; settings that change one are refused", _fields(manifest)
    )
    lines += _section("outputs, --only NAME", ((name, one.type) for name, one in manifest.outputs.items()))
    lines += _section("parts", ((name, _part(manifest, one)) for name, one in manifest.parts.items()))
    if manifest.reference is not None:
        lines += ["", "carries a run to repeat: --verify"]
    return "\n".join(lines)


def _section(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    found = list(rows)
    wide = max((len(name) for name, _ in found), default=0)
    return ["", title, *(f"  {name:{wide}}  {text}".rstrip() for name, text in found)] if found else []


def _input(entry: tuple[str, Input]) -> tuple[str, str]:
    name, one = entry
    kind = one.type if one.dims is None else f"{one.type} {one.dtype} ({', '.join(map(str, one.dims))})"
    kind = f"{kind} or list" if one.many else kind
    if one.required:
        default = "required"
    elif one.type in FILE_TYPES and one.default is not None:
        default = f"default: the bundle's {one.default}"
    else:
        default = f"default {_value(one.default)}"
    choices = f", one of {', '.join(map(str, one.choices))}" if one.choices else ""
    return name, f"{kind}, {default}{choices}" + (f": {one.help}" if one.help else "")


def _nodes(found: Iterable[Offer]) -> Iterator[tuple[str, str]]:
    for offer in found:
        settings = [f"{name}={offer.linked.get(name) or _value(value)}" for name, value in offer.settings.items()]
        yield offer.node, f"{offer.op}  {', '.join(settings)}".rstrip()
        if offer.others:
            yield "", f"or {', '.join(offer.others)}"


def _fields(manifest: Manifest) -> Iterator[tuple[str, str]]:
    from guidegraph_runtime.plan import operations

    for operation in operations(manifest.plan):
        fields = operation.settings.get("fields") if operation.op == "part" else None
        for name, one in (fields if isinstance(fields, dict) else {}).items():
            yield name, _value(one.get("is") if isinstance(one, dict) else one)


def _value(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return shown(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def _part(manifest: Manifest, part: Part) -> str:
    size = sum(manifest.files[name].size for name in (part.file, *part.externals))
    free = dict.fromkeys(dim for one in part.inputs for dim in one.dims if isinstance(dim, str))
    return f"{size / 1e6:.1f} MB, free axes: {', '.join(free) or 'none'}"
