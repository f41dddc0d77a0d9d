"""A folder of pictures goes through a first stage, a denoiser, sampling and a report by editing paths only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.paths import ROOT
from tests.whole.commands import guidegraph, set_options
from tools.few_pictures import write_few
from tools.judge_classes import Judge, folder_files, label_pictures, shuffled_share, variants
from tools.own_folders import foreground, pictures, write_folders

OWN = ROOT / "workflows" / "own"
KINDS = ("classes", "captions", "maps")
TINY = {"steps": 2, "batch": 4}


def run(name: str, out: Path, folder: Path, **settings: object) -> dict[str, list[str]]:
    """The files of each output of a workflow of workflows/own."""
    guidegraph("run", OWN / f"{name}.yaml", *set_options(**TINY | settings), "--out", out, cwd=folder)
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


def test_few_pictures_depend_on_the_seed_and_match_their_folder(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_few(tmp_path / name, each=2, seed=seed)
    files = folder_files(tmp_path / "one")
    assert {name: len(class_files) for name, class_files in files.items()} == {"snail": 2, "tractor": 2, "turtle": 2}
    for file in (file for class_files in files.values() for file in class_files):
        inside = file.relative_to(tmp_path / "one")
        assert Image.open(file).size == (64, 64)
        assert (tmp_path / "again" / inside).read_bytes() == file.read_bytes()
        assert (tmp_path / "other" / inside).read_bytes() != file.read_bytes()
    with pytest.raises(ValueError, match="the packed emoji have no 'snark'"):
        write_few(tmp_path / "none", objects=("snark",))


def test_labels_in_random_order_are_right_by_chance() -> None:
    label = torch.arange(30) % 3
    assert shuffled_share(label, label) == pytest.approx(1 / 3, abs=0.01)


def test_variants_are_shifts_and_mirror_images() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    changed = variants(image)
    assert changed.shape == (10, 3, 4, 4)
    assert torch.equal(changed[0], image[0])
    assert torch.equal(changed[5], image[0].flip(2))


@pytest.mark.slow
def test_the_judge_tells_held_out_pictures_apart(tmp_path: Path) -> None:
    write_few(tmp_path / "seen", each=10)
    write_few(tmp_path / "held", each=10, seed=1)
    image, label, names = label_pictures(tmp_path / "seen")
    held, expected, _ = label_pictures(tmp_path / "held")
    assert float((Judge(image, label, len(names))(held) == expected).float().mean()) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["finetune_classes", "lora_classes", "finetune_captions"])
def test_shipped_weights_are_where_training_starts(kind: str, tmp_path: Path) -> None:
    write_few(tmp_path / "few", each=2)
    write_folders(tmp_path, limit=1)
    runs, lora = tmp_path / "runs", kind.startswith("lora")
    classes = kind.endswith("classes")
    paths = {"path": "lora.safetensors", "words": "words"} if lora else {"path": "model"}
    arguments = {"data": "few" if classes else "captions", "checkpoint": "checkpoint", **paths}
    first = run(kind, runs / "1", tmp_path, **arguments, preview=1, steps=1)
    on = run(kind, runs / "2", tmp_path, **arguments, preview=2, steps=3)
    assert first.keys() == on.keys()
    before, after = (json.loads((runs / n / "curve.json").read_text())["loss"] for n in "12")
    assert after[:1] == before  # it went on from its checkpoint
    sheets = [json.loads((runs / n / "run.json").read_text())["previews"]["fit/sheet"] for n in "12"]
    assert sheets == [["fit/sheet/step-000001.png"], [f"fit/sheet/step-{step:06d}.png" for step in (2, 3)]]
    assert all(Image.open(runs / "2" / sheet).width > 128 for sheet in sheets[1])
    if not classes:
        return
    model = {"lora": "lora.safetensors", "words": "words"} if lora else {"model": "model"}
    name = "draw_lora" if lora else "draw_finetuned"
    drawn = run(name, runs / "3", tmp_path, data="few", **model, batch=3)
    assert len(drawn["image"]) == 3
    assert json.loads((runs / "3" / "prompts.json").read_text())["prompt"] == ["a snail", "a tractor", "a turtle"]


def test_few_pictures_are_written_by_the_command_of_the_tutorial(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    command = [sys.executable, "tools/few_pictures.py", folder, "--each", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert sorted(file.parent.name for file in folder.glob("*/*.png")) == ["snail", "tractor", "turtle"]
