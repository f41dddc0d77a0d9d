"""A node opens the files that its `Path` settings name, and no others; it writes those alone that are `Written`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from guidegraph.graph.paths import shipped_folders
from guidegraph.graph.trust.effects import companions, kind_of
from guidegraph.testing.case import NodeCase
from guidegraph.testing.side_effects import side_effects
from guidegraph.testing.values import Arguments, arguments, call


def check_files(case: NodeCase) -> None:
    """Every file that a call reads or writes is one that the engine knows before the run.

    What happens in the first call alone is not the node's doing: libraries set up their own files as they are imported.
    """
    if _undeclared(case) and (undeclared := _undeclared(case)):
        raise case.error(*undeclared)


def _undeclared(case: NodeCase) -> tuple[str, str, str] | None:
    """What a call does and does not declare: expected, found, and what to do."""
    given = arguments(case)
    with side_effects() as done:
        call(case, given)
    declared = [*_declared(case, given)]
    written = [path for kind, path in declared if kind == "write"]
    known = [*(path for _, path in declared), *shipped_folders()]
    if done.others:
        return "a node that computes", f"it {done.others[0]}", "do that outside of the node"
    for path in done.writes:
        if not _is_below(path, written):
            return (
                "no file to be written but those of settings that are Annotated[Path, Written()]",
                f"'{path}' is written",
                "take the path as a setting and mark it, so that `guidegraph plan` can show it",
            )
    for path in done.reads:
        if not _is_below(path, known):
            return (
                "no file to be read but those of settings of type Path",
                f"'{path}' is read",
                "take the path as a setting of type Path; Beside(name) says that a file beside it is read too",
            )
    return None


def _declared(case: NodeCase, given: Arguments) -> Iterator[tuple[str, Path]]:
    for name, value in (*given.ports.items(), *given.settings.items()):
        port = case.spec.port(name)
        kind = kind_of(port) if port is not None else None
        if port is None or kind is None:
            continue
        for path in _paths(value):
            yield kind, path
            yield from (("read", beside) for beside in companions(port, path))


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from _paths(entry)
    elif isinstance(value, (str, Path)):
        yield Path(value).absolute()


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
