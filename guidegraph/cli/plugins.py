"""The plugins of this process, for the commands."""

from __future__ import annotations

from functools import cache

from guidegraph.cli.errors import argument_problem
from guidegraph.cli.options import Chosen
from guidegraph.graph.errors import WorkflowError
from guidegraph.plugins.manager import PluginManager


@cache
def loaded_plugins(chosen: Chosen) -> PluginManager:
    """Load the selected plugins, once per process; those that fail are recorded in ``statuses``."""
    return PluginManager(chosen.modules, entry_points=chosen.installed)


def required_plugins(chosen: Chosen) -> PluginManager:
    """Load the plugins. Raises ``WorkflowError`` if a module requested by name cannot be used."""
    manager = loaded_plugins(chosen)
    failed = [s for s in manager.statuses if s.state == "failed" and s.name in chosen.modules]
    if failed:
        problems = [
            argument_problem("plugin-failed", f"{s.name}: {s.reason}" + (f"; {s.fix}" if s.fix else ""), "--plugin")
            for s in failed
        ]
        raise WorkflowError(problems)
    return manager
