"""Edits of workflows' files from the page: each is checked before it is written, and can be undone."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from guidegraph.edit import (
    Document,
    WorkflowEditor,
    add_node,
    parse_value,
    remove_node,
    remove_value,
    rename_node,
    set_value,
)
from guidegraph.graph.errors import GuidegraphError, WorkflowError
from guidegraph.graph.language.edit.document import find_value
from guidegraph.graph.language.edit.paths import locate
from guidegraph.graph.language.yaml_tree import Scalar, YamlSequence
from guidegraph.graph.node import Registry
from guidegraph.graph.trust.policy import Policy
from guidegraph_page.folder import WorkflowFolder


class NothingToUndo(GuidegraphError):
    """The page has made no edit of this file that is not undone yet."""


@dataclass(frozen=True)
class NewNode:
    """A node to add. inputs: a link by port. settings: a Python value by name. after: the node to write it after.

    path: the place that takes its output, by ``link`` in place of the link ``old`` there; empty for none. as_list:
    whether that place takes a list.
    """

    name: str
    use: str
    block: str
    inputs: Mapping[str, str | list[str]]
    settings: Mapping[str, Any]
    after: str = ""
    path: str = ""
    link: str = ""
    old: str = ""
    as_list: bool = False


def connect(document: Document, path: str, link: str, old: str, as_list: bool) -> Document:
    """Write a link at a path, in place of the one that is there.

    as_list: as one of a list: in place of the link ``old`` there, or after the others.
    """
    if not as_list:
        return set_value(document, path, link)
    location = locate(document, path)
    present = location.tree if not location.missing and isinstance(location.tree, YamlSequence) else None
    texts = [item.text if isinstance(item, Scalar) else "" for item in present.items] if present else []
    if old in texts:
        return set_value(document, f"{path}.{texts.index(old)}", link)
    return set_value(document, path, [*texts, link])


def disconnect(document: Document, path: str, link: str) -> Document:
    """Remove the link at a path; of several in a list, this one alone."""
    location = locate(document, path)
    if not location.missing and isinstance(location.tree, YamlSequence) and len(location.tree.items) > 1:
        texts = [item.text if isinstance(item, Scalar) else "" for item in location.tree.items]
        if link in texts:
            return remove_value(document, f"{path}.{texts.index(link)}")
    return remove_value(document, path)


def insert_node(document: Document, node: NewNode) -> Document:
    """Add a node, and link its output to the place that takes it."""
    block = locate(document, node.block)
    after = node.after if not block.missing and find_value(block.tree, node.after) is not None else ""
    document = add_node(document, node.name, node.use, node.inputs, node.settings, block=node.block, after=after)
    return connect(document, node.path, node.link, node.old, node.as_list) if node.path else document


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

    def connect(self, name: str, path: str, link: str, *, old: str = "", as_list: bool = False) -> None:
        """Link a place to a source, as ``connect`` does. Raises as ``set``."""
        with self._lock:
            self._find_editor(name).apply(connect, path, link, old, as_list)

    def disconnect(self, name: str, path: str, link: str) -> None:
        """Remove a link. Raises as ``set``."""
        with self._lock:
            self._find_editor(name).apply(disconnect, path, link)

    def add_node(self, name: str, node: NewNode) -> None:
        """Add a node, and link it, in one edit. Raises as ``set``."""
        with self._lock:
            self._find_editor(name).apply(insert_node, node)

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
