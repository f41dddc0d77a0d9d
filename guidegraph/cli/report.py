"""``report``: a page of what a run or a sweep gave."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from guidegraph.cli.options import Chosen
from guidegraph.cli.plugins import required_plugins
from guidegraph.graph.sizes import show_size
from guidegraph_runtime.files import write_text

PAGE = "report.html"


def report_command(folder: Path, output: Path | None, plugins: Chosen) -> None:
    """Raises ``WorkflowError`` for a folder without a result, and ``MissingExtra`` without matplotlib."""
    from guidegraph.report.collect import collect
    from guidegraph.report.page import page
    from guidegraph.report.plots import check_extra

    check_extra()
    found, notes = collect(folder)
    registry = required_plugins(plugins).registry
    target = output if output is not None else folder / PAGE
    given = ["guidegraph", "report", str(folder), *(["-o", str(output)] if output is not None else [])]
    command = shlex.join([*given, *(part for name in plugins.modules for part in ("--plugin", name))])
    text = page(found, notes, folder.resolve().name, command, registry)
    write_text(target, text)
    typer.echo(f"wrote {target} ({show_size(len(text.encode()))})")
