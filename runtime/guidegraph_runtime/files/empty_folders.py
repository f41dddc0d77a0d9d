"""Remove folders that were created for files which were then not written."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def list_missing_folders(folder: Path) -> list[Path]:
    """The folder and its parents that do not exist, innermost first."""
    absolute = folder.absolute()
    return [path for path in (absolute, *absolute.parents) if not path.exists()]


def remove_empty_folders(folders: Iterable[Path]) -> None:
    """Remove folders, listed innermost first, up to the first that is not empty or cannot be removed."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
