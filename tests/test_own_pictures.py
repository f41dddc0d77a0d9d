"""A folder of pictures goes through a first stage, a denoiser, sampling and a report by editing paths only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.own_folders import foreground, pictures, write_folders

ROOT = Path(__file__).parents[1]
OWN = ROOT / "workflows" / "own"
KINDS = ("classes", "captions", "maps")
TINY = {"steps": 2, "batch": 4}


def guidegraph(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-m", "guidegraph", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(name: str, out: Path, folder: Path, **settings: object) -> dict[str, list[str]]:
    """The files of each output of a workflow of workflows/own."""
    given = [part for key, value in (TINY | settings).items() for part in ("--set", f"{key}={value}")]
    guidegraph("run", OWN / f"{name}.yaml", *given, "--out", out, cwd=folder)
    return {key: output["files"] for key, output in json.loads((out / "run.json").read_text())["outputs"].items()}


def test_the_map_of_an_emoji_is_its_shape() -> None:
    inside = np.asarray(foreground(next(pictures()).image))
    assert set(np.unique(inside)) == {0, 1}
    assert inside[0, 0] == 0
    assert 0.2 < inside.mean() < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_goes_all_the_way(kind: str, tmp_path: Path) -> None:
    write_folders(tmp_path, limit=2)
    runs = tmp_path / "runs"
    small = {"data": kind, "channels": 8}
    first = run("autoencoder", runs / "1", tmp_path, path="first", checkpoint="checkpoints/first", **small)
    assert first["sheet"] == ["sheet.png"]
    paths = {"first_stage": "first", "path": "model", "checkpoint": "checkpoints/model"}
    run(f"denoiser_{kind}", runs / "2", tmp_path, multipliers="[1, 2]", attention="[1]", **paths, **small)
    on = run(
        f"denoiser_{kind}",
        runs / "3",
        tmp_path,
        **{**paths, **small, "steps": 3, "multipliers": "[1, 2]", "attention": "[1]"},
    )
    before, after = (json.loads((runs / n / "curve.json").read_text())["loss"] for n in "23")
    assert on["curve"]
    assert after[:2] == before  # it went on from its checkpoint
    assert len(after) == 3
    drawn = run(f"draw_{kind}", runs / "4", tmp_path, data=kind, model="model", references=6)
    assert len(drawn["image"]) == 4
    assert all(Image.open(runs / "4" / file).size == (64, 64) for file in [*drawn["image"]])
    assert Image.open(runs / "4" / drawn["sheet"][0]).width > 64
    row = json.loads((runs / "4" / "table.json").read_text())
    assert np.isfinite(row["kid"]).all()
    guidegraph("report", runs, "-o", tmp_path / "report.html", cwd=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") >= 5
    assert f"draw_{kind}" in page
