"""SceneEval by command, on a model of 128 pixels with random weights: its table, its ceiling and a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guidegraph.nodes.metrics.metrics import wilson
from tests.paths import ROOT
from tests.whole.commands import guidegraph, set_options, write_model

WORKFLOW = ROOT / "workflows" / "evaluate" / "scene_eval.yaml"
MODEL = """
guidegraph: 1
params: {path: {type: Path}}
nodes:
  data:        {use: data.scenes_128}
  schedule:    {use: schedule.flow}
  denoiser:
    use: model.unet
    with: {in_channels: 2, channels: 8, multipliers: [1], heads: 1, context_dim: 8, vector_dim: 8, kind: flow}
  text:        {use: model.text_transformer, in: {words: data.words}, with: {width: 8, layers: 1, heads: 1}}
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
    guidegraph("sweep", str(WORKFLOW), *settings(model), "--grid", "scale=1,4", "--out", str(tmp_path))
    tables = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("scores.json"))]
    assert len(tables) == 2
    assert all(table["category"] == CATEGORIES for table in tables)


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
