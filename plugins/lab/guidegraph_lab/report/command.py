"""``report``: an HTML page of the results of a run or a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.options import NoPlugins, PageFile, Plugins, check_output, write_output
from guidegraph.commands.shared.plugins import require_all_plugins
from guidegraph.commands.shared.printing import print_text
from guidegraph.commands.shared.root import examples, select_plugins
from guidegraph.graph.errors import WorkflowError, suggest
from guidegraph_runtime.machine.memory import show_size

if TYPE_CHECKING:
    from guidegraph_lab.report.collect import RunFolder, SweepFolder

PAGE = "report.html"


def add_report(app: typer.Typer) -> None:
    """Add the command to the application."""
    lines = ("report runs/20260131-120000-draw", "report runs/sweep --x steps --by sampler")
    app.command(epilog=examples(*lines))(report)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", show_default=False, help="What run or sweep wrote, or a folder of several.")
    ],
    output: PageFile = None,
    x: Annotated[
        str | None, typer.Option(metavar="NAME", help="The x axis of curves: a parameter, an output or a column.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A parameter or column that distinguishes lines; others distinguish plots."),
    ] = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Write one HTML page of a run, a sweep, or several beside each other.

    It has the pictures, curves with intervals, tables, parameters, graph, time by node, versions and failures.
    The page is self-contained: open it in a browser, or send it by mail.
    """
    from guidegraph_lab.report.collect import collect
    from guidegraph_lab.report.curves import CurveChoice
    from guidegraph_lab.report.page import render_page

    selection, names = select_plugins(plugin, no_plugins), by or []
    target = output if output is not None else folder / PAGE
    check_output(target)
    results, notes = collect(folder)
    _check_columns(dict.fromkeys(names, "--by") | ({x: "--x"} if x else {}), results)
    registry = require_all_plugins(selection).registry
    # The page shows the command that makes it again.
    words = ["guidegraph", "report", str(folder), *(["-o", str(output)] if output is not None else [])]
    words += [*(["--x", x] if x else []), *(word for name in names for word in ("--by", name))]
    command = shlex.join([*words, *(word for name in selection.modules for word in ("--plugin", name))])
    text = render_page(results, notes, folder.resolve().name, command, registry, CurveChoice(x, tuple(names)))
    text = text.encode("utf-8", "replace").decode()  # a file's name may hold a byte that is not UTF-8
    write_output(target, text)
    print_text(f"wrote {target} ({show_size(len(text.encode()))})")


def _check_columns(names: Mapping[str, str], results: Sequence[RunFolder | SweepFolder]) -> None:
    """Raise ``WorkflowError`` for names that are a column of no result. ``names`` maps each to its option."""
    columns = list(dict.fromkeys(name for result in results for name in result.columns))
    problems = [
        argument_problem("unknown-column", f"no column '{name}'; {suggest(name, columns, 'columns')}", option)
        for name, option in names.items()
        if name not in columns
    ]
    if problems:
        raise WorkflowError(problems)
