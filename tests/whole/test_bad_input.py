"""Mistakes of users with the shipped workflows: one line with the location and the reason, and no picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guidegraph import load_workflow
from guidegraph.graph.errors import GuidegraphError
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files that are no pictures, maps or masks for these workflows."""
    Image.fromarray(np.full((64, 64), 23, dtype=np.uint8)).save(tmp_path / "map.png")
    Image.fromarray(np.zeros((17, 15, 3), dtype=np.uint8)).save(tmp_path / "odd.png")
    Image.fromarray(np.zeros((64, 64), dtype=np.float32)).save(tmp_path / "float.tiff")
    picture = (WORKFLOWS / "data" / "examples" / "scene.png").read_bytes()
    (tmp_path / "half.png").write_bytes(picture[: len(picture) // 2])
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("class_cfg", {"label": 10}, "nodes.label .* the classes are 0 … 9; found label 10"),
        ("class_cfg", {"label": [1, 2], "batch": 3}, "2 labels do not make a batch of 3: give one label, or a list"),
        ("class_cfg", {"label": -1}, "'label': .* greater than or equal to 0"),
        ("class_cfg", {"steps": 0}, "'steps': .* greater than or equal to 1; found int 0"),
        ("class_cfg", {"steps": 1001}, "1001 steps do not fit into the schedule's 1000 timesteps"),
        ("class_cfg", {"batch": 0}, "'batch': .* greater than 0; found int 0"),
        ("class_cfg", {"scale": [1, 2]}, "'scale': Input should be a valid number"),
        ("class_classifier_guidance_ddim", {"label": 10}, r"the classifier knows classes 0 … 9; found \[10\]"),
        ("class_classifier_guidance_ddpm", {"label": 10}, r"the classifier knows classes 0 … 9; found \[10\]"),
        ("class_classifier_guidance_ddpm", {"steps": 1}, "needs DDPM or .* of two steps or more"),
        ("text_and_classifier", {"sky": 3}, r"the classifier knows classes 0 … 2; found \[3\]"),
        (
            "text_and_classifier",
            {"prompt": ["a car", "a tiger"]},
            "for 2 samples and 'noise' makes 1: .* make the batch 2",
        ),
        ("text_to_image", {"prompt": []}, "is for no sample: give one"),
        ("text_to_image", {"model": "pkg:fashion_class"}, "has no 'text' here, .* it has denoiser, label, schedule"),
        ("semantic_to_image", {"map": "map.png"}, "map.png: the value at row 0, column 0 is 23; classes are 0 to 22"),
        (
            "semantic_to_image",
            {"map": "float.tiff", "model": "pkg:scenes"},
            "takes no spatial condition, and got one of 23",
        ),
        ("semantic_to_image", {"map": "odd.png"}, r"odd.png: the colour \(0, 0, 0\) .* stands for no class"),
        ("inpaint", {"mask": "none.png"}, "none.png', which is not there: .*nodes.mask"),
        ("inpaint", {"image": "half.png"}, "nodes.picture .* half.png cannot be read as a picture"),
        ("inpaint", {"mask": "float.tiff"}, "nodes.mask .* float.tiff holds floating-point numbers"),
        ("image_to_image", {"strength": 0}, "'strength': .* greater than 0"),
        ("image_to_image", {"strength": 1.5}, "'strength': .* less than or equal to 1"),
        ("image_to_image", {"image": "text.png"}, "text.png is not a picture that Pillow can read"),
        ("super_resolution_128", {"image": "half.png"}, "nodes.small .* half.png cannot be read as a picture"),
        (
            "semantic_to_image_128",
            {"map": "map.png", "prompt": ["a", "b"]},
            "for 2 samples and 'noise' makes 1: .* make the batch 2",
        ),
    ],
)
def test_a_wrong_parameter_gives_one_error(name: str, params: dict[str, Any], message: str, files: Path) -> None:
    values = {key: files / value if key in ("image", "map", "mask") else value for key, value in params.items()}
    with pytest.raises(GuidegraphError, match=message) as caught:
        load_workflow(WORKFLOWS / f"{name}.yaml", cache="off").run(**{"steps": 2, **values})
    assert len(str(caught.value).splitlines()) == 1


def test_the_command_line_prints_one_line_and_writes_no_picture(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "guidegraph", "run", str(WORKFLOWS / "class_cfg.yaml"), "--set", "label=10"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("(label.constant): the classes are 0 … 9; found label 10")
    assert len(done.stderr.strip().splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"
