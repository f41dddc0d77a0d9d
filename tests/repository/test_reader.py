"""The counts of tools/reader.py on a small tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import reader, source_tree

FILES = {
    "graph/__init__.py": "",
    "graph/ops.py": """
import ast
import torch
from torch.fx.experimental import proxy_tensor

def run(op):
    import json
    if isinstance(op, ast.Call):
        return _once(op)
    if isinstance(op, Loop | Call):
        return _often(op) + _often(op)
    return torch._C._get_word()

def _once(op):
    return op

def _often(op):
    return _recurse(op)

def _recurse(op):
    return _recurse(op)
""",
    "graph/user.py": "from guidegraph.graph import ops\n",
}


@pytest.fixture
def modules(tmp_path: Path) -> list[source_tree.Module]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return source_tree.product_modules(tmp_path)


def test_a_crumb_is_called_once_and_not_by_itself(modules: list[source_tree.Module]) -> None:
    found = [line.split()[1] for module in modules for line in reader.functions_with_one_caller(module)]
    assert found == ["_once", "_recurse"]


def test_the_syntax_tree_has_no_variants_of_the_graph(modules: list[source_tree.Module]) -> None:
    found = [line for module in modules for line in reader.variant_checks(module)]
    assert found == ["graph/ops.py:10 isinstance(op, Loop | Call)"]


def test_imports_in_functions_and_private_names_of_torch(modules: list[source_tree.Module]) -> None:
    found = [line for module in modules for line in reader.imports_in_functions(module)]
    assert found == ["graph/ops.py:7 import json"]
    names = {line.split()[1] for module in modules for line in reader.torch_privates(module)}
    assert names == {"torch.fx.experimental.proxy_tensor", "torch._C._get_word"}


def test_a_small_module_with_one_importer(modules: list[source_tree.Module]) -> None:
    found = reader.modules_with_one_importer(modules, small=70)
    assert [line.split()[0] for line in found] == ["graph/ops.py"]
