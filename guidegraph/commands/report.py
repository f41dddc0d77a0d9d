"""``report``: an HTML page of the results of a run or a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from guidegraph.commands.shared.errors import argument_problem, print_text
from guidegraph.commands.shared.options import PluginSelection
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.graph.errors import WorkflowError, suggest
from guidegraph_runtime.files.atomic import write_text
from guidegraph_runtime.machine.byte_sizes import show_size

if TYPE_CHECKING:
    from guidegraph.report.collect import RunFolder, SweepFolder

PAGE = "report.html"


def report_command(
    folder: Path, output: Path | None, x: str | None, by: Sequence[str], plugins: PluginSelection
) -> None:
    """Write the report of a folder.

    Raises ``WorkflowError`` for a folder without results and for unknown columns, ``MissingExtra`` without matplotlib.
    """
    from guidegraph.report.collect import collect
    from guidegraph.report.curves import CurveChoice
    from guidegraph.report.page import render_page
    from guidegraph.report.plots import check_extra

    check_extra()
    results, notes = collect(folder)
    _check_columns(dict.fromkeys(by, "--by") | ({x: "--x"} if x else {}), results)
    registry = require_plugins(plugins).registry
    target = output if output is not None else folder / PAGE
    words = ["guidegraph", "report", str(folder), *(["-o", str(output)] if output is not None else [])]
    words += [*(["--x", x] if x else []), *(part for name in by for part in ("--by", name))]
    command = shlex.join([*words, *(part for name in plugins.modules for part in ("--plugin", name))])
    text = render_page(results, notes, folder.resolve().name, command, registry, CurveChoice(x, tuple(by)))
    text = text.encode("utf-8", "replace").decode()  # a file's name may hold a byte that is no UTF-8
    write_text(target, text)
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
