"""The notebook and the examples of "From Python" run from beginning to end, as in a fresh kernel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

NOTEBOOK = ROOT / "docs" / "learn" / "from_python.ipynb"
PAGE = ROOT / "docs" / "do" / "from-python.md"


def read_cells() -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run_in_turn(cells: list[str], folder: Path) -> str:
    """Run cells in a fresh interpreter whose module __main__ has no file, like a kernel's; returns what they print."""
    program = "".join(f"exec(compile({cell!r}, 'cell {i}', 'exec'), globals())\n" for i, cell in enumerate(cells))
    done = subprocess.run([sys.executable, "-"], input=program, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_notebook_runs(tmp_path: Path) -> None:
    printed = run_in_turn(["".join(cell["source"]) for cell in read_cells()], tmp_path)
    assert "prompt: str" in printed
    assert "-> image: Image" in printed


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 4
    assert "nodes.sample" in run_in_turn(examples, tmp_path)


def test_a_node_that_a_cell_changes_is_computed_again(tmp_path: Path) -> None:
    cell = """
from guidegraph import load_workflow, node

@node("mine.times")
def times(x: float) -> float:
    return FACTOR * x

text = "guidegraph: 1\\nparams: {x: 3.0}\\nnodes: {y: {use: mine.times, in: {x: params.x}}}\\noutputs: {y: y}\\n"
print(load_workflow("y.yaml", sources={"y.yaml": text}, plugins=["__main__"]).run()["y"])
"""
    cells = [cell.replace("FACTOR", factor) for factor in ("2", "20")]
    assert run_in_turn(cells, tmp_path).split() == ["6.0", "60.0"]


def test_the_notebook_is_stored_without_outputs() -> None:
    assert not [cell for cell in read_cells() if cell["outputs"] or cell["execution_count"]]
