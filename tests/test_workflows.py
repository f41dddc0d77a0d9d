"""Every shipped workflow runs from the command line, at reduced size.

Blocks run inside of others; those of checkpoints need a person's files, and run in the tests of each format; those
of `own` need a person's pictures, and run in test_own_pictures.py; what asks for the bundle of an export runs in the
tests of exports.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "workflows").rglob("*.yaml")
EXPORTED = ("text_to_image_onnx.yaml",)
WRITING = ("train", "experiments")
ELSEWHERE = ("blocks", "checkpoints", "own")
WORKFLOWS = sorted(p.relative_to(ROOT) for p in FILES if p.parent.name not in ELSEWHERE and p.name not in EXPORTED)


def parameters(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / workflow).read_text(encoding="utf-8"))["params"]
    return found


def settings(workflow: Path, folder: Path) -> list[str]:
    """Two steps and few samples; training writes its model and its checkpoint below ``folder``."""
    small = {"steps": 2, "ancestral_steps": 2, "count": 10, "references": 20}
    if workflow.parent.name in WRITING:
        small |= {"batch": 2, "first_steps": 2, "path": folder / "model"}
        small |= {"checkpoint": folder / "checkpoint", "first_checkpoint": folder / "first_checkpoint"}
    given = {name: value for name, value in small.items() if name in parameters(workflow)}
    return [part for name, value in given.items() for part in ("--set", f"{name}={value}")]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=str)
def test_a_shipped_workflow_runs(workflow: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "guidegraph", "run", str(workflow), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, *settings(workflow, tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    files = [file for output in record["outputs"].values() for file in output["files"]]
    assert files
    assert all((tmp_path / "out" / file).stat().st_size > 0 for file in files)
    if workflow.parent.name in WRITING and "path" in parameters(workflow):
        assert (tmp_path / "model" / "model.json").exists()
