"""Undoes the additions of a plugin to the command line if it fails or takes the name of an existing command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from guidegraph.plugins.entry_points import PluginError

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
