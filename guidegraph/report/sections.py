"""The sections of a page about one run or one sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guidegraph.graph.registry import Registry
from guidegraph.nodes.table import Table
from guidegraph.report import graph, timings
from guidegraph.report.collect import RunFolder, SweepFolder, accelerator_of, format_point
from guidegraph.report.curves import AUTOMATIC, CurveChoice, long_plots, sweep_plots, table_plots
from guidegraph.report.html import Html, fold, format_value, join, note, pairs, render_table, table, tag
from guidegraph.report.labels import TITLE, caption_of, clip_distinctly, list_numbered
from guidegraph.report.matrix import render_matrices
from guidegraph.report.pictures import MOST, contact_sheet
from guidegraph.report.plots import draw_curves
from guidegraph.report.read import get_object, to_number
from guidegraph.report.series import Plot
from guidegraph.sweep.table import column_name
from guidegraph_runtime.printing import show_count

MOST_PLOTS = 24
MOST_FAILURES = 100
RUN_OPTIONS = ("device", "dtype", "accelerate", "passes", "cache", "memory_budget", "only")


@dataclass(frozen=True)
class Section:
    """A section of the page with a heading. ``id`` is unique in the page."""

    id: str
    title: str
    inside: Html


@dataclass(frozen=True)
class PageContext:
    """The state shared by the results of a page. drawn: the graphs already on it. pictures: the maximum per result."""

    registry: Registry
    choice: CurveChoice = AUTOMATIC
    pictures: int = MOST
    drawn: dict[str, str] = field(default_factory=dict)


def run_lead(run: RunFolder) -> Html:
    """A line on the run, then its facts, then its error and notes."""
    outputs = ", ".join(get_object(run.record, "outputs")) or "none yet"
    parts = [tag("p", f"A run of a workflow. Outputs: {outputs}.", class_="lead")]
    facts = {
        "Status": tag("span", run.status, class_=run.status if run.status.isalpha() else None),
        "Time": _seconds(to_number(run.record.get("seconds"))),
        "Started": format_value(run.record.get("started")).replace("T", " "),
        "Device": format_value(run.record.get("device")),
        "Precision": format_value(run.record.get("dtype")),
        "Accelerator": accelerator_of(run.record),
    }
    parts.append(_facts(facts))
    if error := run.record.get("error"):
        parts.append(tag("p", format_value(error), class_="warning"))
    return join([*parts, *map(note, run.notes)])


def run_sections(run: RunFolder, context: PageContext, salt: str) -> list[Section]:
    sections: list[tuple[str, str, Html]] = []
    notes: list[str] = []
    if run.pictures:
        pictures = contact_sheet(run.pictures, notes, context.pictures)
        sections.append(("pictures", "Pictures", join([pictures, *map(note, notes)])))
    if curves := [plot for name, table in run.tables.items() for plot in table_plots(table, name, context.choice)]:
        sections.append(("curves", "Curves", _plots(curves, salt)))
    if run.values:
        sections.append(("values", "Values", pairs(run.values, "Values")))
    if run.tables:
        sections.append(("tables", "Tables", _tables(run.tables)))
    sections.append(("parameters", "Parameters", _parameters(get_object(run.record, "parameters"), run.record)))
    sections.append(("graph", "Graph", _graph(run.record, context, salt)))
    sections.append(("timings", "Time by node", timings.render_timings([run.record], f"{salt}-time")))
    sections.append(("versions", "Versions and machine", _versions(run.record)))
    if run.other_files:
        sections[-1:-1] = [
            ("files", "Other files", tag("p", f"In the folder, not shown here: {', '.join(run.other_files)}."))
        ]
    return [Section(f"{salt}-{id}", title, inside) for id, title, inside in sections]


def sweep_lead(sweep: SweepFolder) -> Html:
    planned = sweep.plan.get("cells")
    cells = max(sweep.cells.rows, planned if isinstance(planned, int) else 0)
    done, failed = len(sweep.with_status("done")), len(sweep.with_status("failed"))
    over = " × ".join(f"{n} ({len(set(sweep.cells[n]))})" for n in sweep.swept)
    line = f"A sweep of a workflow: {show_count(cells, 'cell')} over {over or 'nothing'}."
    facts = {
        "Done": tag("span", str(done), class_="done"),
        "Failed": tag("span", str(failed), class_="failed" if failed else None),
        "Time of all cells": _seconds(sum(n for n in sweep.cells.numbers("seconds") if n == n)),
        "Accelerator": accelerator_of(sweep.plan),
    }
    parts = [tag("p", line, class_="lead"), _facts(facts)]
    if remaining := cells - done - failed:
        parts.append(
            note(f"{remaining} of {show_count(cells, 'cell')} {'has' if remaining == 1 else 'have'} not run yet.")
        )
    return join(parts)


def sweep_sections(sweep: SweepFolder, context: PageContext, salt: str) -> list[Section]:
    sections: list[tuple[str, str, Html]] = []
    notes = list(sweep.notes)
    if failed := sweep.with_status("failed"):
        sections.append(("failed", "Failed cells", _failures(sweep, failed)))
    choice, tied = context.choice, sweep.parameters_from_table
    curves = sweep_plots(sweep.cells, sweep.swept, sweep.outputs, choice, tied)
    for name, output in sweep.tables.items():
        curves += long_plots(output, sweep.swept, name, choice, tied)
    if curves:
        sections.append(("curves", "Curves", _plots(curves, salt)))
    elif choice != AUTOMATIC:
        text = "No line over what --x names has two points when --by tells them apart: name others, or leave one out."
        sections.append(("curves", "Curves", note(text)))
    if matrices := render_matrices(sweep.cells, sweep.swept, sweep.outputs):
        sections.append(("matrices", "Matrices", matrices))
    if sweep.pictures:
        sections.append(("pictures", "Contact sheet", contact_sheet(sweep.pictures, notes, context.pictures)))
    sections.append(("cells", "Cells", fold(show_count(sweep.cells.rows, "cell"), render_table(sweep.cells, "Cells"))))
    if sweep.tables:
        sections.append(("tables", "Tables", _tables(sweep.tables)))
    record = {**sweep.plan, **(sweep.records[0] if sweep.records else {})}
    levels = {name: ", ".join(format_value(v) for v in dict.fromkeys(sweep.cells[name])) for name in sweep.swept}
    fixed = {n: v for n, v in get_object(record, "parameters").items() if column_name(n) not in levels}
    swept = join([tag("h3", "Swept"), pairs(levels, "Swept parameters"), tag("h3", "The same in all cells")])
    sections.append(("parameters", "Parameters", join([swept, _parameters(fixed, {})])))
    sections.append(("graph", "Graph", _graph(record, context, salt)))
    if sweep.records:
        sections.append(("timings", "Time by node", timings.render_timings(sweep.records, f"{salt}-time")))
    sections.append(("versions", "Versions and machine", _versions(record)))
    if notes:
        sections.append(("notes", "Left out", join(map(note, notes[:MOST_FAILURES]))))
    return [Section(f"{salt}-{id}", title, inside) for id, title, inside in sections]


def _graph(record: dict[str, Any], context: PageContext, salt: str) -> Html:
    return graph.render_graph(get_object(record, "workflow"), context.registry, f"graph-{salt}", context.drawn)


def _failures(sweep: SweepFolder, rows: Sequence[int]) -> Html:
    kept = rows[:MOST_FAILURES]
    messages = sweep.cells["message"] if "message" in sweep.cells else ("",) * sweep.cells.rows
    columns: dict[str, list[Any]] = {
        "cell": [format_point(sweep, i) for i in kept],
        "message": [messages[i] for i in kept],
    }
    omitted = show_count(len(rows) - len(kept), "more failed cell")
    more = [note(f"The table of cells has {omitted}.")] if kept != rows else []
    return join([table(columns, "Failed cells"), *more])


def _plots(curves: Sequence[Plot], salt: str) -> Html:
    figures = []
    shown = curves[:MOST_PLOTS]
    full_titles = [plot.title for plot in shown]
    titles, are_numbered = clip_distinctly(full_titles, TITLE), bool(list_numbered(full_titles, TITLE))
    for i, (plot, title) in enumerate(zip(shown, titles, strict=True)):
        texts = [f"{plot.title}." if are_numbered else "", caption_of(plot)]
        caption = " ".join(filter(None, texts))
        captions = [tag("figcaption", caption)] if caption else []
        figures.append(tag("figure", draw_curves(plot, f"{salt}-{i}", title), *captions))
    parts = [tag("div", *figures, class_="plots")]
    if omitted := len(curves) - len(figures):
        parts.append(
            note(f"{omitted} of {len(curves)} plots are left out here; the table of results has their numbers.")
        )
    return join(parts)


def _tables(tables: Mapping[str, Table]) -> Html:
    return join(element for name, table_ in tables.items() for element in (tag("h3", name), render_table(table_, name)))


def _parameters(values: Mapping[str, Any], record: Mapping[str, Any]) -> Html:
    seeds = record.get("seeds")
    parts = [pairs(values, "Parameters")] if values else [note("There are none.")]
    if isinstance(seeds, dict) and seeds:
        parts.append(note("Seeds: " + ", ".join(f"{path} = {format_value(seed)}" for path, seed in seeds.items())))
    return join(parts)


def _versions(record: Mapping[str, Any]) -> Html:
    versions = dict(get_object(dict(record), "versions"))
    machine: dict[str, Any] = {
        name: versions.pop(name) for name in ("platform", "machine", "python") if name in versions
    }
    extra = record.get("machine")
    machine.update(extra if isinstance(extra, dict) else {"machine": extra} if extra else {})
    machine.update({name: record[name] for name in RUN_OPTIONS if record.get(name) is not None})
    left, right = pairs(machine, "Machine"), pairs(versions, "Versions")
    return tag("div", left, right, class_="beside")


def _facts(facts: Mapping[str, str]) -> Html:
    kept = {name: value for name, value in facts.items() if value}
    return tag("dl", *(tag("div", tag("dt", n), tag("dd", v)) for n, v in kept.items()), class_="facts")


def _seconds(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
