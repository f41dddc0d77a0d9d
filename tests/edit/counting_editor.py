"""Adds one to a parameter of a workflow, again and again: ``python counting_editor.py FILE TIMES``."""

from __future__ import annotations

import sys
from pathlib import Path

from guidegraph.edit import Document, WorkflowEditor, set_value
from guidegraph.graph.language.edit.paths import locate
from guidegraph.graph.language.yaml_tree import Scalar
from tests.graph import toys


def add_one(document: Document) -> Document:
    tree = locate(document, "params.n.default").tree
    assert isinstance(tree, Scalar)
    return set_value(document, "params.n.default", int(tree.text) + 1)


def main(file: str, times: str) -> None:
    editor = WorkflowEditor(Path(file), registry=toys.REGISTRY)
    for _ in range(int(times)):
        editor.apply(add_one)


if __name__ == "__main__":
    main(*sys.argv[1:])
