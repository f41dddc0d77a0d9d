"""Drawings for notebooks, which show an object by its ``_repr_html_``."""

from __future__ import annotations

import hashlib
import re

from guidegraph.drawing.svg import draw_svg
from guidegraph.graph.ir import Graph

LEAST = 0.6
"""A drawing is scaled down to this share of its size; a narrower notebook scrolls."""


def draw_for_notebook(graph: Graph) -> str:
    """The drawing of a graph as HTML that scrolls if it is wide. Its styles do not affect the notebook."""
    content = repr(sorted(graph.sources.items()))
    scope = f"guidegraph-{hashlib.sha256(content.encode(errors='surrogatepass')).hexdigest()[:12]}"
    svg = draw_svg(graph, scope).replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    size = re.search(r'width="(\d+)"', svg)
    assert size is not None
    style = f"width:100%;max-width:{size[1]}px;min-width:{round(int(size[1]) * LEAST)}px;height:auto"
    svg = re.sub(r'width="\d+" height="\d+"', f'style="{style}"', svg, count=1)
    return f'<div style="overflow-x:auto">{svg}</div>'
