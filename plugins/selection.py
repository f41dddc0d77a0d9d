"""Which plugins a command uses; importing it imports no other package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PluginSelection:
    """The plugins that a command uses: modules by name, and the installed ones if ``installed``."""

    modules: tuple[str, ...] = ()
    installed: bool = True
