"""Changing the relative paths of a workflow's text for another folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from guidegraph.graph.errors import Mark
from guidegraph.graph.language.edit.document import Document, Replacement, find_value
from guidegraph.graph.language.edit.links import list_links
from guidegraph.graph.language.edit.nodes import list_nodes
from guidegraph.graph.language.edit.paths import locate_value
from guidegraph.graph.language.edit.values import iterate_scalars, render_value
from guidegraph.graph.language.named_workflows import NAMED, WORKFLOW_SUFFIXES
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlMapping


def rebase_paths(document: Document, old: Path, new: Path, is_path: Callable[[Mark], bool]) -> Document:
    """Change the relative paths in a workflow so that they name the same files from the folder ``new`` as from ``old``.

    is_path: whether the literal at a position, or the port that the link at a position feeds, takes a path.
    """
    if os.path.normpath(old) == os.path.normpath(new):
        return document
    replacements = []
    for scalar in _list_paths(document, is_path):
        if (text := _rebase(scalar.text, old, new)) != scalar.text:
            tree = Scalar(text, False, scalar.mark)
            replacements.append(Replacement(*scalar.span, render_value(document, "literal", tree, scalar, flow=True)))
    return document.replace(replacements)


def _rebase(text: str, old: Path, new: Path) -> str:
    if not text or text.startswith("~") or NAMED.fullmatch(text) or os.path.isabs(text):
        return text
    relative = Path(os.path.relpath(os.path.normpath(old / text), new)).as_posix()
    return relative if relative.startswith("../") else f"./{relative}"


def _list_paths(document: Document, is_path: Callable[[Mark], bool]) -> Iterator[Scalar]:
    """The texts that are paths: workflows that nodes use, literals, and defaults of parameters that feed paths."""
    for _, path in list_nodes(document):
        tree = locate_value(document, path).tree
        yield from _list_node_paths(tree, is_path)
        yield from _list_node_paths(find_value(tree, "preview"), is_path)
        checkpoint = find_value(find_value(tree, "checkpoint"), "path")
        if isinstance(checkpoint, Scalar) and not checkpoint.text.startswith("params."):
            yield checkpoint
    fed = {link.scalar.text for link in list_links(document) if is_path(link.scalar.mark)}
    params = find_value(document.root, "params")
    for name, value in params.items if isinstance(params, YamlMapping) else ():
        default = find_value(value, "default") if isinstance(value, YamlMapping) else value
        declared = find_value(value, "type")
        names_path = isinstance(declared, Scalar) and "path" in declared.text.lower()
        if default is not None and (names_path or is_path(default.mark) or f"params.{name.text}" in fed):
            yield from _texts(default)


def _list_node_paths(node: Tree | None, is_path: Callable[[Mark], bool]) -> Iterator[Scalar]:
    use = find_value(node, "use")
    if isinstance(use, Scalar) and use.text.endswith(WORKFLOW_SUFFIXES):
        yield use
    settings = find_value(node, "with")
    for _, value in settings.items if isinstance(settings, YamlMapping) else ():
        if is_path(value.mark):
            yield from _texts(value)


def _texts(tree: Tree) -> Iterator[Scalar]:
    return (scalar for scalar in iterate_scalars(tree) if isinstance(scalar.value, str))
