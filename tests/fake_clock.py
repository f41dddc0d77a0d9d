"""A clock that a test sets, for the modules that it names."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest


def replace_clock(monkeypatch: pytest.MonkeyPatch, read: Callable[[], float], *modules: str) -> None:
    """Let ``time.monotonic`` be ``read`` in these modules alone: threads of others go on to wait by the real clock."""
    for module in modules:
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=read))
