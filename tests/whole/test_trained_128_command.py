"""Inpainting, super-resolution and maps of 128 pixels by command: trained for two steps and drawn with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.paths import ROOT
from tests.whole.commands import guidegraph, set_options
from tests.whole.small_model_128 import write_small_model

pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "workflows" / "data" / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model"))


def train_and_draw(name: str, model: Path, folder: Path, **settings: object) -> list[np.ndarray]:
    """Train the LoRA of a workflow for two steps and draw with it; returns the pictures, uint8."""
    lora = folder / "lora.safetensors"
    paths = {"model": model, "path": lora, "checkpoint": folder / "checkpoint"}
    training = set_options(**paths, steps=2, batch=1, times=2, rank=2)
    guidegraph("run", f"workflows/train/{name}.yaml", "--out", folder / "trained", *training)
    drawing = set_options(model=model, lora=lora, steps=2, **settings)
    guidegraph("run", f"workflows/{name}.yaml", "--out", folder / "drawn", *drawing)
    assert (folder / "trained" / "sheet.png").is_file()
    return [np.asarray(Image.open(path)) for path in sorted((folder / "drawn").glob("image*.png"))]


def test_inpainting_changes_the_hidden_part_alone_and_differently_for_each_seed(model: Path, tmp_path: Path) -> None:
    pictures = train_and_draw("inpaint_128", model, tmp_path, prompt="a black cat", batch=2)
    image = np.asarray(Image.open(EXAMPLES / "scene_128.png").convert("RGB")).astype(int)
    mask = np.asarray(Image.open(EXAMPLES / "mask_128.png").convert("L")) > 0
    assert len(pictures) == 2
    assert (pictures[0] != pictures[1])[mask].any()
    for picture in pictures:
        assert picture.shape == (128, 128, 3)
        assert np.abs(picture[~mask] - image[~mask]).max() <= 1
    assert np.array_equal(pictures[0][~mask], pictures[1][~mask])


def test_super_resolution_makes_a_picture_of_128_pixels(model: Path, tmp_path: Path) -> None:
    paths = {"path": tmp_path / "enlarger", "checkpoint": tmp_path / "checkpoint"}
    training = set_options(model=model, **paths, steps=2, batch=1, times=2, channels=8)
    guidegraph("run", "workflows/train/super_resolution_128.yaml", "--out", tmp_path / "trained", *training)
    drawing = set_options(model=tmp_path / "enlarger", scenes=model, steps=2)
    guidegraph("run", "workflows/super_resolution_128.yaml", "--out", tmp_path / "drawn", *drawing)
    picture = np.asarray(Image.open(tmp_path / "drawn" / "image.png"))
    assert picture.shape == (128, 128, 3)
    assert picture.std() > 0


def test_maps_are_drawn_differently_for_each_seed(model: Path, tmp_path: Path) -> None:
    pictures = train_and_draw("semantic_to_image_128", model, tmp_path, batch=2)
    assert [picture.shape for picture in pictures] == [(128, 128, 3)] * 2
    assert (pictures[0] != pictures[1]).any()
    measuring = set_options(model=model, lora=tmp_path / "lora.safetensors", steps=2, count=2)
    guidegraph("run", "workflows/evaluate/semantic_to_image_128.yaml", "--out", tmp_path / "measured", *measuring)
    table = json.loads((tmp_path / "measured" / "table.json").read_text())
    assert table["pictures"] == ["drawn from the map", "the scenes themselves"]
    assert table["all objects found"][1] == 1
