"""Trainings and samplings on a device that is not the CPU: nothing is left behind, and the results are the CPU's.

``tests/whole/another_device.py`` simulates a GPU. Each test runs in its own process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.paths import ROOT
from tests.whole.another_device import PLACE

WORKFLOWS = ROOT / "workflows"
TOY = """
guidegraph: 1
params: {steps: 8}
nodes:
  start: {use: toy.line, with: {seed: 3}}
  data: {use: toy.batches, with: {count: 5}}
  fit:
    loop: {over: data, as: batch}
    carry: {net: start, last: first}
    body:
      loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}, with: {dropout: 0.3}}
      seen: {use: toy.mean, in: {x: loop.batch.y}}
    next: {last: seen}
    train: [{model: net, loss: loss, optimizer: adamw, lr: 0.05, ema: 0.9, clip: 1.0}]
    steps: params.steps
    checkpoint: {path: checkpoint, every: 2}
    collect: {loss: loss}
  first: {use: toy.tensor, with: {rows: 1}}
  judged:
    loop: {over: data, as: batch}
    carry: {x: first}
    body: {loss: {use: toy.loss, in: {model: fit.net, x: loop.batch.x, y: loop.batch.y}}}
    next: {x: carry.x}
    collect: {loss: loss}
outputs: {net: fit.net, last: fit.last, loss: fit.loss, judged: judged.loss}
"""


def in_its_own_process(name: str, folder: Path) -> None:
    """Run a function of this file on the device, with a folder that is called as the workflow that it runs."""
    folder.mkdir(exist_ok=True)
    code = (
        "from pathlib import Path; from tests.whole import another_device, test_another_device as runs; "
        f"another_device.set_up(); runs.{name}(Path({str(folder)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def run(workflow: Path, /, device: str = PLACE, **values: Any) -> dict[str, Any]:
    """A workflow's outputs, for some parameters."""
    from guidegraph import load_workflow

    return load_workflow(workflow, device=device, cache="off", plugins=["tests.graph.engine_nodes"]).run(**values)


def toy_training(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(TOY)
    uninterrupted = run(folder / "workflow.yaml")
    devices = {uninterrupted["net"].weight.device, uninterrupted["loss"].device, uninterrupted["last"].device}
    assert devices == {torch.device(PLACE)}
    assert uninterrupted["judged"].device == torch.device(PLACE)
    assert len(set(uninterrupted["loss"].tolist())) == 8
    (folder / "checkpoint" / "state.safetensors").unlink()
    run(folder / "workflow.yaml", steps=3)
    resumed = run(folder / "workflow.yaml")
    for name in ("loss", "last", "judged"):
        assert torch.equal(resumed[name].cpu(), uninterrupted[name].cpu()), name
        assert resumed[name].device == uninterrupted[name].device, name
    on_cpu = run(folder / "workflow.yaml", device="cpu", steps=9)  # a checkpoint is not of a device
    assert torch.equal(on_cpu["loss"][:8], uninterrupted["loss"].cpu())
    assert on_cpu["loss"].device.type == "cpu"


def test_a_training_resumes_on_another_device(tmp_path: Path) -> None:
    in_its_own_process("toy_training", tmp_path)


TRAININGS = {
    "class_denoiser": {"batch": 4},
    "class_classifier": {"batch": 4},
    "unconditional_denoiser": {"batch": 4},
    "autoencoder": {"batch": 2},
    "autoencoder_vq": {"batch": 2},
    "text_to_image": {"batch": 2},
    "segmenter": {"batch": 2},
    "detector": {"batch": 2},
    "inpaint": {"batch": 2},
    "semantic_to_image": {"batch": 2},
}


def one_training(folder: Path) -> None:
    name = folder.name
    values = {"steps": 1, **TRAININGS[name], "path": folder / "model", "checkpoint": folder / "checkpoint"}
    for steps in (1, 2):
        result = run(WORKFLOWS / "train" / f"{name}.yaml", **{**values, "steps": steps})
        assert result
    assert (folder / "model" / "model.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_shipped_trainings_run_and_go_on(name: str, tmp_path: Path) -> None:
    in_its_own_process("one_training", tmp_path / name)


SAMPLINGS = {
    "class_cfg": {"steps": 2, "batch": 2},
    "text_to_image": {"steps": 2},
    "text_to_image_vq": {"steps": 2},
    "class_classifier_guidance_ddpm": {"steps": 2, "batch": 2},
    "inpaint": {"steps": 2},
    "image_to_image": {"steps": 4},
    "super_resolution_128": {"steps": 2},
    "semantic_to_image": {"steps": 2},
}


def one_sampling(folder: Path) -> None:
    name = folder.name
    path = WORKFLOWS / f"{name}.yaml"
    on_device, on_cpu = run(path, **SAMPLINGS[name])["image"], run(path, device="cpu", **SAMPLINGS[name])["image"]
    assert on_device.device == torch.device(PLACE)
    np.testing.assert_allclose(on_device.cpu().numpy(), on_cpu.numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLINGS)
def test_shipped_samplings_give_the_pictures_of_the_cpu(name: str, tmp_path: Path) -> None:
    in_its_own_process("one_sampling", tmp_path / name)


EXPERIMENTS: dict[str, dict[str, Any]] = {
    "sampling": {"steps": 2, "count": 4, "references": 8},
    "rate_distortion": {"batches": 2, "batch": 2, "steps": 3},
    "class_guidance": {
        "count": 10,
        "references": 20,
        "steps": 2,
        "ancestral_steps": 2,
        "classifier_scales": [1.0],
        "free_scales": [2.0],
    },
    "ldm": {"steps": 2, "stages": 2, "batch": 2, "count": 4, "references": 8, "sampling_steps": 2},
}


def one_experiment(folder: Path) -> None:
    more = {"path": folder / "model"} if folder.name == "ldm" else {}
    assert run(WORKFLOWS / "experiments" / f"{folder.name}.yaml", **EXPERIMENTS[folder.name], **more)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_run(name: str, tmp_path: Path) -> None:
    in_its_own_process("one_experiment", tmp_path / name)
