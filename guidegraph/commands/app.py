"""The application with all of its commands."""

from __future__ import annotations

from guidegraph.commands import running, without_running
from guidegraph.commands.shared.root import app

COMMANDS = (running, without_running)
"""The modules whose import registers commands, in the order of the help."""

__all__ = ["COMMANDS", "app"]
