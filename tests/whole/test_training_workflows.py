"""Every training workflow goes on from its checkpoint, with the losses that it had before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.paths import ROOT

WORKFLOWS = sorted(p.relative_to(ROOT) for p in (ROOT / "workflows" / "train").glob("*.yaml"))


def losses(workflow: Path, steps: int, folder: Path) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """The losses after training to `steps`, and the losses shown at each step."""
    settings = {"steps": steps, "batch": 2, "path": folder / "model", "checkpoint": folder / "checkpoint"}
    settings |= {"first_steps": 2, "first_checkpoint": folder / "first_checkpoint"}
    params = yaml.safe_load((ROOT / workflow).read_text(encoding="utf-8"))["params"]
    arguments = [part for name, value in settings.items() if name in params for part in ("--set", f"{name}={value}")]
    arguments += ["--json", "--out", str(folder / "out")]
    command = [sys.executable, "-m", "guidegraph", "run", str(workflow), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    shown = [event["values"] for event in events if event["event"] == "loop_progress" and event["values"]]
    return load_file(folder / "out" / "loss.safetensors")["loss"].flatten(), shown


@pytest.mark.slow
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=str)
def test_a_training_workflow_resumes(workflow: Path, tmp_path: Path) -> None:
    first, shown = losses(workflow, 2, tmp_path)
    assert len(shown) >= 2
    assert all("loss" in " ".join(values) for values in shown)
    on, later = losses(workflow, 3, tmp_path)
    assert len(on) == 3
    assert len(later) == 1
    torch.testing.assert_close(on[:2], first, rtol=0, atol=0)
