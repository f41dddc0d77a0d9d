"""The embedded text-to-image model, from the command line and from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from guidegraph import load_workflow
from tests.commands.command import Command
from tests.paths import ROOT

WORKFLOW = ROOT / "workflows" / "text_to_image.yaml"
PIXEL = 2 / 255  # one level of 255 on [-1, 1]


def picture(**params: Any) -> torch.Tensor:
    image: torch.Tensor = load_workflow(WORKFLOW).run(steps=6, **params)["image"]
    return image


def test_a_seed_is_the_same_picture_alone_in_a_batch_and_with_passes_and_cache_off() -> None:
    alone = picture(seed=7)[0]
    member = picture(seed=3, batch=8)[4]
    plain = load_workflow(WORKFLOW, passes=(), cache="off").run(seed=7, steps=6)["image"][0]
    assert (alone - member).abs().max() <= PIXEL
    assert (alone - plain).abs().max() <= PIXEL
    assert (alone - picture(seed=8)[0]).abs().max() > 10 * PIXEL


def test_guidance_and_prompt_change_the_picture() -> None:
    base = picture(seed=1)
    assert (base - picture(seed=1, scale=1.0)).abs().max() > PIXEL
    assert (base - picture(seed=1, prompt="an elephant on snow")).abs().max() > PIXEL


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "guidegraph", "run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_command_line_draws_and_draws_again_from_the_picture(tmp_path: Path) -> None:
    first = run(str(WORKFLOW), "--set", "steps=4", "--set", "seed=5", "--out", str(tmp_path / "a"))
    assert first.returncode == 0, first.stderr
    with Image.open(tmp_path / "a" / "image.png") as file:
        assert (file.size, file.mode) == ((64, 64), "RGB")
        pixels = file.tobytes()
    assert json.loads((tmp_path / "a" / "run.json").read_text())["status"] == "done"
    again = run(str(tmp_path / "a" / "image.png"), "--out", str(tmp_path / "b"))
    assert again.returncode == 0, again.stderr
    with Image.open(tmp_path / "b" / "image.png") as file:
        assert file.tobytes() == pixels


def origins(stdout: str) -> dict[str, str]:
    events = [json.loads(line) for line in stdout.splitlines()]
    return {e["path"].removeprefix("nodes."): e["origin"] for e in events if e["event"] == "node_finished"}


def test_with_a_disk_cache_only_dependents_of_a_changed_parameter_are_computed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    cli = Command(ROOT, capfd)

    common = ["--set", "steps=4", "--json", "--cache", str(tmp_path / "cache")]
    cli("run", WORKFLOW, *common, "--out", str(tmp_path / "a"))
    unchanged = origins(cli("run", WORKFLOW, *common, "--out", str(tmp_path / "b")).out)
    assert unchanged == {"image": "disk"}
    scale = origins(cli("run", WORKFLOW, *common, "--set", "scale=3", "--out", str(tmp_path / "c")).out)
    assert {n for n, o in scale.items() if o == "computed"} == {"model", "sample", "image"}
    assert {n for n, o in scale.items() if o == "disk"} == {"positive", "negative", "noise", "scheduler"}
    prompt = origins(cli("run", WORKFLOW, *common, "--set", "prompt=an elephant", "--out", str(tmp_path / "d")).out)
    assert {n for n, o in prompt.items() if o == "computed"} == {"model", "positive", "sample", "image"}


@pytest.mark.parametrize("sampler", ["ddpm", "euler", "dpmpp_2m", "euler_ancestral"])
def test_another_sampler_is_one_line(tmp_path: Path, sampler: str) -> None:
    text = WORKFLOW.read_text().replace("scheduler.ddim", f"scheduler.{sampler}")
    (tmp_path / "w.yaml").write_text(text)
    image = load_workflow(tmp_path / "w.yaml").run(steps=5)["image"]
    assert image.shape == (1, 3, 64, 64)
    assert image.isfinite().all()


BLOCK = """      step:
        use: {block}
        in:
          denoiser: model.denoiser
          x: carry.x
          t: loop.t
          positive: positive
          negative: negative
          scheduler: scheduler.scheduler
          state: carry.state
          scale: params.scale
"""


def test_the_step_as_a_block_draws_the_same_picture(tmp_path: Path) -> None:
    lines = WORKFLOW.read_text().splitlines(keepends=True)
    body = next(i for i, line in enumerate(lines) if line.strip() == "body:")
    end = next(i for i, line in enumerate(lines) if line.strip().startswith("next:"))
    block = BLOCK.format(block=WORKFLOW.parent / "blocks" / "cfg_step.yaml")
    (tmp_path / "w.yaml").write_text("".join([*lines[: body + 1], block, *lines[end:]]))
    image = load_workflow(tmp_path / "w.yaml", cache="off").run(seed=7, steps=6)["image"]
    assert (image - picture(seed=7)).abs().max() <= PIXEL
