"""The shipped models of 128 pixels: a layout has what a prompt asks for, and a picture has what a layout says."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import torch

from guidegraph import load_workflow
from guidegraph.nodes.models.model_nodes import load_model
from guidegraph_scenes.detector import detect_boxes
from guidegraph_scenes.scene_eval import intersection_over_union
from guidegraph_scenes.scenes128.vocabulary import NAMES
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows"
BATCH, FEW = 8, 2
LEFT, RIGHT = (0.0625, 0.5625, 0.375, 0.875), (0.625, 0.5625, 0.9375, 0.875)


@cache
def list_layouts(prompt: str) -> list[list[dict[str, Any]]]:
    """The objects of eight layouts of a prompt."""
    table = load_workflow(WORKFLOWS / "layout_128.yaml", cache="off").run(prompt=prompt, batch=BATCH)["layout"]
    layouts = defaultdict(list)
    for row in table.records():
        layouts[row["picture"]].append(row)
    return [layouts[picture] for picture in range(BATCH)]


def test_a_layout_has_the_number_and_the_colour_that_a_prompt_asks_for() -> None:
    layouts = list_layouts("three blue cats on the grass")
    right = [[(row["object"], row["colour"]) for row in layout] == 3 * [("cat", "blue")] for layout in layouts]
    assert sum(right) >= 6


def test_a_layout_has_the_order_that_a_prompt_asks_for() -> None:
    for prompt, first in (("a tiger to the left of a car", "tiger"), ("a tiger to the right of a car", "car")):
        layouts = list_layouts(prompt)
        assert sum(min(layout, key=lambda row: row["left"])["object"] == first for layout in layouts) >= 6
        assert sum({row["object"] for row in layout} == {"tiger", "car"} for layout in layouts) >= 6


def test_a_layout_has_in_front_what_a_prompt_says() -> None:
    """What is in front reaches lower."""
    for prompt, front in (("a tiger in front of a car", "tiger"), ("a tiger behind a car", "car")):
        layouts = list_layouts(prompt)
        assert sum(max(layout, key=lambda row: row["bottom"])["object"] == front for layout in layouts) >= 6


def test_the_boxes_of_a_layout_have_the_sizes_of_objects_and_stand_on_the_ground() -> None:
    """Two objects of normal size have a longer side of 40 of 128 pixels."""
    rows = [row for layout in list_layouts("a tiger to the left of a car") for row in layout]
    longer = [max(row["right"] - row["left"], row["bottom"] - row["top"]) for row in rows]
    assert sum(0.25 < side < 0.375 for side in longer) >= 0.75 * len(rows)
    assert sum(0.6 < row["bottom"] < 0.98 for row in rows) >= 0.75 * len(rows)


def test_a_picture_has_the_objects_of_a_layout_where_it_places_them() -> None:
    """The prompt names both and no place: the layout alone says which is where."""
    detector = load_model(path=WORKFLOWS / "models" / "detector_128").detector
    workflow = load_workflow(WORKFLOWS / "layout_to_image_128.yaml", cache="off")
    prompt, at_place = "a penguin and a red car on grass under a clear sky", 0
    for objects in (["a red car", "a penguin"], ["a penguin", "a red car"]):
        image = workflow.run(prompt=prompt, objects=objects, boxes=[LEFT, RIGHT], steps=10, batch=FEW)["image"]
        boxes = detect_boxes(detector, image)
        for words, place in zip(objects, (LEFT, RIGHT), strict=True):
            kind = NAMES.index(words.split()[-1])
            at_place += sum(is_there(boxes, row, kind, place) for row in range(FEW))
    assert at_place >= 4, "of 8; 6 with the layout, and at most 2 without"


def is_there(boxes: Any, picture: int, kind: int, place: tuple[float, ...]) -> bool:
    """Whether the detector finds an object of a kind at a place."""
    matches: torch.Tensor = boxes.box[picture][boxes.object[picture] == kind]
    return any(intersection_over_union(box.tolist(), place) > 0.4 for box in matches)
