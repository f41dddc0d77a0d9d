"""Two processes in one folder, a disk that is really full, and memory that really runs out."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guidegraph_runtime.files.locks import FOLDER_LOCK
from tests.commands.command import TOYS, environment, process, start
from tests.commands.test_run import LOOP, names

pytestmark = pytest.mark.slow

NOISE = """
guidegraph: 1
params: {seed: 3}
nodes:
  sample: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [3, %s, %s]}}
  image: {use: image.from_sample, in: {sample: sample}}
outputs: {image: image, sample: sample}
"""
TRAIN = """
guidegraph: 1
params: {checkpoint: {type: Path, default: ckpt}}
nodes:
  start: {use: toy.line, with: {seed: 3}}
  data: {use: toy.batches}
  fit:
    loop: {over: data, as: batch}
    carry: {net: start}
    body:
      loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}}
    train:
      - {model: net, loss: loss, optimizer: adamw, lr: 0.05}
    steps: 40
    checkpoint: {path: params.checkpoint, every: 5}
    collect: {loss: loss}
outputs: {loss: fit.loss}
"""
ENGINE = "tests.graph.engine_nodes"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, of which 20 kB are free."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    (folder / "fill").write_bytes(bytes(44 * 1024))
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_a_message_everywhere(full: Path, tmp_path: Path) -> None:
    workflow, train = tmp_path / "noise.yaml", tmp_path / "train.yaml"
    workflow.write_text(NOISE % (100, 100))
    train.write_text(TRAIN)
    commands = {
        "run": (["run", workflow, "--out", full / "out"], 1),
        "sweep": (["sweep", workflow, "--seeds", "0:2", "--out", full / "sweep"], 1),
        "export": (["export", workflow, "-o", full / "bundle"], 1),
        "cache": (["run", workflow, "--out", "ok", "--cache", full / "cache"], 0),
    }
    for name, (arguments, code) in commands.items():
        result = process(arguments, tmp_path)
        assert (name, result.returncode) == (name, code), result.stderr
        assert "Traceback" not in result.stderr
        assert "internal error" not in result.stderr
        assert "cannot be written: no space is left on the disk (" in result.stderr
    assert not [path for path in full.rglob("*") if ".tmp" in path.name or path.name == FOLDER_LOCK]


def test_a_checkpoint_on_a_full_disk_is_a_message(full: Path, tmp_path: Path) -> None:
    (full / "fill").write_bytes(bytes(60 * 1024))
    (tmp_path / "train.yaml").write_text(TRAIN)
    arguments = ["run", "train.yaml", "--plugin", ENGINE, "--out", "out", "--set", f"checkpoint={full / 'ckpt'}"]
    result = process(arguments, tmp_path)
    assert result.returncode == 1
    assert "the checkpoint after 5 steps, " in result.stderr
    assert "no space is left on the disk (" in result.stderr
    assert "Traceback" not in result.stderr
    (full / "fill").unlink()
    assert process(arguments, tmp_path).returncode == 0


def limit_memory(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def test_a_picture_that_is_too_large_gives_the_node_and_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "noise.yaml").write_text(NOISE % (30_000, 30_000))
    arguments = ["run", "noise.yaml", "--out", "out"]
    limited = process(arguments, tmp_path, preexec_fn=lambda: limit_memory(6 << 30))
    assert "2,700,000,000 elements; the limit is 500,000,000" in limited.stderr
    arguments += ["--limit", "elements=off"]
    result = process(arguments, tmp_path, preexec_fn=lambda: limit_memory(6 << 30))
    assert result.returncode == 1
    expected = "node-failed: nodes.sample (noise.gaussian): there is not enough memory: 21.6 GB were asked for"
    assert result.stderr.startswith(f"noise.yaml:5:3: {expected}")
    assert "are available; make the pictures or the batch smaller, or decode in tiles (autoencoder" in result.stderr


def test_of_two_runs_into_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").write_text(LOOP % [float(i) for i in range(2000)])
    arguments = ["run", "loop.yaml", "--plugin", TOYS, "--out", "out", "--json"]
    first = start(arguments, tmp_path)
    assert first.stdout is not None
    try:
        while "loop_progress" not in first.stdout.readline():
            assert first.poll() is None
        second = process(arguments, tmp_path)
        assert second.returncode == 2
        assert "--out: folder-busy: guidegraph run (process " in second.stderr
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(timeout=60)
        first.stdout.close()
        assert first.stderr is not None
        first.stderr.close()
    assert FOLDER_LOCK in names(tmp_path / "out")
    (tmp_path / "loop.yaml").write_text(LOOP % [1.0])
    third = process(arguments, tmp_path)
    assert third.returncode == 0
    assert "was killed, or could not write" in third.stderr
    assert names(tmp_path / "out") == ["before.png", "run.json", "x.json"]


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    for command in (["nodes"], ["schema"]):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "w") as closed:
            result = subprocess.run(
                [sys.executable, "-m", "guidegraph", *command],
                stdout=closed,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
                env=environment(),
            )
        assert (result.returncode, result.stderr) == (1, "")
