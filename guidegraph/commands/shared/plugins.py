"""The plugins of this process, for the commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from guidegraph import __version__
from guidegraph.commands.shared.errors import argument_problem
from guidegraph.graph.errors import WorkflowError
from guidegraph.plugins.entry_points import PluginSelection
from guidegraph.plugins.listings import read_listing, write_listing
from guidegraph.plugins.manager import PluginManager
from guidegraph_runtime.machine.optional_packages import package_command

if TYPE_CHECKING:
    import typer


@cache
def load_plugins(selection: PluginSelection) -> PluginManager:
    """The plugin manager of the selected plugins, one per process.

    It imports an installed plugin when a workflow names it, or all of them on ``load_all``. Those that fail are
    recorded in ``statuses``.
    """
    return PluginManager(selection.modules, entry_points=selection.installed, lazy=True)


def require_plugins(selection: PluginSelection) -> PluginManager:
    """The plugin manager. Raises ``WorkflowError`` if a module requested by name cannot be used."""
    manager = load_plugins(selection)
    failed = [status for status in manager.failures if status.name in selection.modules]
    if failed:
        problems = [
            argument_problem("plugin-failed", f"{s.name}: {s.reason}" + (f"; {s.fix}" if s.fix else ""), "--plugin")
            for s in failed
        ]
        raise WorkflowError(problems)
    return manager


def require_all_plugins(selection: PluginSelection) -> PluginManager:
    """The plugin manager with all third-party plugins imported: a run needs their observers.

    Raises as ``require_plugins``.
    """
    manager = require_plugins(selection)
    manager.load_third_party()
    return manager


def load_package(package: str, option: str) -> Any:
    """The module of one of the packages in plugins/. Raises ``WorkflowError`` at the option if it is not installed."""
    name = f"guidegraph_{package}"
    if find_spec(name) is None:
        message = f"it is in the package guidegraph-{package}: {package_command(package)}"
        raise WorkflowError([argument_problem("missing-package", message, option)])
    return import_module(name)


def list_contributions(kind: str, selection: PluginSelection, describe: Callable[[PluginManager], Any]) -> Any:
    """Describe all selected plugins by ``describe``, as JSON values.

    For the installed plugins it is kept on disk, and no plugin is imported while none has changed. It is not kept while
    one of them fails, or with modules given by name.
    """
    kept = selection.installed and not selection.modules
    if kept and (listing := read_listing(kind, __version__)) is not None:
        return listing
    manager = require_all_plugins(selection)
    listing = describe(manager)
    if kept and not manager.failures:
        write_listing(kind, __version__, listing, manager.package_folders())
    return listing


def add_plugin_commands(selection: PluginSelection, app: typer.Typer) -> None:
    """Add the commands of plugins to ``app``. Plugins that add none are not imported."""
    names = list_contributions("commands", selection, lambda manager: manager.command_plugins())
    if not names:
        return
    manager = load_plugins(selection)
    for name in names:
        manager.load(name)
    manager.add_commands(app)
