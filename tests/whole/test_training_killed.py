"""Training killed without warning goes on to the losses of a run that was never killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.paths import ROOT
from tests.whole.training_process import after

WORKFLOW = """
guidegraph: 1
params: {steps: 400}
nodes:
  start: {use: toy.line, with: {seed: 3}}
  data: {use: toy.batches}
  fit:
    loop: {over: data, as: batch}
    carry: {net: start}
    body:
      loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}, with: {dropout: 0.3}}
    train: [{model: net, loss: loss, optimizer: adamw, lr: 0.01, ema: 0.99, warmup: 20, schedule: cosine}]
    steps: params.steps
    checkpoint: {path: checkpoint, every: 3}
    collect: {loss: loss}
outputs: {loss: fit.loss}
"""


def command(folder: Path) -> list[str]:
    arguments = ["run", str(folder / "train.yaml"), "--out", str(folder / "out"), "--json"]
    return [sys.executable, "-m", "guidegraph", *arguments, "--plugin", "tests.graph.engine_nodes"]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_losses(tmp_path: Path) -> None:
    broken, uninterrupted = tmp_path / "broken", tmp_path / "whole"
    for folder in (broken, uninterrupted):
        folder.mkdir()
        (folder / "train.yaml").write_text(WORKFLOW)
    for _ in range(2):
        process = subprocess.Popen(command(broken), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        after(process, 50)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        time.sleep(0.1)
        assert not (broken / "out" / "loss.safetensors").exists()
        left = list((broken / "checkpoint").iterdir())
        assert (broken / "checkpoint" / "state.safetensors") in left
    resumed = subprocess.run(command(broken), cwd=ROOT, capture_output=True, text=True, check=True)
    assert resumed.stdout.count('"loop_progress"') < 400
    subprocess.run(command(uninterrupted), cwd=ROOT, capture_output=True, check=True)
    a, b = (load_file(folder / "out" / "loss.safetensors")["loss"] for folder in (broken, uninterrupted))
    assert a.shape == (400,)
    assert (a == b).all()
