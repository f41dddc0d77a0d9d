"""Edits of workflows' files from the page: each is checked before it is written, and can be undone."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field

from guidegraph.edit import WorkflowEditor, parse_value, remove_node, remove_value, rename_node, set_value
from guidegraph.graph.errors import GuidegraphError, WorkflowError
from guidegraph.graph.registry import Registry
from guidegraph.graph.trust.policy import Policy
from guidegraph.page.folder import WorkflowFolder


class NothingToUndo(GuidegraphError):
    """The page has made no edit of this file that is not undone yet."""


@dataclass
class PageEdits:
    """The editors of the workflows that the page has edited, by name."""

    folder: WorkflowFolder
    registry: Registry
    policy: Policy
    _editors: dict[str, WorkflowEditor] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str) -> int:
        """The number of edits that can be undone."""
        editor = self._editors.get(name)
        return len(editor.changes) if editor else 0

    def set(self, name: str, path: str, text: str, *, is_text: bool) -> None:
        """Set the value at a path. Otherwise a value is read as by ``guidegraph set``.

        is_text: whether the value has a type that takes text. Then it is read as by ``run --set``: ``6`` is a text, and
        so is what begins like a list or a mapping, unless that is a valid value.
        Raises ``UnknownWorkflow``, and ``WorkflowError`` if the edit is refused; the file is then as it was.
        """
        with self._lock:
            editor = self._find_editor(name)
            if is_text and text.startswith(("[", "{")):
                with suppress(WorkflowError):
                    editor.apply(set_value, path, parse_value(text))
                    return
            editor.apply(set_value, path, text if is_text else parse_value(text))

    def remove(self, name: str, path: str) -> None:
        """Remove the value at a path, which then has its default. Raises as ``set``."""
        with self._lock:
            self._find_editor(name).apply(remove_value, path)

    def rename_node(self, name: str, path: str, new_name: str) -> None:
        """Rename a node and all links to it. Raises as ``set``."""
        with self._lock:
            self._find_editor(name).apply(rename_node, path, new_name)

    def remove_node(self, name: str, path: str) -> None:
        """Remove a node that nothing is linked to. Raises as ``set``."""
        with self._lock:
            self._find_editor(name).apply(remove_node, path)

    def undo(self, name: str) -> None:
        """Undo the last edit. Raises ``NothingToUndo``, and ``WorkflowError`` if the file has changed since."""
        with self._lock:
            if self._find_editor(name).undo() is None:
                raise NothingToUndo("there is no edit to undo: the page undoes the edits that were made in it")

    def _find_editor(self, name: str) -> WorkflowEditor:
        path = self.folder.locate(name)
        if name not in self._editors:
            self._editors[name] = WorkflowEditor(path, registry=self.registry, policy=self.policy)
        return self._editors[name]
