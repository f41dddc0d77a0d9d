"""The plugins of this process, for the commands."""

from __future__ import annotations

from functools import cache

from guidegraph.cli.errors import argument_problem
from guidegraph.cli.options import Chosen
from guidegraph.graph.errors import WorkflowError
from guidegraph.plugins.manager import PluginManager


@cache
def loaded_plugins(chosen: Chosen) -> PluginManager:
    return PluginManager(chosen.modules, entry_points=chosen.installed)


def required_plugins(chosen: Chosen) -> PluginManager:
    """The same; a module that was asked for by name and cannot be used is an error. Raises ``WorkflowError``."""
    manager = loaded_plugins(chosen)
    failed = [s for s in manager.statuses if s.state == "failed" and s.name in chosen.modules]
    if failed:
        problems = [
            argument_problem("plugin-failed", f"{s.name}: {s.reason}" + (f"; {s.fix}" if s.fix else ""), "--plugin")
            for s in failed
        ]
        raise WorkflowError(problems)
    return manager
