"""The plugins of this process, for the commands."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.graph.errors import WorkflowError
from guidegraph.plugins.selection import PluginSelection

if TYPE_CHECKING:
    from guidegraph.plugins.manager import PluginManager


@cache
def load_plugins(selection: PluginSelection) -> PluginManager:
    """Load the selected plugins, once per process; those that fail are recorded in ``statuses``."""
    from guidegraph.plugins.manager import PluginManager

    return PluginManager(selection.modules, entry_points=selection.installed)


def require_plugins(selection: PluginSelection) -> PluginManager:
    """Load the plugins. Raises ``WorkflowError`` if a module requested by name cannot be used."""
    manager = load_plugins(selection)
    failed = [s for s in manager.statuses if s.state == "failed" and s.name in selection.modules]
    if failed:
        problems = [
            argument_problem("plugin-failed", f"{s.name}: {s.reason}" + (f"; {s.fix}" if s.fix else ""), "--plugin")
            for s in failed
        ]
        raise WorkflowError(problems)
    return manager
