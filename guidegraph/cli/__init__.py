"""The command line, ``guidegraph``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import typer

DEBUG = "GUIDEGRAPH_DEBUG"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command, and exit with 0, 1 (a node failed), 2 (wrong workflow or arguments) or 130 (cancelled)."""
    if arguments is not None:  # in a process that does other things too
        _main(list(arguments))
    given = sys.argv[1:]
    if {"-h", "--help"} & {*given[1:]} or given[:1] == ["--version"]:  # no plugin is imported
        _main(given)
    from guidegraph.cli.supervised import in_own_process

    in_own_process(_main, given, _plugin_modules(given), "--no-plugins" not in given)


def _main(given: list[str]) -> NoReturn:
    from guidegraph.cli.app import app
    from guidegraph.cli.errors import flush_output, reported, say_warning
    from guidegraph_runtime.ending import ended_by_sigterm

    tracebacks = "--traceback" in given or os.environ.get(DEBUG, "") not in ("", "0")
    warnings.showwarning = say_warning
    # OpenMP's threads must not spin while they wait for each other: beside other work on the machine, that made the
    # loop of text_to_image thirty times slower. It is read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with ended_by_sigterm(), reported(tracebacks):
            _start(given, app)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    raise SystemExit(flush_output(code))


def _start(given: Sequence[str], app: typer.Typer) -> None:
    """Run the command, one of ours or of a plugin."""
    from guidegraph.cli.errors import check_names

    check_names(_command(given), given)
    own = {command.callback.__name__ for command in app.registered_commands if command.callback}
    if _command(given).replace("-", "_") not in own and given[:1] != ["--version"]:
        from guidegraph.cli.options import Chosen
        from guidegraph.cli.plugins import loaded_plugins

        chosen = Chosen(_plugin_modules(given), "--no-plugins" not in given)
        loaded_plugins(chosen).add_commands(app)
    app(given, prog_name="guidegraph")


def _command(given: Sequence[str]) -> str:
    """The command's name, found without parsing: only where it is not ours are the plugins asked for theirs."""
    values = {i + 1 for i, argument in enumerate(given) if argument == "--plugin"}
    return next((a for i, a in enumerate(given) if not a.startswith("-") and i not in values), "")


def _plugin_modules(given: Sequence[str]) -> tuple[str, ...]:
    named = [after for before, after in pairwise(given) if before == "--plugin"]
    return tuple(dict.fromkeys([*named, *(a.partition("=")[2] for a in given if a.startswith("--plugin="))]))
