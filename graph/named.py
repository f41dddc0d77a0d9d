"""Workflows that are given by a name: ``NAMESPACE:FILE`` ships with a plugin, ``pkg:FILE`` with this package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from guidegraph.graph.errors import Mark, Problem, WorkflowError, choices
from guidegraph.graph.paths import PACKAGE, package_roots
from guidegraph.graph.registry import Registry

NAMED = re.compile(r"([^\W\d]\w+):(.+)", re.DOTALL)  # one letter is a drive of Windows
SUFFIXES = (".yaml", ".yml", ".png")
OURS = PACKAGE.removesuffix(":")


def named_workflow(given: Path, registry: Registry) -> Path:
    """The file that ``NAMESPACE:FILE`` names; any other path, and one that exists, is given back as it is.

    Raises ``WorkflowError`` for a plugin that is not there, and for a file that it does not have.
    """
    match = NAMED.fullmatch(str(given))
    if match is None or given.exists():
        return given
    namespace, name = match.groups()
    roots = package_roots()[-1:] if namespace == OURS else registry.folders.get(namespace)
    if roots is None:
        raise _problem(given, "missing-plugin", _no_plugin(namespace, registry))
    wanted = Path(name)
    for root in roots if not wanted.is_absolute() and ".." not in wanted.parts else ():
        if (root / wanted).is_file():
            return root / wanted
    shipped = sorted(_workflows(roots))
    has = choices(name[:60], shipped, "it has", limit=30) if shipped else "it ships no workflow"
    whose = "this package" if namespace == OURS else f"the plugin '{namespace}'"
    raise _problem(given, "no-file", f"{whose} has no file '{name[:60]}'; {has}")


def _problem(given: Path, code: str, message: str) -> WorkflowError:
    return WorkflowError([Problem(Mark(str(given), 1, 1), code, message)])


def _no_plugin(namespace: str, registry: Registry) -> str:
    if reason := registry.failed.get(namespace):
        return f"the plugin '{namespace}' could not be loaded: {reason}"
    known = choices(namespace[:60], sorted({*registry.folders, OURS}), "plugins", limit=30)
    return f"there is no such file, and no plugin '{namespace[:60]}'; {known}"


def _workflows(roots: Sequence[Path]) -> Iterable[str]:
    """The workflows in a package's folders, by the names to give: at most two folders deep."""
    for root in roots:
        for pattern in ("*", "*/*", "*/*/*"):
            for path in root.glob(pattern):
                if path.suffix in SUFFIXES[:2] and path.is_file():
                    yield path.relative_to(root).as_posix()
