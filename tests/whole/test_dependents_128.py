"""What depends on the model of scenes of 128 pixels: its workflows show what their input says, by the detector."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.nodes.conditioning.mask import load_mask
from guidegraph.nodes.images.image import load_image
from guidegraph.nodes.models.model_nodes import load_model
from guidegraph_scenes.detector import detect_boxes
from guidegraph_scenes.scenes128.vocabulary import NAMES
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows"
EXAMPLES = WORKFLOWS / "data" / "examples"


def draw(name: str, **settings: Any) -> torch.Tensor:
    image: torch.Tensor = load_workflow(WORKFLOWS / f"{name}.yaml", cache="off").run(**settings)["image"]
    return image


def list_objects(image: torch.Tensor) -> list[list[str]]:
    """The names of the objects that the detector finds in each picture, sorted."""
    boxes = detect_boxes(load_model(path=WORKFLOWS / "models" / "detector_128").detector, image)
    return [sorted(NAMES[kind] for kind in kinds if kind >= 0) for kinds in boxes.object.tolist()]


def measure(name: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """The rows of an evaluation, by the pictures that they are about."""
    table = load_workflow(WORKFLOWS / "evaluate" / f"{name}.yaml", cache="off").run(**settings)["table"]
    return {row["pictures"]: row for row in table.records()}


def test_a_hidden_castle_comes_back_and_the_rest_stays() -> None:
    pictures = draw("inpaint_128", batch=2)
    assert list_objects(pictures) == [["cactus", "castle"]] * 2
    outside = load_mask(path=EXAMPLES / "mask_128.png") == 0
    change = (pictures - load_image(path=EXAMPLES / "scene_128.png")).abs() * outside
    assert float(change.max()) * 127.5 <= 1


def test_what_is_painted_is_what_was_named() -> None:
    (objects,) = list_objects(draw("inpaint_128", objects=["a red car"], prompt="a red car and a cactus"))
    assert objects == ["cactus", "car"]


def test_the_classifier_chooses_the_sky_and_the_prompt_the_objects() -> None:
    pictures = draw("text_and_classifier_128", sky=[0, 3], prompt=["a flamingo and a house on the grass"] * 2, batch=2)
    day, night = pictures[:, :, :32].mean((1, 2, 3)).tolist()
    assert night < day - 0.5
    assert list_objects(pictures) == [["flamingo", "house"]] * 2


def test_variations_have_the_objects_of_the_picture_and_differ() -> None:
    pictures = draw("image_to_image_128", batch=4)
    assert sum("castle" in objects for objects in list_objects(pictures)) >= 3
    assert (pictures[0] - pictures[1]).abs().mean() > 0.02


@pytest.mark.slow
def test_hidden_objects_come_back_where_a_layout_tells_them() -> None:
    rows = measure("inpaint_128", count=24)
    assert rows["filled with the caption and a layout"]["all objects found"] >= 0.7
    assert rows["mid-grey holes"]["all objects found"] == 0
    assert all(row["shuffled"] <= 0.1 for row in rows.values())


@pytest.mark.slow
def test_variations_are_nearer_to_their_picture_than_its_layout_alone() -> None:
    rows = measure("image_to_image_128", count=24)
    varied, told = rows["variations"], rows["drawn from the layout alone"]
    assert varied["PSNR to the scene (dB)"] > told["PSNR to the scene (dB)"] + 2
    assert varied["all objects found"] >= 0.25
    assert varied["shuffled"] <= 0.1


@pytest.mark.slow
def test_super_resolution_is_above_bicubic_enlargement() -> None:
    enlarged = measure("super_resolution_128", count=24)["super_resolution_128.yaml"]
    assert enlarged["over bicubic"] >= 0.5
    assert enlarged["PSNR shuffled"] < 15
