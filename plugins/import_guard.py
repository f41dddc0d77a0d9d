"""Guards the import of a plugin: reports a slow one by name, applies a time limit, forbids ending the process, and
puts back the current directory and torch's settings, which would change the results of every workflow.

While a plugin is imported, ``os._exit`` and ``os.exec…`` raise ``ProcessEnded``: the plugin is left out like any other
that fails, and the command continues. Other ways to end the process (C's ``_exit``, a crash, a later thread) cannot be
caught here; for them the command runs in its own process (``guidegraph.commands.shared.supervised``).
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from guidegraph.graph.trust.process_state import FOLDER_SETTING, Setting, list_torch_settings
from guidegraph.plugins.entry_points import PluginError
from guidegraph_runtime.printing import visible

log = logging.getLogger(__name__)

SECONDS = "GUIDEGRAPH_PLUGIN_SECONDS"
DEFAULT_SECONDS = 60.0
REPORT_AFTER = 2.0
"""Seconds after which a slow import is reported."""
SLOW = 1.0
"""Seconds after which the list of plugins notes an import: it delays every command."""
EXIT_FUNCTIONS = ("_exit", "execv", "execve")
"""Functions in ``os`` that end the process; the other exec functions call these."""


class ProcessEnded(BaseException):
    """A plugin tried to end the process. Not an ``Exception``, so that plugins do not catch it."""


@dataclass(frozen=True)
class ImportReports:
    """Callbacks that report imports.

    on_start, on_end: called with a plugin's name. print_line: prints a line. abort: called with a message when an
    import takes longer than the limit; it does not return. ``None``: no limit.
    """

    on_start: Callable[[str], object] = lambda name: None
    on_end: Callable[[str], object] = lambda name: None
    print_line: Callable[[str], object] = log.warning
    abort: Callable[[str], NoReturn] | None = None


_imports = ImportReports()


def set_import_reports(reports: ImportReports) -> ImportReports:
    """Set the callbacks for later imports; returns the previous ones."""
    global _imports
    previous, _imports = _imports, reports
    return previous


def limit_seconds() -> float:
    """Time limit for the import of a plugin: ``GUIDEGRAPH_PLUGIN_SECONDS``, or 60."""
    try:
        seconds = float(os.environ.get(SECONDS, ""))
    except ValueError:
        return DEFAULT_SECONDS
    return seconds if seconds > 0 else DEFAULT_SECONDS


def format_slow_import(name: str) -> str:
    """The message for an import that takes long."""
    return f"importing the plugin '{name}' …"


def format_timeout(name: str, seconds: float) -> str:
    """The message for an import that exceeds the limit."""
    return (
        f"error: the plugin '{name}' takes longer than {seconds:g} s to import; leave it out: "
        f"GUIDEGRAPH_DISABLE_PLUGINS={name} or --no-plugins, or give it more time: {SECONDS}=600"
    )


@contextmanager
def guard_import(name: str) -> Iterator[None]:
    """Guard a block that imports the plugin ``name`` and reads its nodes."""
    imports, done = _imports, threading.Event()
    threading.Thread(target=_watch_time, args=(name, imports, done), name="guidegraph-import", daemon=True).start()
    imports.on_start(name)
    try:
        with _forbid_exit(name):
            yield
    finally:
        imports.on_end(name)
        done.set()


def _watch_time(name: str, imports: ImportReports, done: threading.Event) -> None:
    """Report a slow import, and end one that exceeds the limit."""
    seconds = limit_seconds()
    if done.wait(min(REPORT_AFTER, seconds)):
        return
    imports.print_line(format_slow_import(name))
    if imports.abort is not None and not done.wait(max(seconds - REPORT_AFTER, 0.0)):
        imports.abort(format_timeout(name, seconds))


@contextmanager
def _forbid_exit(plugin: str) -> Iterator[None]:
    """Make functions that end the process raise, in this process and until the block ends."""
    platform: Any = __import__(os.name)  # posix or nt, from which os has them
    owner, importer, active = os.getpid(), threading.current_thread(), True

    def forbid(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*arguments: Any) -> Any:
            if not active or os.getpid() != owner:  # called later, or in a child process
                return function(*arguments)
            call = f"os.{name}({', '.join(map(repr, arguments)):.60})"
            culprit = f"the plugin '{plugin}'" if threading.current_thread() is importer else "a plugin's thread"
            _imports.print_line(f"warning: {culprit} would end the command with {call} while '{plugin}' is imported")
            raise ProcessEnded(f"{call} would end the command")

        return refuse

    before = {(module, name): getattr(module, name) for module in (os, platform) for name in EXIT_FUNCTIONS}
    for (module, name), function in before.items():
        setattr(module, name, forbid(name, function))
    try:
        yield
    finally:
        active = False
        for (module, name), function in before.items():
            setattr(module, name, function)


class OutputToStderr(io.TextIOBase):
    """A stream for the output of an import: to stderr, since a program may read a command's output, and escaped."""

    def write(self, text: str) -> int:
        sys.stderr.write(visible(text))
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def keep_settings(notes: list[str]) -> Iterator[None]:
    """Put back the current directory and torch's settings after the block, which imports a plugin.

    notes: gets a line for each that changed, and for a slow import. If the block imports torch, its settings are put
    back to those that torch begins with.
    """
    before = {setting.name: setting.read() for setting in _list_settings()}
    with_torch, started = "torch" in sys.modules, time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - started
        if seconds > SLOW:
            cause = "" if with_torch or "torch" not in sys.modules else ", torch with it"
            notes.append(
                f"takes {seconds:.1f} s to import{cause}, and commands wait for it: import slow modules inside "
                "the functions that need them"
            )
        for setting in _list_settings():
            now = setting.read()
            for old in (before[setting.name],) if setting.name in before else setting.initial:
                if now != old:
                    with suppress(Exception):  # noted even if it cannot be put back
                        setting.set(old)
                    notes.append(f"changes {setting.name} to {now} when it is imported; it was put back to {old}")


def _list_settings() -> list[Setting]:
    """The current directory, and torch's settings if torch is imported completely."""
    torch = sys.modules.get("torch")
    is_complete = hasattr(torch, "set_float32_matmul_precision")
    return [FOLDER_SETTING, *(list_torch_settings(torch) if is_complete else ())]


LISTS = ("registered_commands", "registered_groups")


@contextmanager
def rollback_on_failure(app: Any) -> Iterator[None]:
    """Restore a ``typer.Typer`` if the block fails or takes an existing name."""
    before = {name: list(getattr(app, name, ())) for name in LISTS}
    callback = getattr(app, "registered_callback", None)
    try:
        yield
        names = {_name(command) for commands in before.values() for command in commands}
        added = [_name(command) for name in LISTS for command in getattr(app, name, ())[len(before[name]) :]]
        for name in added:
            if name in names:
                raise PluginError(f"the command '{name}' exists already", "give the command another name")
            names.add(name)
        if getattr(app, "registered_callback", None) is not callback:
            raise PluginError("replaces the options of the command line itself", "add commands only")
    except BaseException:
        for name, commands in before.items():
            if hasattr(app, name):
                getattr(app, name)[:] = commands
        if hasattr(app, "registered_callback"):
            app.registered_callback = callback
        raise


def _name(command: Any) -> str:
    """The name that Typer will give to a command or group."""
    name = command.name
    if isinstance(name, str) and name:
        return name
    if getattr(command, "typer_instance", None) is not None:
        inner = command.typer_instance.info.name
        return inner if isinstance(inner, str) else ""
    return str(command.callback.__name__).lower().replace("_", "-")
