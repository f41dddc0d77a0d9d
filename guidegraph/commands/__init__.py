"""The command line, ``guidegraph``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import NoReturn

DEBUG = "GUIDEGRAPH_DEBUG"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command, and exit with 0, 1 (a node failed), 2 (wrong workflow or arguments) or 130 (cancelled)."""
    if arguments is not None:  # called from Python: no child process
        _main(list(arguments))
    args = sys.argv[1:]
    with _exit_if_interrupted():
        from guidegraph.graph.memory.pause_collector import exempt_imports

        exempt_imports()
        if {"-h", "--help"} & {*args[1:]} or args[:1] == ["--version"]:  # no plugin is imported
            _main(args)
        from guidegraph.commands.shared.supervised import run_supervised

        run_supervised(partial(_main, reserve=True), args, _plugin_modules(args), "--no-plugins" not in args)


@contextmanager
def _exit_if_interrupted() -> Iterator[None]:
    """Exit with 130 at Ctrl-C during imports, when no command handles it yet."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("cancelled\n")
        raise SystemExit(130) from None


def _main(args: list[str], *, reserve: bool = False) -> NoReturn:
    """Run a built-in command or one of a plugin.

    reserve: keep stdout for the JSON of a built-in command, in a process that is the command's.
    """
    from guidegraph.graph.memory.pause_collector import pause_for_import

    with _exit_if_interrupted(), pause_for_import():
        from guidegraph.commands.app import app
        from guidegraph.commands.shared.errors import check_names, exit_on_error, flush_output
        from guidegraph.commands.shared.printing import print_warning
    from guidegraph_runtime.machine.termination import end_on_sigterm

    tracebacks = "--traceback" in args or os.environ.get(DEBUG, "") not in ("", "0")
    warnings.showwarning = print_warning
    # OpenMP's threads must not spin while they wait for each other: beside other work on the machine, that made the
    # loop of text_to_image thirty times slower. It is read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with end_on_sigterm(), exit_on_error(tracebacks):
            # The command's name is found without parsing: plugins add commands only if it is not built in.
            values = {i + 1 for i, argument in enumerate(args) if argument == "--plugin"}
            command = next((a for i, a in enumerate(args) if not a.startswith("-") and i not in values), "")
            check_names(command, args)
            own = {built_in.callback.__name__ for built_in in app.registered_commands if built_in.callback}
            if command.replace("-", "_") not in own and args[:1] != ["--version"]:
                from guidegraph.commands.shared.plugins import add_plugin_commands
                from guidegraph.plugins.selection import PluginSelection

                add_plugin_commands(PluginSelection(_plugin_modules(args), "--no-plugins" not in args), app)
            elif reserve and ("--json" in args or command == "schema"):
                from guidegraph.commands.shared.printing import reserve_stdout

                reserve_stdout()
            app(args, prog_name="guidegraph")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    raise SystemExit(flush_output(code))


def _plugin_modules(args: Sequence[str]) -> tuple[str, ...]:
    separate = [value for option, value in pairwise(args) if option == "--plugin"]
    return tuple(dict.fromkeys([*separate, *(a.partition("=")[2] for a in args if a.startswith("--plugin="))]))
