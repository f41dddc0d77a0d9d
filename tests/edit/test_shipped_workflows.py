"""Random edits of copies of the shipped workflows: each is valid or refused, and undone byte for byte."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from guidegraph import WorkflowError
from guidegraph.edit import WorkflowEditor
from guidegraph.plugins.manager import PluginManager, default_registry
from tests.graph.language.edit import plain_edits
from tests.graph.language.edit.test_random_edits import FILES, propose
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows"
EXAMPLES = [WORKFLOWS / "text_to_image.yaml", WORKFLOWS / "train" / "autoencoder.yaml"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def copy_workflow(path: Path, folder: Path) -> WorkflowEditor:
    """An editor of a copy, with the workflows around it and the nodes that it needs."""
    root = WORKFLOWS if path.is_relative_to(WORKFLOWS) else path.parent
    shutil.copytree(root, folder / "copy", ignore=shutil.ignore_patterns("models", "*.py"))
    registry = default_registry() if root == WORKFLOWS else PluginManager([root.name]).registry
    return WorkflowEditor(folder / "copy" / path.relative_to(root), registry=registry)


def edit_at_random(path: Path, folder: Path, count: int) -> int:
    """Make random edits; returns how many were valid."""
    editor, rng = copy_workflow(path, folder), random.Random(path.name)
    original = editor.path.read_bytes()
    for _ in range(count):
        current, done = editor.path.read_bytes(), len(editor.changes)
        case = propose(rng, plain_edits.load(current.decode()))
        with suppress(WorkflowError):
            editor.apply(case.edit)
        after = current if len(editor.changes) == done else editor.changes[-1].after
        assert editor.path.read_bytes() == after
    valid = len(editor.changes)
    while editor.undo() is not None:
        pass
    assert editor.path.read_bytes() == original
    return valid


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_random_edits_are_valid_or_refused(path: Path, tmp_path: Path) -> None:
    assert edit_at_random(path, tmp_path, 12) > 2


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=name)
def test_random_edits_of_all_workflows_are_valid_or_refused(path: Path, tmp_path: Path) -> None:
    assert edit_at_random(path, tmp_path, 60) > 5
