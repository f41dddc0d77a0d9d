"""Colours, styles and text widths of drawings, which have their own background for light and dark pages."""

from __future__ import annotations

import html
from collections.abc import Iterable

from guidegraph.graph.types import PortType, SequenceOf, type_name
from guidegraph_runtime.printing import visible

FONT = "system-ui,-apple-system,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif"

STYLE = f"""
text{{font-family:{FONT};font-size:11px;fill:#3a4250}}
.name{{font-size:17px;font-weight:700;fill:#171b22}}
.title{{font-size:13px;font-weight:700;fill:#171b22}}
.sub{{fill:#717b8a}}
.note,.value{{font-size:10.5px;fill:#5d6776}}
.end{{text-anchor:end}}
.faint{{fill:#a5adb9}}
.param{{fill:#4a3f78}}
.outname{{font-weight:700;fill:#171b22}}
.page{{fill:#fbfbfd;stroke:#e2e5ea}}
.node{{fill:#fff;stroke:#cdd3dc}}
.loop{{fill:#f1f4f9;stroke:#9aa7ba;stroke-width:1.4}}
.rule{{stroke:#e6e9ee;fill:none}}
.pill{{fill:#ece8fb;stroke:#c9bff0}}
.output{{fill:#fff;stroke-width:2}}
.wire{{fill:none;stroke-width:1.8;stroke-opacity:.85}}
.back{{stroke-dasharray:5 4;marker-end:url(#back)}}
.dot{{stroke:#fff;stroke-width:1.2}}
.free{{fill-opacity:.35}}
.tip{{fill:#8a94a3}}
@media (prefers-color-scheme:dark){{
text{{fill:#c4cbd6}}
.name,.title,.outname{{fill:#f2f4f8}}
.sub,.note,.value{{fill:#939dac}}
.faint{{fill:#5f6977}}
.param{{fill:#d9d0ff}}
.page{{fill:#14171c;stroke:#2b3038}}
.node{{fill:#20242b;stroke:#3d4450}}
.loop{{fill:#1a1e25;stroke:#566174}}
.rule{{stroke:#323842}}
.pill{{fill:#352d57;stroke:#54487f}}
.output{{fill:#20242b}}
.dot{{stroke:#14171c}}
}}
"""

ARROW = (
    '<defs><marker id="back" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
    '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
)

# Medium lightness, so that each is visible on white and on black; neighbours differ in hue.
COLOURS = (
    "#3f83f0",
    "#e0762f",
    "#2fa56b",
    "#c8508a",
    "#8a67d6",
    "#b58a1f",
    "#1f9fb5",
    "#d65252",
    "#6f8a2c",
    "#b05fc4",
    "#a8704a",
    "#4f74b8",
    "#d1699c",
    "#3b8f7f",
)
PLAIN = "number, text, any"
PLAIN_COLOUR = "#7f8b9d"
PLAIN_TYPES = frozenset({"Any", "None", "Path", "bool", "dict", "float", "int", "list", "str", "tuple"})


class Palette:
    """A colour for each type, in order of first occurrence; plain values are grey."""

    def __init__(self, types: Iterable[PortType]) -> None:
        names = dict.fromkeys(map(_legend_name, types))
        coloured = [name for name in names if name != PLAIN]
        self._class = {name: f"c{i % len(COLOURS)}" for i, name in enumerate(coloured)}
        self.names = [*coloured, PLAIN] if PLAIN in names else coloured

    def stroke(self, kind: PortType) -> str:
        return f"s{self._class.get(_legend_name(kind), 'p')}"

    def fill(self, kind: PortType) -> str:
        return self.fill_by_name(_legend_name(kind))

    def fill_by_name(self, name: str) -> str:
        return f"f{self._class.get(name, 'p')}"

    def css(self) -> str:
        return colour_css(len(self._class))


def colour_css(count: int) -> str:
    """The classes of the first ``count`` colours, and of plain values."""
    colours = {f"c{i}": colour for i, colour in enumerate(COLOURS[:count])} | {"p": PLAIN_COLOUR}
    return "".join(f".s{c}{{stroke:{colour}}}.f{c}{{fill:{colour}}}\n" for c, colour in colours.items())


def page_css(scope: str) -> str:
    """The styles of all live drawings with this scope."""
    return scope_css(STYLE + colour_css(len(COLOURS)), scope)


def scope_css(css: str, scope: str) -> str:
    """Limit CSS rules to elements inside the class ``scope``; unchanged if ``scope`` is empty."""
    if not scope:
        return css
    lines = []
    for line in css.replace("}.", "}\n.").replace("#back", f"#{scope}-back").splitlines():
        selectors, brace, declarations = line.partition("{")
        if brace and not line.startswith("@"):
            line = ",".join(f".{scope} {selector}" for selector in selectors.split(",")) + brace + declarations
        lines.append(line)
    return "\n".join(lines)


def _legend_name(kind: PortType) -> str:
    """A type's name in the legend, the same for optional types and lists of it."""
    names = dict.fromkeys(
        _legend_name(a.element) if isinstance(a, SequenceOf) else PLAIN if type_name(a) in PLAIN_TYPES else type_name(a)
        for a in kind.alternatives
    )
    if len(names) > 1:
        names.pop(PLAIN, None)
    return " | ".join(names) or PLAIN


def escape(text: str) -> str:
    """Escape a text for markup; control characters, which XML forbids, become visible escapes."""
    return html.escape(visible(text))


_WIDTHS = {
    **dict.fromkeys("()[]{}Itfr-/", 0.4),
    **dict.fromkeys("ijl|'.,:; ", 0.32),
    **dict.fromkeys("mwMW%@", 0.95),
}


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """An upper estimate of a text's width (as in the wide DejaVu Sans), since the font is unknown."""
    units = sum(_WIDTHS.get(c, 0.68 if c.isupper() or not c.isascii() else 0.61) for c in text)
    return units * size * (1.1 if bold else 1.0)


def clip_text(text: str, size: float, width: float) -> str:
    """Shorten a text to a width, with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"
