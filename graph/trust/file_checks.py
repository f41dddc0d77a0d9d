"""All checks of whether a file may be opened.

Every file that a workflow names is opened by this module, or checked by it before another library opens it: regular
files of bounded size, folders only where a folder is expected, and for a stranger's workflow only paths inside the
folders that it may read. Checks of single files are imported from the runtime, which needs them without the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegraph_runtime.files.regular_files import (
    RefusedFile,
    check_path,
    open_regular,
    read_regular,
    require_regular,
    require_regular_files,
    restrict_reads,
)

__all__ = [
    "RefusedFile",
    "check_path",
    "check_paths",
    "may_hold_path",
    "open_regular",
    "read_regular",
    "require_regular",
    "require_regular_files",
    "restrict_reads",
]


def may_hold_path(value: Any) -> bool:
    """Whether ``check_paths`` looks into a value: a path, a list or a tuple."""
    return isinstance(value, (Path, list, tuple))


def check_paths(settings: Mapping[str, Any]) -> None:
    """Call ``check_path`` for each path among the values of settings, including paths in lists."""
    for value in settings.values():
        if isinstance(value, Path):
            check_path(value)
        elif isinstance(value, (list, tuple)):
            for element in value:
                if isinstance(element, Path):
                    check_path(element)
