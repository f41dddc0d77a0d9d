"""The page: one self-contained HTML document."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from guidegraph.graph.node import Registry
from guidegraph_lab.report.collect import Picture, RunFolder, SweepFolder, accelerator_of
from guidegraph_lab.report.curves import AUTOMATIC, CurveChoice
from guidegraph_lab.report.html import Html, code, format_value, note, table, tag
from guidegraph_lab.report.pictures import MOST, contact_sheet
from guidegraph_lab.report.read import get_object, to_number
from guidegraph_lab.report.sections import PageContext, Section, run_lead, run_sections, sweep_lead, sweep_sections

POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
"""The content security policy of the page: no scripts and no requests."""
VALUES = 12


def render_page(
    results: Sequence[RunFolder | SweepFolder],
    notes: Sequence[str],
    title: str,
    command: str,
    registry: Registry,
    choice: CurveChoice = AUTOMATIC,
) -> str:
    """The HTML page. command: the command that recreates it. notes: the files left out, and why."""
    context = PageContext(registry, choice, MOST // len(results))
    if len(results) == 1:
        title, lead, sections = _render_result(results[0], context, "a")
        links = [tag("a", s.title, href=f"#{s.id}") for s in sections]
        nav = tag("nav", *links, aria_label="On this page")
        parts = [_section(s) for s in sections]
    else:
        lead = tag("p", f"{len(results)} results beside each other.", class_="lead")
        links = [tag("a", result.folder.name, href=f"#r{i}") for i, result in enumerate(results)]
        nav = tag("nav", *links, aria_label="Results")
        parts = _render_several(results, context)
    header = [tag("header", tag("h1", title), lead, nav), *(tag("p", text, class_="warning") for text in notes)]
    again = tag("section", tag("h2", "This page again"), code(command), id="again")
    style = files("guidegraph_lab.report").joinpath("style.css").read_text(encoding="utf-8")
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<link rel="icon" href="data:,">'),
        tag("title", f"{title} · guidegraph"),
        tag("style", Html(style)),
    ]
    footer = tag("footer", "Made by guidegraph report. The page holds all that it shows, and loads nothing.")
    body = tag("body", tag("main", *header, *parts, again), footer)
    return f"<!doctype html>\n{tag('html', tag('head', *head), body, lang='en')}\n"


def _render_result(result: RunFolder | SweepFolder, context: PageContext, salt: str) -> tuple[str, Html, list[Section]]:
    if isinstance(result, RunFolder):
        return result.name, run_lead(result), run_sections(result, context, salt)
    return result.name, sweep_lead(result), sweep_sections(result, context, salt)


def _render_several(results: Sequence[RunFolder | SweepFolder], context: PageContext) -> list[Html]:
    runs = [result for result in results if isinstance(result, RunFolder)]
    parts = [tag("section", tag("h2", "Beside each other"), *_compare_runs(runs))] if len(runs) > 1 else []
    for i, result in enumerate(results):
        _, lead, sections = _render_result(result, context, f"r{i}")
        inside = [tag("header", tag("h2", result.folder.name), lead), *(_section(s) for s in sections)]
        parts.append(tag("article", *inside, id=f"r{i}"))
    return parts


def _compare_runs(runs: Sequence[RunFolder]) -> list[Html]:
    """Compare runs, one per row: status, differing parameters and numeric outputs; then their first pictures."""
    columns: dict[str, list[Any]] = {
        "run": [run.folder.name for run in runs],
        "workflow": [run.name for run in runs],
        "status": [run.status for run in runs],
        "seconds": [round(to_number(run.record.get("seconds")), 2) for run in runs],
    }
    accelerators = [accelerator_of(run.record) for run in runs]
    if any(accelerators):
        columns["accelerator"] = accelerators
    parameters = [get_object(run.record, "parameters") for run in runs]
    for name in dict.fromkeys(name for params in parameters for name in params):
        values = [format_value(params.get(name)) for params in parameters]
        if len(set(values)) > 1:
            columns[name] = values
    numbers = [name for run in runs for name, value in run.values.items() if to_number(value) == to_number(value)]
    for name in list(dict.fromkeys(numbers))[:VALUES]:
        columns.setdefault(name, [run.values.get(name) for run in runs])
    parts = [table(columns, "The runs")]
    first = [Picture(p.file, p.output, cell=run.folder.name) for run in runs for p in run.pictures[:1]]
    if len(first) > 1:
        skipped: list[str] = []
        parts += [tag("h3", "The first picture of each"), contact_sheet(first, skipped), *map(note, skipped)]
    return parts


def _section(section: Section) -> Html:
    return tag("section", tag("h2", section.title), section.inside, id=section.id)
