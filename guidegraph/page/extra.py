"""The packages that the page needs beside those of guidegraph."""

from __future__ import annotations

import importlib.util

from guidegraph.graph.errors import GuidegraphError
from guidegraph_runtime.machine.optional_packages import install_command


class MissingServer(GuidegraphError):
    """The packages of the extra ``ui`` are not installed."""


def check_extra() -> None:
    """Raises ``MissingServer`` that says what to install."""
    absent = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if absent:
        names = " and ".join(absent)
        raise MissingServer(
            f"missing-extra: the page is served by {names}, which is not installed; {install_command('ui')}"
        )
