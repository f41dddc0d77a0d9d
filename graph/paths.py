"""Paths written in workflows: relative to their file, or ``pkg:NAME`` for what ships with the package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = "pkg:"


def package_roots() -> list[Path]:
    """The folders that ``pkg:NAME`` is looked up in: models first, then everything beside the workflows."""
    import guidegraph

    found = [Path(p) / "workflows" for p in guidegraph.__path__]
    return [p for root in found if root.is_dir() for p in (root / "models", root)]


def resolve(text: str | Path, base: Path) -> Path:
    """The absolute path that ``text`` names, relative to the folder ``base``.

    Raises ``ValueError`` for a ``pkg:`` name that does not ship, or that leaves the package.
    """
    name = str(text)
    if not name.startswith(PACKAGE):
        return (base / Path(name).expanduser()).absolute()
    wanted = name.removeprefix(PACKAGE)
    for root in package_roots():
        found = root / wanted
        if root.resolve() in (root / ".." / root.name / wanted).resolve().parents and found.exists():
            return found
    shipped = sorted({p.name for root in package_roots()[:1] if root.is_dir() for p in root.iterdir()})
    raise ValueError(f"'{name}' does not ship with the package; models that do: {', '.join(shipped) or 'none'}")
