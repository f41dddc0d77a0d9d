"""What a node's docstring, and that of its module, say of each of its ports and settings."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from guidegraph.graph.node import NodeSpec


def parameter_docs(spec: NodeSpec) -> dict[str, str]:
    """Sentences by port or setting: each begins with its ``name:``, at a line's start or after a full stop.

    What the settings mean that several nodes share is in the docstring of their module, once.
    """
    module = sys.modules.get(spec.function.__module__)
    shared = _sentences((module and module.__doc__) or "", spec.settings)
    return shared | _sentences(spec.doc, (*spec.inputs, *spec.settings))


def _sentences(text: str, known: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    names = "|".join(map(re.escape, known))
    if not names:
        return found
    begins = re.compile(rf"(?:^|(?<=[.;] )|(?<=[.;]\n))\s*`*({names})`*: ", re.MULTILINE)
    for paragraph in text.split("\n\n"):
        matches = list(begins.finditer(paragraph))
        for i, match in enumerate(matches):
            end = matches[i + 1].start() if i + 1 < len(matches) else len(paragraph)
            sentence = " ".join(paragraph[match.end() : end].split())
            found.setdefault(match[1], sentence.partition(". Raises ")[0].rstrip(".;"))
    return found


def signature(spec: NodeSpec) -> str:
    """A node on one line: ``(cond: Prediction, …; scale = 7.5) → out: Prediction``."""
    ports = [f"{p.name}: {p.type}" if p.required else f"{p.name}?: {p.type}" for p in spec.inputs.values()]
    settings = [p.name if p.required else f"{p.name} = {p.default!r}" for p in spec.settings.values()]
    inside = "; ".join(filter(None, (", ".join(ports), ", ".join(settings))))
    outputs = ", ".join(f"{name}: {kind}" for name, kind in spec.outputs.items()) or "nothing"
    return f"({inside}) → {outputs}"
