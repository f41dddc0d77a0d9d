"""The graph of a recorded workflow in a page, as ``guidegraph draw`` draws it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegraph.drawing.svg import draw_svg
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.registry import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.report.html import Html, code, fold, join, note, tag
from guidegraph.report.read import get_object

LEAST = 0.62
"""A drawing is shrunk to this fraction of its size at most; below it, its box scrolls."""


def render_graph(workflow: Mapping[str, Any], registry: Registry, name: str, drawn: dict[str, str]) -> Html:
    """The drawing and the text of a workflow and of those that it uses.

    name: a scope for its style. drawn: the names of the workflows already on the page, by their texts; these are not
    drawn again.
    """
    file = str(workflow.get("file") or workflow.get("path") or "workflow.yaml")
    sources = {k: t for k, t in get_object(dict(workflow), "sources").items() if isinstance(t, str)}
    text = workflow.get("text")
    if isinstance(text, str):
        sources.setdefault(file, text)
    if file not in sources:
        return note("The record has no text of the workflow, so there is no drawing of it.")
    first_name = drawn.setdefault(repr(list(sources.values())), name)
    if first_name != name:
        return tag("p", "The same as ", tag("a", "the one above", href=f"#{first_name}"), ".", class_="note")
    used = [join([tag("h3", path), code(text)]) for path, text in sources.items() if path != file]
    texts = fold("The workflow's text", code(sources[file]), *used)
    return join([_drawing(file, sources, registry, name), texts])


def _drawing(file: str, sources: Mapping[str, str], registry: Registry, name: str) -> Html:
    try:
        svg = draw_svg(build(Path(file), registry, sources), scope=name)
    except WorkflowError as error:
        first = error.problems[0] if error.problems else error
        return note(f"The graph cannot be drawn with the plugins that are installed here: {first}")
    svg = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    size = re.search(r'width="(\d+)"', svg)
    assert size is not None
    width = int(size[1])
    style = f"width: 100%; max-width: {width}px; min-width: {round(width * LEAST)}px"
    svg = re.sub(r'width="\d+" height="\d+"', f'style="{style}"', svg, count=1)
    return tag("div", Html(svg), class_="graph", id=name, tabindex=0, role="region", aria_label="The graph")
