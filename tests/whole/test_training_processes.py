"""Training in several processes: the same losses as in one, resumable, and restarted when a process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from tests.paths import ROOT
from tests.whole.training_process import after

PLUGIN = ("--plugin", "tests.graph.engine_nodes", "--json")
CLASSES = ROOT / "workflows" / "train" / "class_denoiser.yaml"
LINE = """
guidegraph: 1
params: {steps: 800}
nodes:
  start: {use: toy.line, with: {seed: 3}}
  data: {use: toy.batches}
  fit:
    loop: {over: data, as: batch}
    carry: {net: start}
    body: {loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}}}
    train: [{model: net, loss: loss, optimizer: adamw, lr: 0.01, ema: 0.99, warmup: 20, schedule: cosine}]
    steps: params.steps
    checkpoint: {path: checkpoint, every: 2}
    collect: {loss: loss}
outputs: {loss: fit.loss}
"""

CODES = """
guidegraph: 1
nodes:
  start: {use: model.vq_autoencoder, with: {channels: 8, multipliers: [1], patch: 8, codes: 16, decay: 0.9}}
  data: {use: data.scenes, with: {batch: 4}}
  fit:
    loop: {over: data.batches, as: batch}
    carry: {net: start}
    body: {losses: {use: loss.vq_autoencoder, in: {autoencoder: carry.net, image: loop.batch.image}}}
    train: [{model: net, loss: losses.loss, lr: 1e-3}]
    steps: 4
    collect: {loss: losses.loss}
outputs: {loss: fit.loss}
"""


def command(workflow: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "guidegraph", "run", str(workflow), "--out", str(out), *more]


def two_processes(folder: Path, *more: str) -> subprocess.Popen[str]:
    """The training of `folder`/train.yaml."""
    return subprocess.Popen(
        command(folder / "train.yaml", folder / "out", *PLUGIN, "--devices", "2", *more),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(out: Path) -> list[float]:
    values: list[float] = load_file(out / "loss.safetensors")["loss"].tolist()
    return values


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    for name, more in (("one", []), ("two", ["--devices", "2"])):
        paths = [f"--set={key}={tmp_path / name / key}" for key in ("path", "checkpoint")]
        sizes = ["--set=steps=20", "--set=batch=16"]
        subprocess.run(command(CLASSES, tmp_path / name, *paths, *sizes, *more), check=True, cwd=ROOT)
    single, double = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(single) == len(double) == 20
    assert max(abs(a - b) / abs(a) for a, b in zip(single, double, strict=True)) <= 1e-4
    assert single[-1] != single[0]
    a, b = (load_file(tmp_path / name / "path" / "denoiser.safetensors") for name in ("one", "two"))
    assert max(float((a[key].float() - b[key].float()).abs().max()) for key in a) < 1e-3


@pytest.mark.slow
def test_moving_averages_of_codes_equal_those_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(CODES)
    for name, more in (("one", []), ("two", ["--devices", "2"])):
        subprocess.run(command(tmp_path / "train.yaml", tmp_path / name, *more), check=True, cwd=ROOT)
    pairs = list(zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True))
    assert max(abs(a - b) / abs(a) for a, b in pairs) <= 1e-4


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_at_one_step_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(LINE.replace("every: 2", "every: 100000"))
    process = two_processes(tmp_path, "--set", "steps=1000000")
    after(process, 10)
    process.send_signal(signal.SIGINT)
    remaining_output, error_output = process.communicate(timeout=120)
    assert process.returncode == 130, error_output
    assert "another process" not in error_output
    with safe_open(str(tmp_path / "checkpoint" / "state.safetensors"), "pt") as file:
        assert int(file.metadata()["step"]) == 10 + remaining_output.count('"loop_progress"')


@pytest.mark.slow
def test_a_killed_process_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(LINE)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "train.yaml").write_text(LINE)
    process = two_processes(tmp_path)
    after(process, 10)
    os.kill(second_of(process.pid), signal.SIGKILL)
    remaining_output, error_output = process.communicate(timeout=120)
    assert process.returncode == 0, error_output
    assert "process 1 was killed: all start again from the last checkpoint" in error_output
    again = remaining_output.count('"loop_progress"')
    assert 0 < again < 799  # not from the start
    uninterrupted = command(tmp_path / "whole" / "train.yaml", tmp_path / "whole" / "out", *PLUGIN)
    subprocess.run(uninterrupted, cwd=ROOT, check=True, capture_output=True)
    pairs = zip(losses(tmp_path / "out"), losses(tmp_path / "whole" / "out"), strict=True)
    assert max(abs(a - b) / abs(b) for a, b in pairs) <= 1e-4


def second_of(launcher: int) -> int:
    """The process that computes rank 1: the innermost one below the launcher, where a command has a supervisor."""
    parents: dict[int, int] = {}
    ranked = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", status.read_text(), re.MULTILINE)
            environment = b"\0" + (status.parent / "environ").read_bytes()
        except OSError:
            continue
        process = int(status.parent.name)
        parents[process] = int(parent[1]) if parent else 0
        if b"\0RANK=1\0" in environment:
            ranked.add(process)
    innermost = [process for process in ranked if process not in {parents[other] for other in ranked}]
    below = [process for process in innermost if descends_from(process, launcher, parents)]
    assert len(below) == 1, (below, ranked)
    return below[0]


def descends_from(process: int, ancestor: int, parents: Mapping[int, int]) -> bool:
    while process in parents and process != ancestor:
        process = parents[process]
    return process == ancestor


def test_only_a_training_is_shared(tmp_path: Path) -> None:
    result = subprocess.run(
        command(ROOT / "workflows" / "text_to_image.yaml", tmp_path / "out", "--devices", "2", "--nodes", "2"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "--devices: no-training: the workflow has no training loop" in result.stderr
    assert "--rendezvous: no-rendezvous" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
