"""A node's description as JSON, from its signature and docstring."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from guidegraph.graph.node import NodeSpec
from guidegraph.graph.port import Port
from guidegraph.graph.types import takes_literal

NodeRow = dict[str, Any]


def describe_node(spec: NodeSpec) -> NodeRow:
    """A node's full description, as JSON. An infinite default is the text that YAML has for it."""
    docs = read_parameter_docs(spec)
    traits = [name for name in ("io", "host", "runtime") if getattr(spec, name)] + ([] if spec.pure else ["impure"])
    return {
        "id": spec.id,
        "signature": format_signature(spec),
        "doc": spec.doc,
        "source": find_source(spec),
        "ports": [_port(p, docs) for p in spec.inputs.values()],
        "settings": [_port(p, docs) for p in spec.settings.values()],
        "outputs": [{"name": name, "type": str(kind)} for name, kind in spec.outputs.items()],
        "traits": traits,
        "batchable": list(spec.batchable),
        "version": spec.version,
        "distribution": spec.distribution,
    }


def find_source(spec: NodeSpec) -> str:
    """Where a node computes, as ``FILE:LINE``; "" for a function of a compiled module.

    A node of a runtime's operation leads to the operation, and a sampler to the function that writes its table.
    """
    code = getattr(inspect.unwrap(spec.function), "__code__", None)
    return f"{os.path.realpath(code.co_filename)}:{code.co_firstlineno}" if code else ""


def _port(port: Port, docs: dict[str, str]) -> NodeRow:
    row: NodeRow = {
        "name": port.name,
        "type": str(port.type),
        "required": port.required,
        "literal": takes_literal(port.type),
    }
    if not port.required:
        row["default"] = _default(port.default)
    if limits := _limits(port):
        row["limits"] = limits
    return row | ({"doc": docs[port.name]} if port.name in docs else {})


INFINITIES = {math.inf: ".inf", -math.inf: "-.inf"}
"""Infinite defaults as YAML has them: JSON has none."""


def _default(value: Any) -> Any:
    if isinstance(value, float) and value in INFINITIES:
        return INFINITIES[value]
    if isinstance(value, (list, tuple)):
        return [_default(entry) for entry in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)


_LIMIT_FORMATS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "pattern": "like {}",
}


def _limits(port: Port) -> str:
    """The bounds and choices of a port's literals."""
    if not takes_literal(port.type):
        return ""
    try:
        schema = port.adapter.json_schema()
    except Exception:  # a type without a JSON schema
        return ""
    limits = []
    for subschema in (schema, *schema.get("anyOf", ())):
        if "enum" in subschema:
            limits.append(" | ".join(map(str, subschema["enum"])))
        limits += [format_.format(subschema[key]) for key, format_ in _LIMIT_FORMATS.items() if key in subschema]
    return ", ".join(dict.fromkeys(limits))


def format_default(port: NodeRow) -> str:
    """The default as written in YAML, or "required"; "" for an output."""
    if "required" not in port:
        return ""
    if port["required"]:
        return "required"
    default = port["default"]
    return default if default in INFINITIES.values() else json.dumps(default, ensure_ascii=False)


def read_parameter_docs(spec: NodeSpec) -> dict[str, str]:
    """Descriptions by port or setting: each follows ``name:`` at the start of a line or after a full stop.

    One description may belong to several: ``low, high: the scales``. Settings shared by several nodes are described
    once, in the docstring of their module.
    """
    module = sys.modules.get(spec.function.__module__)
    shared = _find_descriptions((module and module.__doc__) or "", spec.settings)
    return shared | _find_descriptions(spec.doc, (*spec.inputs, *spec.settings))


def _find_descriptions(text: str, names: Iterable[str]) -> dict[str, str]:
    sentences: dict[str, str] = {}
    pattern = "|".join(map(re.escape, names))
    if not pattern:
        return sentences
    name = rf"`*(?:{pattern})`*"
    beginning = re.compile(rf"(?:^|(?<=[.;] )|(?<=[.;]\n))\s*({name}(?:(?:, | and ){name})*): ", re.MULTILINE)
    for paragraph in text.split("\n\n"):
        matches = list(beginning.finditer(paragraph))
        for i, match in enumerate(matches):
            end = matches[i + 1].start() if i + 1 < len(matches) else len(paragraph)
            sentence = " ".join(paragraph[match.end() : end].split())
            description = re.split(r"\. (?:Raises|Returns) ", sentence)[0].rstrip(".;")
            for described in re.split(", | and ", match[1].replace("`", "")):
                sentences.setdefault(described, description)
    return sentences


def format_signature(spec: NodeSpec) -> str:
    """A node on one line: ``(cond: Prediction, …; scale = 7.5) → out: Prediction``."""
    ports = [f"{p.name}: {p.type}" if p.required else f"{p.name}?: {p.type}" for p in spec.inputs.values()]
    settings = [p.name if p.required else f"{p.name} = {p.default!r}" for p in spec.settings.values()]
    inside = "; ".join(filter(None, (", ".join(ports), ", ".join(settings))))
    outputs = ", ".join(f"{name}: {kind}" for name, kind in spec.outputs.items()) or "nothing"
    return f"({inside}) → {outputs}"
