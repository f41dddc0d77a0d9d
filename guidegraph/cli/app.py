"""The application with all of its commands."""

from __future__ import annotations

from guidegraph.cli import running, without_running
from guidegraph.cli.root import app

COMMANDS = (running, without_running)
"""The modules whose import registers commands, in the order of the help."""

__all__ = ["COMMANDS", "app"]
