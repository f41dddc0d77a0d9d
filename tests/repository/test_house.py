"""The source tree keeps its limits: what a reader pays for, circles, class names, names of functions, docstrings.

`python tools/reader.py` and `python tools/house.py COMMAND --all` list what counts. The limits are meant to fall, never
to rise.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

from tests.paths import ROOT
from tools import house, reader, source_tree

LAZY_CIRCLES = 0
"""Circles of imports, with those inside functions."""
TYPE_CIRCLES = 0
"""The same with imports for type checkers."""
REPEATED_CLASSES = 0
PARTICIPLES = 13
VAGUE = 9
CLAUSES = 2

FILES = 617
LINES = 96_360
CORE_LINES = 66_310
"""The lines of guidegraph and its runtime, without the distributions in plugins/."""
CRUMBS = 947
"""Private functions with one caller."""
ONE_IMPORTER = 11
"""Small modules that one other module imports: those of operations/ are imported by their package alone."""
IMPORTS_IN_FUNCTIONS = 300
VARIANT_CHECKS = 23
TORCH_PRIVATE_FILES = 6

RUN = {"modules": 152, "hops": 4_970, "calls": 19_060, "frames": 11}
"""What a run of text_to_image.yaml of three steps costs; tests/repository/counted_run.py describes the figures."""

SAMPLER = '''

@sampler(RATIO, start="zero", eta=0, steps=30)
def house_euler(levels: Sequence[Level]) -> list[Row]:
    """Euler's method under another name."""
    return [Row(a, _toward(b)) for a, b in pairwise(levels)]
'''
NODE = '''"""A node of its own."""

from guidegraph.graph.node import node


@node("number.house")
def house(*, value: float = 1.0) -> float:
    """The value."""
    return value
'''


@pytest.fixture(scope="module")
def modules() -> list[source_tree.Module]:
    return source_tree.product_modules()


def test_modules_import_each_other_in_no_circle(modules: list[source_tree.Module]) -> None:
    assert source_tree.import_circles(modules, lazy=False) == []
    assert len(source_tree.import_circles(modules)) <= LAZY_CIRCLES
    assert len(source_tree.import_circles(modules, types=True)) <= TYPE_CIRCLES


def test_a_class_name_stands_once_in_a_layer(modules: list[source_tree.Module]) -> None:
    assert len(house.repeated_classes(modules)) <= REPEATED_CLASSES


def test_a_reader_pays_no_more_than_before(modules: list[source_tree.Module]) -> None:
    assert len(modules) <= FILES
    assert sum(len(module.text.splitlines()) for module in modules) <= LINES
    assert sum(len(reader.functions_with_one_caller(module)) for module in modules) <= CRUMBS
    assert len(reader.modules_with_one_importer(modules, reader.SMALL)) <= ONE_IMPORTER
    assert sum(len(reader.imports_in_functions(module)) for module in modules) <= IMPORTS_IN_FUNCTIONS
    assert sum(len(reader.variant_checks(module)) for module in modules) <= VARIANT_CHECKS
    assert sum(bool(reader.torch_privates(module)) for module in modules) <= TORCH_PRIVATE_FILES


def test_the_core_shrinks_and_few_arrows_lead_between_distributions(modules: list[source_tree.Module]) -> None:
    core = [module for module in modules if module.layer in ("guidegraph", "runtime", *source_tree.IN_CORE)]
    assert sum(len(module.text.splitlines()) for module in core) <= CORE_LINES
    graph = source_tree.distribution_graph(modules)
    assert len(graph) <= 12
    assert graph.number_of_edges() <= 30
    assert nx.is_directed_acyclic_graph(graph)


def test_a_run_enters_no_more_modules_and_makes_no_more_calls_than_before(tmp_path: Path) -> None:
    script = ROOT / "tests" / "repository" / "counted_run.py"
    process = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    figures = json.loads(process.stdout.splitlines()[-1])
    assert {name: value for name, value in figures.items() if not 0 < value <= RUN[name]} == {}


@pytest.fixture(scope="module")
def copied_product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import a copy of the product from, without its workflows."""
    folder = tmp_path_factory.mktemp("product")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "guidegraph", folder / "guidegraph", ignore=ignored)
    for name in ("graph", "nodes"):
        shutil.copytree(ROOT / name, folder / "guidegraph" / name, ignore=ignored)
    (folder / "guidegraph" / "plugins").mkdir()
    for path in (ROOT / "plugins").glob("*.py"):
        shutil.copy(path, folder / "guidegraph" / "plugins")
    shutil.copytree(ROOT / "runtime" / "guidegraph_runtime", folder / "guidegraph_runtime", ignore=ignored)
    return folder


@pytest.mark.parametrize(
    ("text", "file", "node"),
    [
        (SAMPLER, "guidegraph_runtime/samplers/ode_solvers.py", "scheduler.house_euler"),
        (NODE, "guidegraph/nodes/number_house.py", "number.house"),
    ],
)
def test_a_sampler_and_a_node_touch_one_file(text: str, file: str, node: str, copied_product: Path) -> None:
    with (copied_product / file).open("a") as stream:
        stream.write(text)
    command = [sys.executable, "-m", "guidegraph", "nodes", "--no-plugins", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(copied_product)}
    process = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=copied_product.parent, timeout=300
    )
    assert process.returncode == 0, process.stderr
    assert f'"{node}"' in process.stdout


def test_functions_are_named_by_verbs(modules: list[source_tree.Module]) -> None:
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
