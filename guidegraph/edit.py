"""Edits of workflow files: small changes of the text, checked as ``guidegraph validate`` does, that can be undone.

``WorkflowEditor.apply`` takes one of the edits named here, which are functions from a ``Document`` to a ``Document``::

    editor = WorkflowEditor("draw.yaml")
    editor.apply(set_value, "params.scale.default", 6)
    editor.apply(set_value, "nodes.sample.body.guided.in.scale", "params.scale")
    editor.undo()
"""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.language.edit.document import BYTE_ORDER_MARK, Document, find_value
from guidegraph.graph.language.edit.extract import extract_nodes
from guidegraph.graph.language.edit.inline import inline_workflow
from guidegraph.graph.language.edit.links import Link
from guidegraph.graph.language.edit.nodes import add_node, locate_node, move_node, remove_node, rename_node
from guidegraph.graph.language.edit.parameters import add_parameter, remove_parameter, rename_parameter
from guidegraph.graph.language.edit.relative_paths import rebase_paths
from guidegraph.graph.language.edit.render import parse_value
from guidegraph.graph.language.edit.values import remove_value, set_value
from guidegraph.graph.language.named_workflows import WORKFLOW_SUFFIXES, locate_workflow
from guidegraph.graph.language.parameters import AnnotationError, parse_annotation
from guidegraph.graph.language.yaml_tree import Scalar, read_text
from guidegraph.graph.memory.pause_collector import pause_collector
from guidegraph.graph.registry import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.resolution.ports import TypeRecord
from guidegraph.graph.resolution.sub_workflows import display_path, resolve_sub_workflow_path
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.graph.trust.limits import LimitExceeded
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy, is_shipped
from guidegraph.graph.types import PortType
from guidegraph.runs.check import check_workflow
from guidegraph.runs.recipe import is_picture
from guidegraph_runtime.files.atomic_write import atomic_path, write_errors
from guidegraph_runtime.files.locks import FolderBusy, hold_lock
from guidegraph_runtime.machine.shortages import WriteError

__all__ = [
    "Change",
    "Document",
    "FileChange",
    "WorkflowEditor",
    "add_node",
    "add_parameter",
    "move_node",
    "parse_value",
    "remove_node",
    "remove_parameter",
    "remove_value",
    "rename_node",
    "rename_parameter",
    "set_value",
]

P = ParamSpec("P")
CHANGED = "the file has been changed since it was read: repeat the edit"


@dataclass(frozen=True)
class FileChange:
    """The bytes of a file before and after an edit; None where it does not exist.

    folders: those that are made for a new file, the innermost first.
    """

    path: Path
    before: bytes | None
    after: bytes | None
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Change:
    """The change of one or more files by an edit."""

    files: tuple[FileChange, ...]

    def invert(self) -> Change:
        """The change that undoes this one."""
        return Change(
            tuple(FileChange(file.path, file.after, file.before, file.folders) for file in reversed(self.files))
        )

    def diff(self) -> str:
        """The changed lines as a unified diff without context; empty if nothing changed."""
        lines: list[str] = []
        for file in self.files:
            before, after = (_split_lines(data) for data in (file.before, file.after))
            lines += difflib.unified_diff(before, after, str(file.path), str(file.path), n=0, lineterm="")
        return "\n".join(lines)

    def write(self) -> None:
        """Write the files, each under a temporary name that is then renamed; mode and links stay.

        Holds the files' locks from the comparison to the renaming. Raises ``WorkflowError`` if a file is not as it was
        before the edit, ``WriteError`` if one cannot be written; the files are then as they were.
        """
        try:
            with ExitStack() as locks:
                for path in sorted({file.path for file in self.files if file.before != file.after}):
                    locks.enter_context(_lock_file(path))
                self.write_locked()
        finally:
            for file in self.files:
                _remove_folders(file)

    def write_locked(self) -> None:
        """Write the files as ``write`` does, which holds their locks."""
        targets = [(_find_target(file), file) for file in self.files if file.before != file.after]
        with ExitStack() as on_failure:
            for target, file in targets:
                _replace(target, file.after)
                on_failure.callback(_restore, target, file)
            on_failure.pop_all()


LOCK_SECONDS = 30.0
"""How long an edit waits for another one of the same file."""


@contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Lock a file against edits by other threads and processes, and wait for them. Raises ``WorkflowError``."""
    if "\0" in str(path) or not path.parent.is_dir():  # reading it will raise the error; a new folder is nobody else's
        yield
        return
    target = Path(os.path.realpath(path))
    name = target.name
    if len(name) > 64:  # files whose long names begin alike have locks of their own
        name = f"{name[:40]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    lock = target.with_name(f".{name}.lock")
    deadline = time.monotonic() + LOCK_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold_lock(lock, target, "an edit"))
                break
            except FolderBusy as busy:
                if time.monotonic() > deadline:
                    raise _file_error(path, "folder-busy", str(busy)) from None
            time.sleep(0.002)
        yield


def _remove_folders(file: FileChange) -> None:
    """Remove the folders that were made for a file that is gone, if they are empty: the lock was in one of them."""
    if not file.path.exists():
        with suppress(OSError):  # another file is in it
            for folder in file.folders:
                folder.rmdir()


def _replace(target: Path, data: bytes | None) -> None:
    """Write a file, or remove it if the data is None."""
    if data is None:
        with write_errors(target):
            target.unlink()
        return
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))


def _restore(target: Path, file: FileChange) -> None:
    with suppress(WriteError):  # the error that is raised is the first one
        _replace(target, file.before)


def _split_lines(data: bytes | None) -> list[str]:
    return [] if data is None else data.decode(errors="replace").splitlines()


def _find_target(file: FileChange) -> Path:
    """The file itself, with links followed. Raises ``WorkflowError`` if it may not be written or has changed."""
    target = Path(os.path.realpath(file.path))
    _check_writable(file.path, target)
    if _read_bytes(target) != file.before:
        message = CHANGED if file.before is not None else "the file already exists"
        raise _file_error(file.path, "file-changed", message)
    return target


def _check_writable(path: Path, target: Path) -> None:
    if is_shipped(target):
        message = "this file ships with guidegraph and is read-only: copy it, and edit the copy"
        raise _file_error(path, "forbidden-write", message)
    if target.exists() and not os.access(target, os.W_OK):
        raise _file_error(path, "forbidden-write", "the file is read-only: change its permissions, or edit a copy")


def _file_error(path: Path, code: str, message: str) -> WorkflowError:
    return WorkflowError([Problem(Mark(str(path), 1, 1), code, message)])


class WorkflowEditor:
    """Edits the file of a workflow, and keeps the changes that it made so that they can be undone.

    The file is read anew for each edit, so that it may be edited elsewhere too. registry: the nodes for the checks; by
    default the built-in ones, those of installed plugins and of the modules in ``plugins``. policy: the permissions of
    the workflow, as for ``Workflow``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        plugins: Sequence[str] = (),
        registry: Registry | None = None,
        policy: Policy = OWN_WORKFLOW,
    ):
        self.path = Path(path)
        if registry is None:
            from guidegraph.plugins.manager import PluginManager

            registry = PluginManager(plugins).registry
        self.registry = registry
        self.policy = policy
        self.changes: list[Change] = []

    def read(self) -> Document:
        """The workflow as it is on disk. Raises ``WorkflowError`` if it cannot be read, or cannot be edited."""
        _check_editable(self.path, self.registry)
        return Document.parse(read_text(self.path), str(self.path))

    def preview(self, edit: Callable[Concatenate[Document, P], Document], *args: P.args, **kwargs: P.kwargs) -> Change:
        """The change that an edit would make, checked and not written. Raises ``WorkflowError`` as ``apply``."""
        with pause_collector():
            document = self.read()
            return self.check(document, edit(document, *args, **kwargs).text)

    def apply(self, edit: Callable[Concatenate[Document, P], Document], *args: P.args, **kwargs: P.kwargs) -> Change:
        """Make an edit: ``edit(document, *args, **kwargs)``, check the result, and write the file.

        The file is locked meanwhile, so that edits by several processes follow each other. Raises ``WorkflowError`` if
        the edit cannot be made or the result is not valid: the file is as it was.
        """
        with _lock_file(self.path):
            change = self.preview(edit, *args, **kwargs)
            change.write_locked()
            return self._keep(change)

    def save(self, change: Change) -> Change:
        """Write a change of ``preview`` or ``check``, and keep it for ``undo`` if it changes a file.

        Raises as ``Change.write``.
        """
        change.write()
        return self._keep(change)

    def _keep(self, change: Change) -> Change:
        if any(file.before != file.after for file in change.files):
            self.changes.append(change)
        return change

    def check(self, document: Document, text: str, new_files: Mapping[Path, str] | None = None) -> Change:
        """The change of the workflow from ``document``, as it was read, to ``text``, if it is then valid.

        new_files: the texts of files to write before, which the workflow then uses. Raises ``WorkflowError`` that lists
        all problems, also if the file is no longer as it was read.
        """
        new_files = new_files or {}
        graph = build(self.path, self.registry, _sources({**new_files, self.path: text}))
        check_workflow(graph, self.registry, self.policy)
        created = [
            FileChange(path, None, content.encode(), tuple(parent for parent in path.parents if not parent.exists()))
            for path, content in new_files.items()
        ]
        return Change((*created, _change_text(self.path, document.text, text)))

    def extract(self, paths: Sequence[str], name: str, file: str | Path) -> Change:
        """Move nodes of one block to a workflow of their own, which takes a new file, and use it as the node ``name``.

        file: its path, absolute or relative to the folder of this workflow, and inside of that. Raises
        ``WorkflowError`` if the file exists, or as ``apply``.
        """
        folder, target = self.path.parent, self.path.parent / file
        _check_new_file(target, folder)
        document, types = self.read(), TypeRecord()
        build(self.path, self.registry, types=types)

        def find_type(link: Link) -> str:
            return _type_name(types.values.get(link.scalar.mark), self.registry)

        use = f"./{Path(os.path.relpath(target, folder)).as_posix()}"
        changed, extracted = extract_nodes(document, paths, name, use, find_type, str(target))
        # Its paths are still relative to the workflow's folder, so they are found in the place of the workflow.
        extracted = Document.parse(extracted.text, str(self.path))
        moved = TypeRecord()
        with suppress(WorkflowError):  # the check lists the problems
            build(self.path, self.registry, _sources({self.path: extracted.text}), types=moved)
        extracted = rebase_paths(extracted, folder, target.parent, _path_finder(moved))
        return self.save(self.check(document, changed.text, {target: extracted.text}))

    def inline(self, path: str) -> Change:
        """Put the nodes of a workflow that a node uses in the place of that node. The workflow's file stays.

        Raises ``WorkflowError`` if the node uses no workflow, or as ``apply``.
        """
        document = self.read()
        location = locate_node(document, path)
        use = find_value(location.tree, "use")
        if not isinstance(use, Scalar) or not use.text.endswith(WORKFLOW_SUFFIXES):
            message = "expected a node that uses a workflow, a file that ends in .yaml or .yml"
            raise WorkflowError([Problem(location.mark, "bad-value", message, path)])
        types = TypeRecord()
        build(self.path, self.registry, types=types)
        file = resolve_sub_workflow_path(use.text, self.path.parent.absolute())
        shown = display_path(use.text, file, os.path.dirname(self.path))
        used = Document.parse(read_text(file, shown), shown)
        used = rebase_paths(used, file.parent, self.path.parent.absolute(), _path_finder(types))
        return self.apply(inline_workflow, path, used)

    def undo(self) -> Change | None:
        """Undo the last change that is not yet undone; None if there is none.

        Raises ``WorkflowError`` if the file has been changed since then.
        """
        if not self.changes:
            return None
        change = self.changes[-1].invert()
        change.write()
        self.changes.pop()
        return change


def _sources(texts: Mapping[Path, str]) -> dict[str, str]:
    """Texts that ``build`` reads in the place of files."""
    return {os.path.normpath(path.absolute()): text for path, text in texts.items()}


def _path_finder(types: TypeRecord) -> Callable[[Mark], bool]:
    """Whether the port that a literal or a link at a position feeds takes a path."""

    def is_path(mark: Mark) -> bool:
        port = types.ports.get(mark)
        return port is not None and port.is_path

    return is_path


def _type_name(kind: PortType | None, registry: Registry) -> str:
    """A type as a parameter declares it; ``Any`` for one that has no name in the language."""
    if kind is None:
        return "Any"
    try:
        parse_annotation(str(kind), registry)
    except AnnotationError:
        return "Any"
    return str(kind)


def _check_new_file(path: Path, folder: Path) -> None:
    """Raise ``WorkflowError`` unless a new workflow may be written to a path."""
    if path.suffix not in WORKFLOW_SUFFIXES or "\0" in str(path):
        raise _file_error(path, "bad-value", "expected the name of a workflow's file, which ends in .yaml or .yml")
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise _file_error(path, "forbidden-write", f"expected a file below '{folder}', the workflow's folder")
    if os.path.lexists(path):
        raise _file_error(path, "file-changed", "the file already exists: choose another name")
    if blocking := next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None):
        raise _file_error(path, "forbidden-write", f"expected a folder '{blocking}', found a file: choose another name")
    _check_writable(path, Path(os.path.realpath(path)))


def _change_text(path: Path, before: str, after: str) -> FileChange:
    """A file's change between two texts without byte order mark; it keeps its mark.

    Raises ``WorkflowError`` if the file no longer has the text ``before``.
    """
    data, text = _read_bytes(path) or b"", before.encode()
    mark = data[: len(data) - len(text)]
    if data != mark + text or mark.replace(BYTE_ORDER_MARK.encode(), b""):
        raise _file_error(path, "file-changed", CHANGED)
    return FileChange(path, data, mark + after.encode())


def _read_bytes(path: Path) -> bytes | None:
    """A file's bytes; None if there is none. Raises ``WorkflowError`` if it cannot be read."""
    try:
        return read_regular(path, limit="workflow_bytes")
    except FileNotFoundError:
        return None
    except LimitExceeded as error:
        raise _file_error(path, "too-large", str(error)) from None
    except OSError as error:
        raise _file_error(path, "no-file", f"cannot read the file: {error.strerror}") from None


def _check_editable(path: Path, registry: Registry) -> None:
    """Raise ``WorkflowError`` for a picture, a workflow by name, and a file that may not be written."""
    if locate_workflow(path, registry) != path:
        message = "expected a file: copy the workflow that ships under this name, and edit the copy"
        raise _file_error(path, "not-editable", message)
    if is_picture(path):
        message = "a picture's workflow cannot be edited: edit a workflow file, and run it"
        raise _file_error(path, "not-editable", message)
    if path.exists():
        _check_writable(path, Path(os.path.realpath(path)))
