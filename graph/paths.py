"""Paths in workflows: relative to the workflow's file, or ``pkg:NAME`` for files that ship with the package."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "pkg:"


def _find_package_file() -> str:
    """The file of the package `guidegraph` itself: workflows/ lies next to it, in a checkout and in an install."""
    return sys.modules[__name__.partition(".")[0]].__file__ or ""


def _find_workflow_folder(package: Path) -> Path:
    """workflows/ inside the installed package, or next to it in a checkout. package: the file of `guidegraph`."""
    inside = package.parent / "workflows"
    return inside if inside.is_dir() else package.parent.parent / "workflows"


def find_package_roots() -> list[Path]:
    """The folders searched for ``pkg:NAME``: models first, then the folder of the workflows."""
    root = _find_workflow_folder(Path(_find_package_file()))
    return [root / "models", root] if root.is_dir() else []


def find_shipped_folders() -> list[Path]:
    """The folders of shipped files: the installed one and, for an editable install, the checkout's."""
    files = (Path(_find_package_file()), Path(os.path.realpath(_find_package_file())))
    return [folder for folder in dict.fromkeys(map(_find_workflow_folder, files)) if folder.is_dir()]


def resolve_path(text: str | Path, base: Path) -> Path:
    """The absolute path that ``text`` names, relative to the folder ``base``.

    Raises ``ValueError`` for a ``pkg:`` name that does not ship, or that leaves the package.
    """
    name = str(text)
    if not name.startswith(PACKAGE):
        return (base / Path(name).expanduser()).absolute()
    relative = name.removeprefix(PACKAGE)
    is_inside = not Path(relative).is_absolute() and ".." not in Path(relative).parts
    for root in find_package_roots() if is_inside and relative else ():
        if (root / relative).exists():
            return root / relative
    shipped = sorted({p.name for root in find_package_roots()[:1] if root.is_dir() for p in root.iterdir()})
    raise ValueError(f"'{name}' does not ship with the package; models that do: {', '.join(shipped) or 'none'}")
