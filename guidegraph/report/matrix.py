"""Matrices of a sweep: each quantity as a table with one swept parameter down and another across."""

from __future__ import annotations

import math
from collections.abc import Sequence

from guidegraph.nodes.table import Table
from guidegraph.report.curves import SEED
from guidegraph.report.html import Html, format_value, join, note, tag
from guidegraph.report.read import to_number
from guidegraph.report.series import distinct_values, format_level, format_levels, quantity_columns

MOST_MATRICES = 24
MOST_LEVELS = 40
"""A parameter with more values than this is not an axis of a matrix."""


def render_matrices(cells: Table, swept: Sequence[str], outputs: Sequence[str]) -> Html | None:
    """The matrices of the quantities that vary, or None unless two parameters beside seeds have two values or more.

    The last two of these parameters are the axes; each combination of the others has a matrix of its own. An entry is
    the mean over the seeds. The largest entries have the strongest background.
    """
    varied = [n for n in swept if len(distinct_values(cells[n])) > 1]
    axes = [n for n in varied if not SEED.fullmatch(n) and len(distinct_values(cells[n])) <= MOST_LEVELS]
    if len(axes) < 2:
        return None
    *facets, down, across = axes
    facets += [n for n in varied if n not in axes and not SEED.fullmatch(n)]
    groups: dict[tuple[object, ...], list[int]] = {}
    for i in range(cells.rows):
        groups.setdefault(tuple(cells[n][i] for n in facets), []).append(i)
    parts: list[Html] = []
    names = [n for n in quantity_columns(cells, outputs) if n not in swept]
    for name in names:
        for values, rows in groups.items():
            title = ", ".join(filter(None, (name, format_levels(facets, values))))
            parts.append(tag("h3", title))
            parts.append(_render_matrix(cells, rows, down, across, name, title))
    if not parts:
        return None
    left_out = len(parts) // 2 - MOST_MATRICES
    shown = parts[: 2 * MOST_MATRICES]
    return join([*shown, note(f"{left_out} more matrices are left out here.")]) if left_out > 0 else join(shown)


def _render_matrix(cells: Table, rows: Sequence[int], down: str, across: str, name: str, label: str) -> Html:
    entries: dict[tuple[object, object], list[float]] = {}
    for i in rows:
        if math.isfinite(value := to_number(cells[name][i])):
            entries.setdefault((cells[down][i], cells[across][i]), []).append(value)
    means = {key: math.fsum(values) / len(values) for key, values in entries.items()}
    low, high = min(means.values(), default=0.0), max(means.values(), default=0.0)
    columns = distinct_values(cells[across])
    head = [tag("th", f"{down} \\ {across}"), *(tag("th", format_level(c), scope="col", class_="n") for c in columns)]
    lines = []
    for row in distinct_values(cells[down]):
        line = [tag("th", format_level(row), scope="row")]
        for mean in (means.get((row, column)) for column in columns):
            share = (mean - low) / (high - low) if mean is not None and high > low else 0.0
            shade = f"n shade{min(4, int(share * 5))}"  # where it lies between the smallest and the largest entry
            line.append(tag("td", "") if mean is None else tag("td", format_value(mean), class_=shade))
        lines.append(tag("tr", *line))
    body = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="matrix")
    most = max(map(len, entries.values()), default=1)
    box = tag("div", body, class_="scroll", tabindex=0, role="region", aria_label=label)
    return join([box, note(f"Means over up to {most} seeds.")]) if most > 1 else box
