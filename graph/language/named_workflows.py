"""Workflows referred to by name: ``NAMESPACE:FILE`` ships with a plugin, ``pkg:FILE`` with this package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from guidegraph.graph.errors import Mark, Problem, WorkflowError, closest_match, suggest
from guidegraph.graph.node import Registry
from guidegraph.graph.paths import PACKAGE, find_package_roots

NAMED = re.compile(r"([^\W\d]\w+):(.+)", re.DOTALL)  # a single letter is a Windows drive
WORKFLOW_SUFFIXES = (".yaml", ".yml")
SUFFIXES = (*WORKFLOW_SUFFIXES, ".png")
OURS = PACKAGE.removesuffix(":")


def locate_workflow(path: Path, registry: Registry) -> Path:
    """The file that ``NAMESPACE:FILE`` names; any other path, or one that exists, is returned unchanged.

    Raises ``WorkflowError`` if the plugin is not installed or lacks the file.
    """
    match = NAMED.fullmatch(str(path))
    if match is None or path.exists():
        return path
    namespace, name = match.groups()
    roots = find_package_roots()[-1:] if namespace == OURS else registry.folders.get(namespace)
    if roots is None:
        hint = suggest(namespace[:60], sorted({*registry.folders, OURS}), "plugins", limit=30)
        message = f"there is no such file, and no plugin '{namespace[:60]}'; {hint}"
        if reason := registry.failed.get(namespace):
            message = f"the plugin '{namespace}' could not be loaded: {reason}"
        raise _make_error(path, "missing-plugin", message)
    relative = Path(name)
    for root in roots if not relative.is_absolute() and ".." not in relative.parts else ():
        if (root / relative).is_file():
            return root / relative
    shipped = sorted(_list_workflows(roots))
    hint = suggest(name[:60], shipped, "it has", limit=30) if shipped else "it ships no workflow"
    owner = "this package" if namespace == OURS else f"the plugin '{namespace}'"
    raise _make_error(path, "no-file", f"{owner} has no file '{name[:60]}'; {hint}")


def list_shipped_workflows() -> list[str]:
    """The workflows that ship with the package, as ``pkg:`` names them."""
    return sorted(_list_workflows(find_package_roots()[-1:]))


def name_shipped(path: Path | str) -> str:
    """The ``pkg:FILE`` that a path to nowhere was meant for, by its name and folder; "" if none fits or several do."""
    parts = Path(path).parts
    if not parts or "\0" in str(path):
        return ""
    name = parts[-1] if parts[-1].endswith(WORKFLOW_SUFFIXES) else f"{parts[-1]}.yaml"
    shipped = map(Path, list_shipped_workflows())
    namesakes = [file for file in shipped if file.name == name]
    near = [file for file in namesakes if file.parts[-2:-1] == parts[-2:-1]] if len(parts) > 1 else []
    top = [file for file in namesakes if len(file.parts) == 1]
    best = next((files for files in (near, top, namesakes) if len(files) == 1), [])
    return f"{PACKAGE}{best[0].as_posix()}" if best else ""


def suggest_file(path: Path, prefix: str = "") -> str:
    """The end of a message about a missing file: a shipped file, or one in the same folder, with a similar name.

    prefix: what stands before the name of a workflow that ships, such as ``use: ``.
    """
    if path.exists():
        return ""
    try:
        names = sorted(p.name for p in path.parent.iterdir() if p.suffix in WORKFLOW_SUFFIXES and p != path)
    except (OSError, ValueError):
        names = []
    if f"{path.name}.yaml" not in names and (shipped := name_shipped(path)):
        return f"; it ships with guidegraph: write {prefix}{shipped}"
    guess = closest_match(path.name[:60], names)
    if guess is None:
        top = [file.removesuffix(".yaml") for file in list_shipped_workflows() if "/" not in file]
        similar = closest_match(path.stem[:60], top)
        guess = f"{prefix}{PACKAGE}{similar}.yaml" if similar else None
    return f"; did you mean '{guess}'?" if guess else ""


def _make_error(path: Path, code: str, message: str) -> WorkflowError:
    return WorkflowError([Problem(Mark(str(path), 1, 1), code, message)])


def _list_workflows(roots: Sequence[Path]) -> Iterable[str]:
    """Names of the workflows in a package's folders, at most two folders deep."""
    for root in roots:
        for pattern in ("*", "*/*", "*/*/*"):
            for path in root.glob(pattern):
                if path.suffix in WORKFLOW_SUFFIXES and path.is_file():
                    yield path.relative_to(root).as_posix()
