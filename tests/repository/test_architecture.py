"""The paths in docs/architecture.md name functions that exist, in the files that they name."""

from __future__ import annotations

import ast
import re

import pytest

from tests.paths import ROOT

ROW = re.compile(r"^\| \d+ \| `([\w.]+)` \| `([\w/.]+\.py)` \|", re.MULTILINE)
STEPS = ROW.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def functions_of(path: str) -> set[str]:
    """The functions of a file, those of classes as CLASS.NAME."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    classes = [item for item in body if isinstance(item, ast.ClassDef)]
    methods = {f"{c.name}.{m.name}" for c in classes for m in c.body if isinstance(m, ast.FunctionDef)}
    return methods | {item.name for item in body if isinstance(item, ast.FunctionDef)}


def test_all_three_paths_are_read() -> None:
    assert len(STEPS) == 12 + 10 + 9


@pytest.mark.parametrize(("function", "path"), STEPS, ids=[f"{path}:{function}" for function, path in STEPS])
def test_a_function_on_a_path_exists(function: str, path: str) -> None:
    assert function in functions_of(path)
