"""Layouts of the scenes of 128 pixels: as samples, as maps, by hand and as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.graph.errors import WorkflowError
from guidegraph_scenes.scenes128.dataset import object_share, scene_128, scene_map, scenes_128
from guidegraph_scenes.scenes128.layout_sample import (
    CHANNELS,
    MAP_CHANNELS,
    Boxes,
    decode_layout,
    encode_layout,
    layouts_128,
    list_layout,
    map_layout,
    place_layout,
)
from guidegraph_scenes.scenes128.vocabulary import COLOURS, NAMES

CAR, RABBIT = NAMES.index("car"), NAMES.index("rabbit")
RED, WHITE = COLOURS.index("red"), COLOURS.index("white")
PLACE = """guidegraph: 1
params: {objects: {default: [car], type: "list[str]"}}
nodes: {layout: {use: layout.place, in: {objects: params.objects}, with: {boxes: [[0, 0, 1, 1]]}}}
outputs: {layout: layout}
"""


def encode(boxes: Boxes) -> Tensor:
    return encode_layout(boxes.object, boxes.box, boxes.colour)


def scenes(batch: int = 16, seed: int = 1) -> Boxes:
    drawn = scene_128(batch=batch, seed=seed, split="all")
    return Boxes(drawn.object, drawn.colour, drawn.box)


def test_a_layout_has_the_objects_of_its_scene_in_the_order_of_their_numbers() -> None:
    boxes = scenes()
    layout = encode(boxes)
    assert layout.shape == (16, CHANNELS, 1, 4)
    back = decode_layout(layout)
    for row in range(16):
        expected = sorted(
            (int(kind), round(float(box[0]), 4), int(colour), [round(float(edge), 4) for edge in box])
            for kind, colour, box in zip(boxes.object[row], boxes.colour[row], boxes.box[row], strict=True)
            if kind >= 0
        )
        count = len(expected)
        assert back.object[row].tolist() == [kind for kind, *_ in expected] + [-1] * (4 - count)
        assert back.colour[row].tolist() == [colour for _, _, colour, _ in expected] + [-1] * (4 - count)
        torch.testing.assert_close(
            back.box[row, :count], torch.tensor([box for *_, box in expected]), atol=1e-4, rtol=0
        )
        assert (back.box[row, count:] == -1).all()


def test_the_order_of_the_objects_does_not_change_a_layout() -> None:
    boxes = scenes()
    turned = Boxes(*(values.flip(1) for values in boxes))
    assert torch.equal(encode(turned), encode(boxes))


@given(noise=st.floats(0, 0.45), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_layout_with_some_noise_has_the_same_objects(noise: float, seed: int) -> None:
    layout = encode(scenes(4))
    moved = layout + 2 * noise * (2 * torch.rand(layout.shape, generator=torch.Generator().manual_seed(seed)) - 1)
    assert torch.equal(decode_layout(moved).object, decode_layout(layout).object)
    assert torch.equal(decode_layout(moved).colour, decode_layout(layout).colour)
    torch.testing.assert_close(decode_layout(moved).box, decode_layout(layout).box, atol=0.67 * noise + 1e-4, rtol=0)


def test_a_map_covers_the_objects_of_a_scene_where_they_are() -> None:
    drawn = scene_128(batch=16, seed=2, split="all")
    shares = map_layout(encode(Boxes(drawn.object, drawn.colour, drawn.box)))
    assert shares.shape == (16, MAP_CHANNELS, 16, 16)
    covered = shares[:, : len(NAMES)].amax(1, keepdim=True)
    assert (covered >= object_share(drawn.classes, size=16) - 1e-4).all()
    assert (shares[:, : len(NAMES)] >= scene_map(drawn.classes, size=16)[:, : len(NAMES)] - 1e-4).all()


def place(objects: list[str], boxes: list[tuple[float, float, float, float]]) -> Tensor:
    return map_layout(place_layout(objects=objects, boxes=boxes), size=8)[0]


def test_a_map_says_what_is_where_and_which_box_is_in_front() -> None:
    shares = place(["a red car", "bunny"], [(0.0, 0.5, 0.5, 0.75), (0.25, 0.5, 0.5, 1.0)])
    box = shares[-5:]
    expected = torch.zeros(8, 8)
    expected[4:6, :4] = 1
    assert torch.equal(shares[CAR], expected)
    assert torch.equal(shares[len(NAMES) + RED], expected)
    assert shares[RABBIT, 4:, 2:4].min() == 1
    assert shares[len(NAMES) + WHITE].sum() == 8
    # The car alone, then the rabbit in front of it, whose lower edge is lower; then neither.
    assert box[:, 4, 0].tolist() == pytest.approx([1, -0.75, -0.5, 1, 0.5])
    assert box[:, 4, 2].tolist() == pytest.approx([1, -0.5, -0.75, 0.5, 1])
    assert box[:, 0, 0].tolist() == [0] * 5


def test_a_box_in_front_is_described_where_it_covers_a_quarter_of_a_cell() -> None:
    """Of a lower box that covers 0.2 of a cell and a higher one that covers 0.6, the second is described."""
    shares = place(["car", "rabbit"], [(0.0, 0.5, 0.025, 1.0), (0.05, 0.5, 0.125, 0.75)])
    assert shares[CAR, 4, 0] == pytest.approx(0.2)
    assert shares[RABBIT, 4, 0] == pytest.approx(0.6)
    assert shares[-5:, 4, 0].tolist() == pytest.approx([0.6, 0.6 * -2 / 3, 0.6 * -0.5, 0.6 * 0.15, 0.6 * 0.5])
    assert not shares[-5:, 6, 0].any()


def test_a_box_thinner_than_a_pixel_is_as_wide_as_one() -> None:
    layout = place_layout(objects=["car", "dog"], boxes=[(0.5, 0.5, 0.5001, 0.75), (0.0, 0.5, 0.25, 0.75)])
    assert torch.isfinite(map_layout(layout)).all()
    assert map_layout(layout).abs().max() <= 1


def test_cells_that_a_box_covers_in_part_have_its_share() -> None:
    shares = place(["car"], [(0.0625, 0.5, 0.25, 0.75)])
    assert shares[CAR, 4, :3].tolist() == [0.5, 1, 0]


def test_a_layout_without_objects_says_nothing() -> None:
    layout = place_layout()
    assert layout.shape == (1, CHANNELS, 1, 4)
    assert not map_layout(layout).any()
    assert list_layout(layout).rows == 0


def test_a_table_lists_the_objects() -> None:
    layout = place_layout(objects=["a rocket", "red car"], boxes=[(0.5, 0.25, 0.75, 0.5), (0.0, 0.5, 0.5, 0.75)])
    assert list_layout(layout).records() == [
        {"picture": 0, "object": "rocket", "colour": None, "left": 0.5, "top": 0.25, "right": 0.75, "bottom": 0.5},
        {"picture": 0, "object": "car", "colour": "red", "left": 0.0, "top": 0.5, "right": 0.5, "bottom": 0.75},
    ]


@pytest.mark.parametrize(
    ("objects", "boxes", "message"),
    [
        (["a blue rabit"], [(0, 0, 1, 1)], "'a blue rabit' is not one object.*did you mean 'rabbit'"),
        (["a big red car"], [(0, 0, 1, 1)], "'a big red car' is not one object.*did you mean 'car'"),
        (["red"], [(0, 0, 1, 1)], "'red' is not one object: expected an article or none, one of red, orange"),
        (["cars"], [(0, 0, 1, 1)], "'cars' is not one object.*did you mean 'car'"),
        ([""], [(0, 0, 1, 1)], "'' is not one object"),
        (["car"], [(0, 0, 1)], r"found \[0, 0, 1\]"),
        (["car"], [(0.5, 0, 0.5, 1)], r"the box of 'car' is \[left, top, right, bottom\].*found \[0.5, 0, 0.5, 1\]"),
        (["car"], [(0, 0, 1, 1.5)], "from 0 to 1 of the picture's side"),
        (["car", "dog"], [(0, 0, 1, 1)], "found 2 objects and 1 box$"),
        (["car"], [], "found 1 object and 0 boxes$"),
        (["car"] * 5, [(0, 0, 1, 1)] * 5, "expected a list of up to 4 objects"),
        ("car", [(0, 0, 1, 1)] * 3, "expected a list of up to 4 objects"),
    ],
)
def test_what_cannot_be_placed_is_named(
    objects: list[str], boxes: list[tuple[float, float, float, float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        place_layout(objects=objects, boxes=boxes)


def test_a_workflow_with_other_boxes_than_objects_is_refused_before_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "place.yaml"
    path.write_text(PLACE)
    workflow = load_workflow(path)
    message = "place.yaml:3:.*unfit-port: layout.place: setting 'boxes': .* found 2 objects and 1 box"
    with pytest.raises(WorkflowError, match=message):
        workflow.run(objects=["car", "dog"])
    assert workflow.run()["layout"].shape == (1, CHANNELS, 1, 4)


def test_objects_are_placed_in_the_box_of_a_mask() -> None:
    box = torch.tensor([[[0.25, 0.5, 0.75, 1.0]]])
    assert torch.equal(
        place_layout(box, objects=["car"]), place_layout(objects=["car"], boxes=[(0.25, 0.5, 0.75, 1.0)])
    )
    halves = [(0.25, 0.5, 0.5, 1.0), (0.5, 0.5, 0.75, 1.0)]
    objects = ["a car", "a dog"]
    assert torch.equal(place_layout(box, objects=objects), place_layout(objects=objects, boxes=halves))
    assert torch.equal(place_layout(box), place_layout())
    assert torch.equal(place_layout(torch.full((1, 1, 4), -1.0)), place_layout())


@pytest.mark.parametrize(
    ("box", "boxes", "message"),
    [
        (torch.full((1, 1, 4), -1.0), [], "the mask is empty"),
        (torch.zeros(2, 1, 4), [], r"expected one box, \(1, 1, 4\), as of mask.bounds; found \(2, 1, 4\)"),
        (torch.zeros(1, 1, 4), [(0, 0, 1, 1)], "the port 'box' or the setting 'boxes'; found both, and 1 box$"),
    ],
)
def test_other_boxes_of_masks_are_an_error(box: Tensor, boxes: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place_layout(box, objects=["car"], boxes=boxes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"object": torch.zeros(2, 3, dtype=torch.int64)},
            r"expected 'object' and 'colour' \(B, N\), N ≥ 1, and 'box'",
        ),
        ({"object": torch.full((2, 4), 64)}, "expected 'object' from -1 to 63"),
        ({"colour": torch.full((2, 4), 11)}, "expected 'colour' from -1 to 10"),
        ({"object": torch.zeros(2, 0, dtype=torch.int64)}, "expected 'object' and 'colour'"),
        ({"box": torch.full((2, 4, 4), 1.5)}, "found one that is not inside the picture"),
        ({"box": torch.full((2, 4, 4), torch.nan)}, "found one that is not inside the picture"),
        ({"box": torch.tensor([0.5, 0.5, 0.25, 0.75]).expand(2, 4, 4)}, "or has its edges in another order"),
        ({"box": torch.ones(2, 4, 4, dtype=torch.int64)}, "expected 'box' of floats, from 0 to 1; found torch.int64"),
    ],
)
def test_other_objects_are_an_error(changes: dict[str, Tensor], message: str) -> None:
    values = {"object": torch.zeros(2, 4, dtype=torch.int64), "colour": torch.zeros(2, 4, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        encode_layout(**{**values, "box": torch.zeros(2, 4, 4), **changes})


def test_samples_of_another_shape_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"expected layouts \(B, 81, 1, N\), N ≥ 1, as of layout.encode; found \(1, 8, 16, 16\)"
    ):
        map_layout(torch.zeros(1, 8, 16, 16))


def test_layouts_are_those_of_the_scenes_with_their_captions() -> None:
    options = {"seed": 3, "everyday": 0.4, "unknown": 0.2}
    drawn, batch = scenes_128(batch=4, **options).batches[1], layouts_128(batch=4, **options).batches[1]  # type: ignore[arg-type]
    assert batch.caption == drawn.caption
    assert all(torch.equal(getattr(batch, name), getattr(drawn, name)) for name in ("object", "colour", "box"))


def test_a_layout_without_colours_is_that_of_objects_that_have_none() -> None:
    boxes = scenes()
    none = torch.full_like(boxes.colour, -1)
    assert torch.equal(encode_layout(boxes.object, boxes.box), encode_layout(boxes.object, boxes.box, none))
