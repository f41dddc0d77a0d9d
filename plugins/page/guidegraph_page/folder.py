"""The workflows that the page may show: one file, or those below a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.language.named_workflows import WORKFLOW_SUFFIXES
from guidegraph.graph.trust.file_checks import RefusedFile, open_regular

MAX_DEPTH = 4
MAX_FILES = 500
_VERSION_KEY = re.compile(rb"^guidegraph\s*:", re.MULTILINE)
_HEAD = 1 << 16


class UnknownWorkflow(GuidegraphError):
    """The page asked for a file that it may not show."""


@dataclass(frozen=True)
class WorkflowFolder:
    """Workflows by name. file: the only one, or ``None`` for all below ``root``."""

    root: Path
    file: Path | None = None

    @classmethod
    def open(cls, path: Path) -> WorkflowFolder:
        """The folder, or the file, at a path. Raises ``GuidegraphError`` for anything else."""
        absolute = Path(os.path.abspath(path.expanduser()))
        if absolute.is_dir():
            return cls(absolute)
        if not absolute.is_file():
            raise GuidegraphError(f"no-file: there is no file or folder '{path}'")
        if absolute.suffix.lower() not in WORKFLOW_SUFFIXES:
            raise GuidegraphError(
                f"not-a-workflow: expected a workflow (.yaml) or a folder of them; found '{path}'"
                " (a picture is repeated by 'guidegraph run PICTURE')"
            )
        return cls(absolute.parent, absolute)

    def list_names(self) -> list[str]:
        """The names of the first ``MAX_FILES`` workflows, relative to the root, in order. A name has to be UTF-8."""
        if self.file is not None:
            return [self.file.name]
        names: list[str] = []
        for path in _iterate_files(self.root):
            if len(names) == MAX_FILES:
                break
            name = path.relative_to(self.root).as_posix()
            is_utf8 = name.encode(errors="ignore").decode() == name
            if is_utf8 and self._is_inside(path) and _is_workflow(path):
                names.append(name)
        return sorted(names, key=lambda name: (name.count("/"), name))

    def locate(self, name: str) -> Path:
        """The file of a workflow. Raises ``UnknownWorkflow`` for any other name, and for one that leaves the folder."""
        path = self.root / name
        if self.file is not None and path != self.file:
            raise UnknownWorkflow(f"the page shows '{self.file.name}' alone")
        is_plain = Path(name).as_posix() == name and ".." not in Path(name).parts and not Path(name).is_absolute()
        is_workflow = (
            is_plain and "\0" not in name and path.suffix.lower() in WORKFLOW_SUFFIXES and os.path.isfile(path)
        )
        if not is_workflow or not (self.file or self._is_inside(path)):
            raise UnknownWorkflow(f"there is no workflow '{name[:100]}' in '{self.root}'")
        return path

    def _is_inside(self, path: Path) -> bool:
        """Whether a file is below the root when its links are followed."""
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))

    def shorten(self, file: str) -> str:
        """A path for the page: relative to the root if it is below it."""
        path = Path(file)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else file


def _iterate_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")) if depth < MAX_DEPTH else []
        yield from (Path(folder, name) for name in sorted(files) if Path(name).suffix.lower() in WORKFLOW_SUFFIXES)


def _is_workflow(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return _VERSION_KEY.search(file.read(_HEAD)) is not None
    except (OSError, RefusedFile):
        return False
