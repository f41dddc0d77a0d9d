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
from tests.whole.small_model_128 import TRAININGS, write_small_model

WORKFLOWS = sorted(p.relative_to(ROOT) for p in (ROOT / "workflows" / "train").glob("*.yaml"))


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("small_model"))


def losses(workflow: Path, steps: int, folder: Path, model: Path | None) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """The losses after training to `steps`, and the losses shown at each step. model: to start from."""
    is_lora = "lora.save" in (ROOT / workflow).read_text(encoding="utf-8")
    written = folder / ("lora.safetensors" if is_lora else "model")
    settings: dict[str, object] = {"steps": steps, "batch": 2, "path": written, "checkpoint": folder / "checkpoint"}
    settings |= {"first_steps": 2, "first_checkpoint": folder / "first_checkpoint"}
    if model is not None:
        settings |= {"model": model, "times": 2}
    params = yaml.safe_load((ROOT / workflow).read_text(encoding="utf-8"))["params"]
    arguments = [part for name, value in settings.items() if name in params for part in ("--set", f"{name}={value}")]
    arguments += ["--json", "--out", str(folder / "out")]
    command = [sys.executable, "-m", "guidegraph", "run", str(workflow), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    shown = [event["values"] for event in events if event["event"] == "loop_progress" and event["values"]]
    return load_file(folder / "out" / "loss.safetensors")["loss"].flatten(), shown


def list_losses(workflow: Path) -> set[str]:
    """The names of the losses that a workflow trains with."""
    nodes = yaml.safe_load((ROOT / workflow).read_text(encoding="utf-8"))["nodes"].values()
    return {trained["loss"] for node in nodes for trained in node.get("train", ())}


@pytest.mark.slow
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=str)
def test_a_training_workflow_resumes(workflow: Path, tmp_path: Path, small_model: Path) -> None:
    model = small_model if workflow.stem in TRAININGS else None
    first, shown = losses(workflow, 2, tmp_path, model)
    assert len(shown) >= 2
    assert all(values.keys() <= list_losses(workflow) for values in shown)
    on, later = losses(workflow, 3, tmp_path, model)
    assert len(on) == 3
    assert len(later) == 1
    torch.testing.assert_close(on[:2], first, rtol=0, atol=0)
