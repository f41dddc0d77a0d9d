"""The source tree keeps its limits: circles, class names, folders, names of functions and variables, docstrings.

`python tools/house.py COMMAND --all` lists what counts. The limits are meant to fall, never to rise.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import house, source_tree

LAZY_CIRCLES = 0
"""Circles of imports, with those inside functions."""
TYPE_CIRCLES = 0
"""The same with imports for type checkers."""
REPEATED_CLASSES = 0
LARGEST_FOLDER = 22
LONG_FUNCTIONS = 31
PARTICIPLES = 13
VAGUE = 9
CLAUSES = 2


@pytest.fixture(scope="module")
def modules() -> list[source_tree.Module]:
    return source_tree.product_modules()


def test_modules_import_each_other_in_no_circle(modules: list[source_tree.Module]) -> None:
    assert source_tree.import_circles(modules, lazy=False) == []
    assert len(source_tree.import_circles(modules)) <= LAZY_CIRCLES
    assert len(source_tree.import_circles(modules, types=True)) <= TYPE_CIRCLES


def test_a_class_name_stands_once_in_a_layer(modules: list[source_tree.Module]) -> None:
    assert len(house.repeated_classes(modules)) <= REPEATED_CLASSES


def test_no_folder_holds_too_many_files(modules: list[source_tree.Module]) -> None:
    assert max(house.folder_sizes(modules).values()) <= LARGEST_FOLDER


def test_functions_are_short_and_named_by_verbs(modules: list[source_tree.Module]) -> None:
    assert sum(length > house.LONG for length in house.function_lengths(modules).values()) <= LONG_FUNCTIONS
    assert len(house.participles(modules)) <= PARTICIPLES


def test_no_module_counts_its_parent_folders(modules: list[source_tree.Module]) -> None:
    counting = [str(module.path) for module in modules if ".parents[" in (module.root / module.path).read_text()]
    assert counting == []


def test_names_of_variables_say_what_they_hold(modules: list[source_tree.Module]) -> None:
    assert sum(map(len, house.vague_names(modules).values())) <= VAGUE


def test_docstrings_say_what_is_returned(modules: list[source_tree.Module]) -> None:
    assert len(house.clauses(modules, first=True)) <= CLAUSES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brought", True),
        ("_settled", True),
        ("apart", True),
        ("as_written", True),
        ("known_value", True),
        ("read_value", False),
        ("embed", False),
        ("seed", False),
        ("is_hidden", False),
        ("has_changed", False),
        ("to_device", False),
        ("call_together", False),
        ("__init__", False),
    ],
)
def test_a_participle_is_recognised(name: str, expected: bool) -> None:
    assert house.is_participle(name) is expected


def test_circles_are_found_in_a_small_tree(tmp_path: Path) -> None:
    files = {
        "graph/__init__.py": "",
        "graph/a.py": "from guidegraph.graph.b import f\n",
        "graph/b.py": "def f():\n    from guidegraph.graph import c\n",
        "graph/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from guidegraph.graph import a\n",
        "nodes/d.py": "import guidegraph.graph.a\nfrom . import e\n",
        "nodes/e.py": "from .d import g\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    modules = source_tree.product_modules(tmp_path)
    nodes = ["guidegraph.nodes.d", "guidegraph.nodes.e"]
    assert source_tree.import_circles(modules) == [nodes]
    assert source_tree.import_circles(modules, types=True, lazy=False) == [nodes]
    assert source_tree.import_circles(modules, types=True)[0] == [f"guidegraph.graph.{name}" for name in "abc"]
    assert source_tree.import_pairs(modules) == [tuple(nodes)]
    folders = source_tree.folder_graph(modules)
    assert list(folders.edges(data="count")) == [("nodes", "graph", 1)]
