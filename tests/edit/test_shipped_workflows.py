"""Random edits of copies of the shipped workflows: each is valid or refused, and undone byte for byte."""

from __future__ import annotations

import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from guidegraph import WorkflowError
from guidegraph.edit import WorkflowEditor
from guidegraph.graph.ir import Call, walk
from guidegraph.graph.registry import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.sources import Carry, Index, Item, Many, Output, Sources
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
        after = current if len(editor.changes) == done else editor.changes[-1].files[0].after
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


def count_calls(path: Path, registry: Registry) -> Counter[object]:
    """The calls and loops of a workflow with their links, and its outputs; used workflows are inlined in a graph."""
    graph = build(path, registry)
    ops = {op.key: op for op in walk(graph.ops)}

    def describe(sources: Sources) -> object:
        """Sources without the keys of nodes, which an extraction changes."""
        if isinstance(sources, Many):
            return tuple(map(describe, sources.sources))
        if isinstance(sources, Output):
            op = ops[sources.op]
            return op.spec.id if isinstance(op, Call) else "loop", sources.name
        if isinstance(sources, (Carry, Item, Index)):
            sources = sources._replace(loop="")
        return repr(sources)

    def describe_all(links: Mapping[str, Sources]) -> object:
        return tuple(sorted((name, repr(describe(sources))) for name, sources in links.items()))

    calls: Counter[object] = Counter()
    for op in ops.values():
        if isinstance(op, Call):
            calls[op.spec.id, describe_all(op.inputs), describe_all(op.settings)] += 1
        else:
            calls["loop", len(op.body), describe(op.over), *map(describe_all, (op.carry, op.next, op.collect))] += 1
    calls["outputs", describe_all({name: output.source for name, output in graph.outputs.items()})] += 1
    return calls


def extract_at_random(path: Path, folder: Path, count: int) -> int:
    """Extract random nodes and inline them again; returns how many extractions were valid."""
    editor, rng = copy_workflow(path, folder), random.Random(path.name)
    original, calls = editor.path.read_bytes(), count_calls(editor.path, editor.registry)
    valid = 0
    for _ in range(count):
        blocks: dict[str, list[str]] = defaultdict(list)
        for node, block, _ in plain_edits.nodes(plain_edits.load(original.decode())):
            blocks[block].append(node)
        block = rng.choice(list(blocks))
        start = rng.randrange(len(blocks[block]))
        nodes = blocks[block][start : start + rng.randint(1, 3)]
        try:
            editor.extract(nodes, "extracted", rng.choice(["new.yaml", "folder/new.yaml"]))
        except WorkflowError as error:
            assert {problem.code for problem in error.problems} <= {"cycle", "no-output"}  # noqa: PT017
            continue
        valid += 1
        assert count_calls(editor.path, editor.registry) == calls
        editor.inline(f"{block}.extracted")
        assert count_calls(editor.path, editor.registry) == calls
        while editor.undo() is not None:
            pass
        assert editor.path.read_bytes() == original
    return valid


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_extracted_nodes_are_the_same_calls(path: Path, tmp_path: Path) -> None:
    assert extract_at_random(path, tmp_path, 3) > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=name)
def test_extracted_nodes_of_all_workflows_are_the_same_calls(path: Path, tmp_path: Path) -> None:
    assert extract_at_random(path, tmp_path, 20) > 0
