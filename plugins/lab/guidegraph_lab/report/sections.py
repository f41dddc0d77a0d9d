"""The sections of a page about one run or one sweep."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidegraph.drawing.svg import draw_svg
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.nodes.table import Table
from guidegraph.runs.shown_files import find_html_format, show_file
from guidegraph_lab.report.collect import OutputFile, RunFolder, SweepFolder, accelerator_of, format_point
from guidegraph_lab.report.curves import AUTOMATIC, SEED, CurveChoice, long_plots, sweep_plots, table_plots
from guidegraph_lab.report.html import Html, code, fold, format_value, join, note, pairs, render_table, table, tag
from guidegraph_lab.report.pictures import MOST, contact_sheet
from guidegraph_lab.report.plots import TITLE, caption_of, clip_distinctly, draw_bars, draw_curves, list_numbered
from guidegraph_lab.report.read import get_object, to_number
from guidegraph_lab.report.series import Plot, distinct_values, format_level, format_levels, quantity_columns
from guidegraph_lab.sweep.table import column_name
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
    if shown := _output_files(run.output_files, context):
        sections.append(("outputs", "Outputs", shown))
    if run.values:
        sections.append(("values", "Values", pairs(run.values, "Values")))
    if run.tables:
        sections.append(("tables", "Tables", _tables(run.tables)))
    sections.append(("parameters", "Parameters", _parameters(get_object(run.record, "parameters"), run.record)))
    sections.append(("graph", "Graph", _graph(run.record, context, salt)))
    sections.append(("timings", "Time by node", render_timings([run.record], f"{salt}-time")))
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
    if shown := _output_files(sweep.output_files, context):
        sections.append(("outputs", "Outputs", shown))
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
        sections.append(("timings", "Time by node", render_timings(sweep.records, f"{salt}-time")))
    sections.append(("versions", "Versions and machine", _versions(record)))
    if notes:
        sections.append(("notes", "Left out", join(map(note, notes[:MOST_FAILURES]))))
    return [Section(f"{salt}-{id}", title, inside) for id, title, inside in sections]


def _output_files(files: Sequence[OutputFile], context: PageContext) -> Html:
    """The files that a format shows, each with its title; empty without any."""
    shown = [(f, format) for f in files if (format := find_html_format(context.registry, f.type, f.file.name))]
    parts: list[Html] = []
    for output, format in shown[: context.pictures]:
        html, failure = show_file(format, output.file)
        parts += [tag("h3", output.title), note(f"{output.file.name} {failure}.") if failure else Html(html)]
    if len(shown) > context.pictures:
        parts.append(note(f"{show_count(len(shown) - context.pictures, 'more file')} not shown here."))
    return join(parts)


def _graph(record: dict[str, Any], context: PageContext, salt: str) -> Html:
    return render_graph(get_object(record, "workflow"), context.registry, f"graph-{salt}", context.drawn)


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
