"""SceneEval by command, on a model of 128 pixels with random weights: its table, its ceiling and a sweep."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guidegraph_lab.metrics.metrics import wilson
from tests.paths import ROOT
from tests.whole.commands import guidegraph, set_options, write_model
from tools.gallery_scene_eval import main, open_method
from tools.gallery_table import METHODS, Method

WORKFLOW = ROOT / "workflows" / "evaluate" / "scene_eval.yaml"
MODEL = """
guidegraph: 1
params: {path: {type: Path}}
nodes:
  data:        {use: data.scenes_128}
  schedule:    {use: schedule.flow}
  denoiser:
    use: model.unet
    with:
      {in_channels: 2, channels: 8, multipliers: [1], heads: 1, context_dim: 192, vector_dim: 192,
      spatial_channels: 81, kind: flow}
  text:        {use: model.text_transformer, in: {words: data.words}, with: {width: 192, layers: 1, heads: 1}}
  autoencoder: {use: model.autoencoder, with: {channels: 8, multipliers: [1, 1, 1], latent_channels: 2, detail: 4}}
  detector:    {use: model.box_detector, with: {channels: 8}}
  saved:
    use: model.save
    in: {denoiser: denoiser, text: text, schedule: schedule, autoencoder: autoencoder, detector: detector,
      path: params.path}
outputs: {model: saved}
"""
CATEGORIES = ["single object", "two objects", "counting", "colours", "position", "attribute binding", "overall"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(MODEL, tmp_path_factory.mktemp("scene_eval"))


def settings(model: Path, **more: object) -> list[str]:
    values = {
        "model": model,
        "detector": model,
        "steps": 2,
        "shape": "[2, 16, 16]",
        **(more or {"count": 2, "batch": 2}),
    }
    return set_options(**values)


@pytest.mark.slow
def test_the_table_has_every_category_of_drawn_rebuilt_and_real_pictures(model: Path, tmp_path: Path) -> None:
    guidegraph("run", str(WORKFLOW), *settings(model), "--out", str(tmp_path))
    table = json.loads((tmp_path / "table.json").read_text())
    assert list(dict.fromkeys(table["pictures"])) == [
        "drawn from the prompt",
        "drawn, other prompts",
        "real scenes, rebuilt by the autoencoder",
        "real scenes",
        "real scenes, other prompts",
    ]
    assert table["category"] == CATEGORIES * 5
    assert table["count"] == [2, 2, 2, 2, 2, 2, 12] * 5
    for score, low, high, count in zip(table["score"], table["low"], table["high"], table["count"], strict=True):
        if count == 2:
            assert (low, high) == pytest.approx(wilson(round(2 * score), 2)[1:])
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.slow
def test_scores_are_swept_over_scales(model: Path, tmp_path: Path) -> None:
    options = ["--grid", "scale=1,4", "--only", "scores", "--out", str(tmp_path)]
    guidegraph("sweep", str(WORKFLOW), *settings(model), *options)
    tables = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("scores.json"))]
    assert len(tables) == 2
    assert all(table["category"] == CATEGORIES for table in tables)
    assert not list(tmp_path.rglob("real.json"))


def test_layouts_are_judged_without_pictures(tmp_path: Path) -> None:
    options = set_options(count=4, batch=4)
    guidegraph("run", str(WORKFLOW.with_name("layouts_128.yaml")), *options, "--out", str(tmp_path))
    table = json.loads((tmp_path / "scores.json").read_text())
    assert table["category"] == CATEGORIES
    assert table["count"] == [4] * 6 + [24]
    assert table["score"][0] == 1  # a layout with the one object that was asked for


def run_tool(name: str, *arguments: Path | str) -> list[list[str]]:
    """The cells of the table that a tool prints, by rows, with those of its header."""
    command = [sys.executable, f"tools/{name}.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    lines = done.stdout.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]


def test_a_sweep_is_printed_with_a_column_for_each_category(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    lines = ["cell,scale,count,pictures,category,scores.count,score,low,high"]
    for cell, score in (("a", 0.25), ("b", 0.75)):
        for category in CATEGORIES:
            lines.append(f"{cell},{8 * score},4,drawn,{category},4,{score},{score - 0.1},{score + 0.1}")
    (tmp_path / "tables" / "scores.csv").write_text("\n".join(lines))
    header, _, *rows = run_tool("scene_eval_table", tmp_path)
    assert header == ["scale", "count", *CATEGORIES[:-1], "overall [95 %]"]
    assert rows == [["2", "4", *["25"] * 6, "25.0 [15.0, 35.0]"], ["6", "4", *["75"] * 6, "75.0 [65.0, 85.0]"]]


def test_the_gallerys_table_counts_the_pairs_that_differ(tmp_path: Path) -> None:
    overall = {"no guidance": [0.2, 0.1, 0.3], "CFG, s = 2": [0.5, 0.4, 0.6], "CFG, s = 4": [0.55, 0.45, 0.65]}
    rows = [
        {"method": name, "gigaflops": 9.81, "count": 50, "scores": dict.fromkeys(CATEGORIES, score)}
        for name, score in overall.items()
    ]
    (tmp_path / "gallery.json").write_text(json.dumps(rows))
    printed = run_tool("gallery_scene_eval", tmp_path / "gallery.json", "--show")
    assert printed[2] == ["no guidance", "9.8", "300", *["20"] * 6, "20.0 [10.0, 30.0]"]
    assert printed[-1] == ["2 of 3 pairs differ by more than their intervals."]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"models": {"model": "of a month ago"}}, "has a row of another model or detector, 'APG': name another file"),
        ({"models": {"planner": "of a month ago"}}, "has a row of another model or detector, 'APG': name another file"),
        ({"models": {"weak": "of a month ago"}}, "has a row of another model or detector, 'APG': name another file"),
        ({"untold": True}, "has rows without layouts: name another file"),
        ({"count": 10}, "has a row of 10 prompts in a category: use --count 10 or another file"),
    ],
)
def test_no_row_is_added_to_those_that_differ_in_more_than_the_method(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, Any],
    message: str,
) -> None:
    folders = {role: tmp_path / role for role in ("model", "planner", "detector", "weak")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "model.json").write_text("{}")
    models = dict.fromkeys(folders, hashlib.sha256(b"{}").hexdigest()) | row.get("models", {})
    table = tmp_path / "gallery.json"
    table.write_text(json.dumps([{"method": "APG", "count": 50, **row, "models": models}]))
    options = [word for role, folder in folders.items() for word in (f"--{role}", str(folder))]
    monkeypatch.setattr(sys, "argv", ["gallery_scene_eval.py", str(table), *options])
    for expected in (message, "there is no model in"):
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code, expected in capsys.readouterr().err) == (2, True)
        (folders["weak"] / "model.json").unlink(missing_ok=True)


@pytest.mark.parametrize("method", [METHODS[0], METHODS[4]], ids=lambda method: method.name)
def test_a_gallery_that_is_untold_draws_no_layout(method: Method) -> None:
    told, untold = (open_method(method, untold).graph.ops for untold in (False, True))
    assert "planned/layout" in told
    assert "planned/layout" not in untold
    assert "planned/untold/map" in untold


@pytest.mark.slow
def test_the_ceiling_needs_no_denoiser(tmp_path: Path) -> None:
    parts = write_model(MODEL.replace("denoiser: denoiser, text: text, schedule: schedule, ", ""), tmp_path)
    guidegraph("run", str(WORKFLOW), *settings(parts), "--only", "real", "--out", str(tmp_path / "out"))
    table = json.loads((tmp_path / "out" / "real.json").read_text())
    assert table["category"] == CATEGORIES * 2


@pytest.mark.slow
def test_prompts_of_a_file_are_drawn_and_judged_one_by_one(model: Path, tmp_path: Path) -> None:
    prompts = ["please draw my happy dog", "two red cars on the beach", "a cat to the left of a house"]
    objects = [[{"object": "dog"}], [{"object": "car", "count": 2, "colour": "red"}], [{"object": "cat"}]]
    entries = [{"prompt": text, "objects": asked} for text, asked in zip(prompts, objects, strict=True)]
    (tmp_path / "prompts.json").write_text(json.dumps(entries))
    workflow, out = str(WORKFLOW.with_name("everyday.yaml")), tmp_path / "out"
    guidegraph("run", workflow, *settings(model, prompts=tmp_path / "prompts.json"), "--out", str(out))
    judged = json.loads((out / "prompts.json").read_text())
    table = json.loads((out / "table.json").read_text())
    assert judged["prompt"] == prompts
    assert table["pictures"] == ["drawn from the prompt", "drawn, other prompts"]
    assert table["count"] == [3, 3]
    assert table["score"][0] == pytest.approx(sum(judged["right"]) / 3)
    assert (out / "sheet.png").is_file()
