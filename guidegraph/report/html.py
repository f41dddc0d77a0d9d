"""HTML from texts that nobody vouches for: whatever is not markup made here is escaped here,
control and bidirectional characters too."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from guidegraph.graph.svg import escape
from guidegraph.nodes.tabular import Table

ROWS = 200
TEXT = 4000

Attribute: TypeAlias = str | int | bool | None


class Html(str):
    """Markup. A plain ``str`` is text."""

    __slots__ = ()


def tag(name: str, *inside: str, **attributes: Attribute) -> Html:
    """An element. Texts and attributes are escaped; ``class_`` is the attribute class; True stands alone."""
    given = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            given.append(f" {key}")
        elif value is not None and value is not False:
            given.append(f' {key}="{escape(str(value))}"')
    return Html(f"<{name}{''.join(given)}>{joined(inside)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """Markup and texts after each other, the texts escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def shown(value: Any) -> str:
    """A value as a short text: five digits of a float, JSON of lists and dictionaries."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else str(value)
    return cut(json.dumps(value, ensure_ascii=False))


def cut(text: str) -> str:
    """A text, of a long one its beginning."""
    return text if len(text) <= TEXT else f"{text[:TEXT]} … {len(text) - TEXT} more characters"


def table(columns: Mapping[str, Sequence[Any]], label: str) -> Html:
    """A table in a box of its own that scrolls; of more than ``ROWS`` rows the first ones."""
    rows = max(map(len, columns.values()), default=0)
    numeric = {name: _numeric(values) for name, values in columns.items()}
    heads = [tag("th", name, scope="col", class_="n" if numeric[name] else None) for name in columns]
    lines = [
        tag("tr", *(tag("td", _breakable(v[i]), class_="n" if numeric[n] else None) for n, v in columns.items()))
        for i in range(min(rows, ROWS))
    ]
    body = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *lines))
    box = tag("div", body, class_="scroll", tabindex=0, role="region", aria_label=label)
    return joined([box, note(f"{rows - ROWS} more rows are left out here.")]) if rows > ROWS else box


def pairs(values: Mapping[str, Any], label: str) -> Html:
    """Names and values, one pair a row."""
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", _breakable(value))) for name, value in values.items()]
    body = tag("table", tag("tbody", *rows), class_="pairs")
    return tag("div", body, class_="scroll", tabindex=0, role="region", aria_label=label)


def note(text: str) -> Html:
    return tag("p", text, class_="note")


def fold(title: str, *inside: str, opened: bool = False) -> Html:
    return tag("details", tag("summary", title), *inside, open=opened)


def code(text: str) -> Html:
    return tag("pre", tag("code", text), tabindex=0)


def table_of(found: Table, label: str) -> Html:
    return table({name: list(found[name]) for name in found}, label)


def _numeric(values: Sequence[Any]) -> bool:
    kinds = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in values if v not in (None, "")]
    return bool(kinds) and all(kinds)


def _breakable(value: Any) -> Html:
    text = cut(shown(value))
    return tag("span", text, class_="long") if len(text) > 40 else joined([text])
