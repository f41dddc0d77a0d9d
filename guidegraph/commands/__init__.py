"""The command line, ``guidegraph``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

from guidegraph.graph.memory.pause_collector import exempt_imports, pause_for_import
from guidegraph.plugins.entry_points import PluginSelection, find_package, name_package
from guidegraph_runtime.machine.termination import end_on_sigterm

if TYPE_CHECKING:
    import typer

DEBUG = "GUIDEGRAPH_DEBUG"
COMMANDS = (
    "run",
    "open",
    "sweep",
    "export",
    "validate",
    "set",
    "plan",
    "draw",
    "report",
    "nodes",
    "plugins",
    "new_plugin",
    "schema",
)
"""The commands of this project, in the order of the help: modules of this package, or of a package of their own."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command, and exit with 0, 1 (a node failed), 2 (wrong workflow or arguments) or 130 (cancelled).

    arguments: given by a caller in Python, whose process and stdout are not the command's; ``None`` for the process's.
    """
    args = sys.argv[1:] if arguments is None else [*arguments]
    # No plugin is imported for a help or the version.
    imports_plugins = not {"-h", "--help"} & {*args[1:]} and args[:1] != ["--version"]
    owns_process = arguments is None and imports_plugins
    modules, installed = _list_plugin_modules(args), "--no-plugins" not in args
    link = None
    with _exit_if_interrupted():
        if arguments is None:
            exempt_imports()
        if owns_process:
            from guidegraph.commands.shared.supervised import supervise

            link = supervise(modules, installed)
        # The command's name is found without parsing: its module alone is imported, and plugins if it is not built in.
        values = {i + 1 for i, argument in enumerate(args) if argument == "--plugin"}
        place = next((i for i, a in enumerate(args) if not a.startswith("-") and i not in values), len(args))
        command = "".join(args[place : place + 1])
        package = name_package(command)
        is_built_in = command.replace("-", "_") in COMMANDS and (package is None or find_package(package) is not None)
        with pause_for_import():
            from guidegraph.commands.shared.errors import check_names, exit_on_error, flush_output
            from guidegraph.commands.shared.printing import print_warning, reserve_stdout

            is_alone = is_built_in and "_" not in command and not {"-h", "--help"} & {*args[:place]}
            app = load_commands([command.replace("-", "_")] if is_alone else COMMANDS)
        tracebacks = "--traceback" in args or os.environ.get(DEBUG, "") not in ("", "0")
        warnings.showwarning = print_warning
        # OpenMP's threads must not spin while they wait for each other: beside other work on the machine, that made the
        # loop of text_to_image thirty times slower. It is read when torch is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            with end_on_sigterm(), exit_on_error(tracebacks):
                check_names(command, args)
                if not is_built_in and args[:1] != ["--version"]:
                    from guidegraph.commands.shared.plugins import add_plugin_commands

                    add_plugin_commands(PluginSelection(modules, installed), app)
                elif owns_process and ("--json" in args or command == "schema"):
                    reserve_stdout()
                app(args, prog_name="guidegraph")
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        code = flush_output(code)
        if link is not None:
            link.exits(code)
    raise SystemExit(code)


def load_commands(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """The application with the commands of these names; without those whose packages are not installed."""
    from guidegraph.commands.shared.root import app

    def name_of(command: Any) -> str:
        return str(command.name or getattr(command.callback, "__name__", ""))

    for name in names:
        if (package := name_package(name)) is None:
            import_module(f"guidegraph.commands.{name}")  # which registers the command
        elif name not in map(name_of, app.registered_commands) and (entry := find_package(package)):
            entry.load().guidegraph_commands(app)
    order = {name: i for i, name in enumerate(COMMANDS)}
    app.registered_commands.sort(key=lambda command: order.get(name_of(command), len(order)))
    return app


@contextmanager
def _exit_if_interrupted() -> Iterator[None]:
    """Exit with 130 at Ctrl-C while no command handles it."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("cancelled\n")
        raise SystemExit(130) from None


def _list_plugin_modules(args: Sequence[str]) -> tuple[str, ...]:
    separate = [value for option, value in pairwise(args) if option == "--plugin"]
    return tuple(dict.fromkeys([*separate, *(a.partition("=")[2] for a in args if a.startswith("--plugin="))]))
