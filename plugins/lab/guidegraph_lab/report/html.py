"""HTML from untrusted text: everything that is not markup made here is escaped, including control and bidirectional
characters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from guidegraph.drawing.style import escape
from guidegraph.nodes.table import Table

ROWS = 200
TEXT = 4000

Attribute: TypeAlias = str | int | bool | None


class Html(str):
    """Markup. A plain ``str`` is text."""

    __slots__ = ()


def tag(name: str, *content: str, **attributes: Attribute) -> Html:
    """An element. Texts and attributes are escaped. ``class_`` is the attribute class; True gives a bare attribute."""
    attributes_ = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            attributes_.append(f" {key}")
        elif value is not None and value is not False:
            attributes_.append(f' {key}="{escape(str(value))}"')
    return Html(f"<{name}{''.join(attributes_)}>{join(content)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """Join markup and texts, with the texts escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def format_value(value: Any) -> str:
    """Format a value as short text: floats with five digits, lists and dictionaries as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else str(value)
    return shorten(json.dumps(value, ensure_ascii=False))


def shorten(text: str) -> str:
    """Shorten text to its first ``TEXT`` characters."""
    return text if len(text) <= TEXT else f"{text[:TEXT]} … {len(text) - TEXT} more characters"


def table(columns: Mapping[str, Sequence[Any]], label: str) -> Html:
    """A table in a scrolling box, with at most ``ROWS`` rows."""
    rows = max(map(len, columns.values()), default=0)
    numeric = {}
    for name, values in columns.items():
        kinds = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in values if v not in (None, "")]
        numeric[name] = bool(kinds) and all(kinds)
    heads = [tag("th", name, scope="col", class_="n" if numeric[name] else None) for name in columns]
    lines = [
        tag("tr", *(tag("td", _breakable(v[i]), class_="n" if numeric[n] else None) for n, v in columns.items()))
        for i in range(min(rows, ROWS))
    ]
    body = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *lines))
    box = tag("div", body, class_="scroll", tabindex=0, role="region", aria_label=label)
    return join([box, note(f"{rows - ROWS} more rows are left out here.")]) if rows > ROWS else box


def pairs(values: Mapping[str, Any], label: str) -> Html:
    """A table of names and values, one pair per row."""
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", _breakable(value))) for name, value in values.items()]
    body = tag("table", tag("tbody", *rows), class_="pairs")
    return tag("div", body, class_="scroll", tabindex=0, role="region", aria_label=label)


def note(text: str) -> Html:
    return tag("p", text, class_="note")


def fold(title: str, *content: str) -> Html:
    return tag("details", tag("summary", title), *content)


def code(text: str) -> Html:
    return tag("pre", tag("code", text), tabindex=0)


def render_table(table_: Table, label: str) -> Html:
    return table({name: list(table_[name]) for name in table_}, label)


def _breakable(value: Any) -> Html:
    text = shorten(format_value(value))
    return tag("span", text, class_="long") if len(text) > 40 else join([text])
