"""Dependencies point one way: plugins of our own → guidegraph → plugins → nodes → graph → runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

FOLDERS = ("graph", "nodes", "plugins", "workflows")
PACKAGES = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir())
"""The folders in plugins/ with distributions of their own."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The code laid out as it is installed, where a test may add a violation."""
    modules_only = shutil.ignore_patterns("__pycache__", "*.npz", "*.safetensors", "*.yaml", "*.json")
    shutil.copytree(ROOT / "guidegraph", tmp_path / "guidegraph", ignore=modules_only)
    shutil.copytree(ROOT / "runtime" / "guidegraph_runtime", tmp_path / "guidegraph_runtime", ignore=modules_only)
    for package in (ROOT / "plugins").glob("*/guidegraph_*"):
        shutil.copytree(package, tmp_path / package.name, ignore=modules_only)
    for name in FOLDERS:
        ignored = modules_only if name != "plugins" else shutil.ignore_patterns("__pycache__", *PACKAGES)
        shutil.copytree(ROOT / name, tmp_path / "guidegraph" / name, ignore=ignored)
    return tmp_path


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    return subprocess.run(
        [*command, "--no-logo", "--no-cache", str(ROOT / "pyproject.toml")],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def test_layers_hold(tree: Path) -> None:
    result = lint(tree)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        ("guidegraph/graph/bad.py", "import guidegraph.nodes.types", "guidegraph.graph.bad -> guidegraph.nodes.types"),
        ("guidegraph/graph/bad.py", "from guidegraph import plugins", "guidegraph.graph.bad -> guidegraph.plugins"),
        (
            "guidegraph/nodes/bad.py",
            "from guidegraph.plugins import hookspecs",
            "guidegraph.nodes.bad -> guidegraph.plugins",
        ),
        ("guidegraph/nodes/bad.py", "from guidegraph import node", "guidegraph.nodes.bad -> guidegraph "),
        ("guidegraph/plugins/bad.py", "from guidegraph import node", "guidegraph.plugins.bad -> guidegraph "),
        (
            "guidegraph_diffusers/bad.py",
            "import guidegraph.nodes.types",
            "guidegraph_diffusers.bad -> guidegraph.nodes.types",
        ),
        ("guidegraph/new.py", "", "guidegraph.new"),
        ("guidegraph/graph/bad.py", "import guidegraph_lab.sweep.grid", "guidegraph.graph.bad -> guidegraph_lab"),
        ("guidegraph_lab/bad.py", "import guidegraph_page.view", "guidegraph_lab.bad -> guidegraph_page.view"),
        ("guidegraph_serve/bad.py", "import guidegraph.nodes", "guidegraph_serve.bad -> guidegraph"),
        ("guidegraph_runtime/bad.py", "import torch", "guidegraph_runtime.bad -> torch"),
        (
            "guidegraph_runtime/bad.py",
            "import guidegraph.graph.types",
            "guidegraph_runtime.bad -> guidegraph.graph.types",
        ),
    ],
)
def test_a_forbidden_import_is_reported(tree: Path, module: str, line: str, message: str) -> None:
    (tree / module).write_text(line + "\n")
    result = lint(tree)
    assert result.returncode == 1, result.stdout + result.stderr
    assert message in result.stdout
