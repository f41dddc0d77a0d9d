"""Paths written in workflows: relative to their file, or ``pkg:NAME`` for what ships with the package."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = "pkg:"


def package_roots() -> list[Path]:
    """The folders that ``pkg:NAME`` is looked up in: models first, then everything beside the workflows."""
    root = Path(__file__).parents[1] / "workflows"  # beside the engine, in a checkout as where it is installed
    return [root / "models", root] if root.is_dir() else []


def shipped_folders() -> list[Path]:
    """Where what ships with the package lies: as it is installed, and, of an editable install, in the checkout too."""
    roots = (Path(__file__).parents[1], Path(os.path.realpath(__file__)).parents[1])
    return [root / "workflows" for root in dict.fromkeys(roots) if (root / "workflows").is_dir()]


def resolve(text: str | Path, base: Path) -> Path:
    """The absolute path that ``text`` names, relative to the folder ``base``.

    Raises ``ValueError`` for a ``pkg:`` name that does not ship, or that leaves the package.
    """
    name = str(text)
    if not name.startswith(PACKAGE):
        return (base / Path(name).expanduser()).absolute()
    wanted = name.removeprefix(PACKAGE)
    inside = not Path(wanted).is_absolute() and ".." not in Path(wanted).parts
    for root in package_roots() if inside and wanted else ():
        if (root / wanted).exists():
            return root / wanted
    shipped = sorted({p.name for root in package_roots()[:1] if root.is_dir() for p in root.iterdir()})
    raise ValueError(f"'{name}' does not ship with the package; models that do: {', '.join(shipped) or 'none'}")
