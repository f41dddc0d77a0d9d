"""Descriptions of ports and settings, read from the docstrings of a node and its module."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from guidegraph.graph.node import NodeSpec


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
