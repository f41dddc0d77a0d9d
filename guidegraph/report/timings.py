"""The time of a run by node; nodes in a loop's body are summed over its iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guidegraph.report.html import Html, join, note, table, tag
from guidegraph.report.plots import draw_bars
from guidegraph.report.read import get_object, to_number

BARS = 20


@dataclass
class TimeRow:
    """The time of a node, summed over runs. ``inside``: in a loop's body, whose time the loop's time includes."""

    path: str
    node: str
    calls: int
    seconds: float
    inside: bool
    computed: int = 1


def collect_times(records: Sequence[dict[str, Any]]) -> list[TimeRow]:
    """The times of the nodes over some runs of one workflow, each loop before its body."""
    rows: dict[str, TimeRow] = {}
    for record in records:
        origins, names = get_object(record, "origins"), get_object(record, "nodes")
        inner = {path: t for path, t in get_object(record, "loop_timings").items() if isinstance(t, dict)}
        for path, seconds in get_object(record, "timings").items():
            computed = origins.get(path, "computed") in ("computed", "verified")
            _add(rows, TimeRow(path, str(names.get(path, "")), 1, to_number(seconds), False, int(computed)))
        for path, t in inner.items():
            calls = t.get("calls")
            count = calls if isinstance(calls, int) else 0
            _add(rows, TimeRow(path, str(t.get("node", "")), count, to_number(t.get("seconds")), True))
    order = {path: i for i, path in enumerate(p for p, t in rows.items() if not t.inside)}

    def find_loop(path: str) -> int:
        while path not in order and "." in path:
            path = path.rpartition(".")[0]
        return order.get(path, len(order))

    return sorted(rows.values(), key=lambda t: (find_loop(t.path), t.inside))


def render_timings(records: Sequence[dict[str, Any]], salt: str) -> Html:
    """The bars and the table of times, averaged over the runs."""
    rows = [t for t in collect_times(records) if math.isfinite(t.seconds)]
    if not rows:
        return note("The record has no times.")
    runs = len(records)
    longest = sorted(rows, key=lambda t: -t.seconds)[:BARS]
    names = [_short(t.path) for t in longest]
    bars = draw_bars(names, [t.seconds / runs for t in longest], [t.inside for t in longest], "seconds", salt)
    total = sum(to_number(record.get("seconds")) for record in records) / runs
    columns: dict[str, list[Any]] = {
        "node": [_short(t.path) for t in rows],
        "kind": [t.node for t in rows],
        "calls": [t.calls / runs if t.calls % runs else t.calls // runs for t in rows],
        "seconds": [float(f"{t.seconds / runs:.3g}") for t in rows],
        "% of run": [round(100 * t.seconds / runs / total, 1) if total > 0 else None for t in rows],
    }
    if any(t.computed < t.calls and not t.inside for t in rows):
        columns["computed"] = [None if t.inside else f"{t.computed} of {t.calls}" for t in rows]
    notes = ["Times are a mean over the cells that are done."] if runs > 1 else []
    if any(t.inside for t in rows):
        notes.append("Hatched: nodes in a loop's body, all iterations together; the loop's own time includes theirs.")
    if any(str(record.get("device", "cpu")) != "cpu" for record in records):
        notes.append("On a GPU the time of a call may be counted where its result is waited for.")
    if len(rows) > BARS:
        notes.append(f"The bars are the {BARS} longest of {len(rows)}.")
    box = tag("div", tag("figure", bars), table(columns, "Time by node"), class_="beside")
    return join([box, note(" ".join(notes))] if notes else [box])


def _add(rows: dict[str, TimeRow], time: TimeRow) -> None:
    row = rows.setdefault(time.path, TimeRow(time.path, time.node, 0, 0.0, time.inside, 0))
    row.calls += time.calls
    row.seconds += time.seconds
    row.computed += time.computed


def _short(path: str) -> str:
    return path.removeprefix("nodes.")
