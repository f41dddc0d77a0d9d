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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.language.edit.document import BYTE_ORDER_MARK, Document, parse_value
from guidegraph.graph.language.edit.nodes import add_node, move_node, remove_node, rename_node
from guidegraph.graph.language.edit.parameters import add_parameter, remove_parameter, rename_parameter
from guidegraph.graph.language.edit.values import remove_value, set_value
from guidegraph.graph.language.named_workflows import locate_workflow
from guidegraph.graph.language.yaml_tree import read_text
from guidegraph.graph.memory.pause_collector import pause_collector
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.graph.trust.limits import LimitExceeded
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy, is_shipped
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.check import check_workflow
from guidegraph.runs.recipe import is_picture
from guidegraph_runtime.files.atomic_write import atomic_path
from guidegraph_runtime.files.locks import FolderBusy, hold_lock

__all__ = [
    "Change",
    "Document",
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
class Change:
    """The bytes of a workflow's file before and after an edit."""

    path: Path
    before: bytes
    after: bytes

    def invert(self) -> Change:
        """The change that undoes this one."""
        return Change(self.path, self.after, self.before)

    def diff(self) -> str:
        """The changed lines as a unified diff without context; empty if nothing changed."""
        before, after = (data.decode(errors="replace").splitlines() for data in (self.before, self.after))
        return "\n".join(difflib.unified_diff(before, after, str(self.path), str(self.path), n=0, lineterm=""))

    def write(self) -> None:
        """Write the file under a temporary name that is then renamed; mode and links stay.

        Holds the file's lock from the comparison to the renaming. Raises ``WorkflowError`` if the file is not as it was
        before the edit, ``WriteError`` if it cannot be written; it is then as it was.
        """
        if self.before != self.after:
            with _lock_file(self.path):
                self.write_locked()

    def write_locked(self) -> None:
        """Write the file as ``write`` does, which holds its lock."""
        if self.before == self.after:
            return
        target = Path(os.path.realpath(self.path))
        _check_writable(self.path, target)
        if _read_bytes(target) != self.before:
            raise _file_error(self.path, "file-changed", CHANGED)
        with atomic_path(target) as temporary:
            temporary.write_bytes(self.after)
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))


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
        if change.before != change.after:
            self.changes.append(change)
        return change

    def check(self, document: Document, text: str) -> Change:
        """The change of the workflow from ``document``, as it was read, to ``text``, if it is then valid.

        Raises ``WorkflowError`` that lists all problems, also if the file is no longer as it was read.
        """
        graph = build(self.path, self.registry, {os.path.normpath(self.path.absolute()): text})
        check_workflow(graph, self.registry, self.policy)
        data, before = _read_bytes(self.path) or b"", document.text.encode()
        mark = data[: len(data) - len(before)]  # of the byte order, which the document leaves out
        if data != mark + before or mark.replace(BYTE_ORDER_MARK.encode(), b""):
            raise _file_error(self.path, "file-changed", CHANGED)
        return Change(self.path, data, mark + text.encode())

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
