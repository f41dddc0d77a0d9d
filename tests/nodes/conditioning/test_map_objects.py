"""The objects of semantic maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.conditioning.semantic import MapObjects, find_boxes
from guidegraph_scenes.scenes128.dataset import scene_128, scene_map
from guidegraph_scenes.scenes128.vocabulary import CLASSES, NAMES

CAR, RABBIT, GRASS = NAMES.index("car"), NAMES.index("rabbit"), CLASSES.index("grass")


def paint(*parts: tuple[int, slice, slice], size: int = 64) -> Tensor:
    """A one-hot map (1, 76, size, size) of grass with parts of classes: rows and columns."""
    classes = torch.full((1, size, size), GRASS)
    for kind, rows, columns in parts:
        classes[0, rows, columns] = kind
    return scene_map(classes)


def find_objects(semantic: Tensor, most: int = 4) -> list[tuple[int, list[float]]]:
    """The objects of a map with their boxes."""
    found = find_boxes(semantic, objects=len(NAMES), most=most)
    assert found.object.shape == (1, most)
    assert found.box.shape == (1, most, 4)
    return [(kind, box) for kind, box in zip(found.object[0].tolist(), found.box[0].tolist(), strict=True) if kind >= 0]


def list_kinds(semantic: Tensor, most: int = 4) -> list[int]:
    return [kind for kind, _ in find_objects(semantic, most)]


def test_objects_are_connected_parts_in_the_order_of_their_first_pixels() -> None:
    first, second = (CAR, slice(32, 48), slice(8, 24)), (CAR, slice(16, 24), slice(40, 64))
    assert find_objects(paint(first, second, (RABBIT, slice(0, 16), slice(0, 8)))) == [
        (RABBIT, [0, 0, 0.125, 0.25]),
        (CAR, [0.625, 0.25, 1, 0.375]),
        (CAR, [0.125, 0.5, 0.375, 0.75]),
    ]


def test_parts_that_wind_are_one_object_and_corners_do_not_connect() -> None:
    winding = [(CAR, slice(8, 56), slice(8 * n, 8 * n + 2)) for n in range(1, 7)]
    joints = [(CAR, slice(8, 10) if n % 2 else slice(54, 56), slice(8 * n, 8 * n + 8)) for n in range(1, 6)]
    assert list_kinds(paint(*winding, *joints)) == [CAR]
    corners = (CAR, slice(0, 16), slice(0, 16)), (CAR, slice(16, 32), slice(16, 32))
    assert list_kinds(paint(*corners)) == [CAR, CAR]


def test_specks_are_no_objects_and_an_empty_map_has_none() -> None:
    speck, least = (CAR, slice(0, 1), slice(0, 7)), (RABBIT, slice(8, 9), slice(0, 8))
    assert list_kinds(paint(speck, least)) == [RABBIT]
    found = find_boxes(paint(), objects=len(NAMES), most=2)
    assert found.object.tolist() == [[-1, -1]]
    assert found.box.tolist() == [[[-1] * 4] * 2]


def test_of_more_objects_the_largest_count() -> None:
    strips = [(CAR, slice(0, 8 * (n + 1)), slice(8 * n, 8 * n + 4)) for n in range(6)]
    heights = [box[3] for _, box in find_objects(paint(*strips), most=3)]
    assert heights == [0.5, 0.625, 0.75]
    assert list_kinds(paint(*strips), most=8) == [CAR] * 6


def test_all_classes_are_objects_unless_the_number_is_set() -> None:
    found = find_boxes(paint((CAR, slice(0, 32), slice(0, 64))), objects=None, most=2)
    assert found.object.tolist() == [[CAR, GRASS]]


def test_the_boxes_of_a_scene_lie_in_those_of_its_objects() -> None:
    drawn = scene_128(batch=16, seed=2, split="all")
    painted = find_boxes(scene_map(drawn.classes), objects=len(NAMES), most=4)
    for row in range(16):
        kinds = [kind for kind in drawn.object[row].tolist() if kind >= 0]
        assert {kind for kind in painted.object[row].tolist() if kind >= 0} == set(kinds)
        boxes = dict(zip(drawn.object[row].tolist(), drawn.box[row], strict=True))
        for kind, box in zip(painted.object[row].tolist(), painted.box[row], strict=True):
            if kinds.count(kind) == 1:
                assert (box[:2] >= boxes[kind][:2] - 1e-4).all()
                assert (box[2:] <= boxes[kind][2:] + 1e-4).all()


@pytest.mark.parametrize(("dtype", "box"), [(torch.bfloat16, torch.bfloat16), (torch.int64, torch.float32)])
def test_boxes_have_the_dtype_of_a_map_of_floats(dtype: torch.dtype, box: torch.dtype) -> None:
    painted = paint((CAR, slice(16, 32), slice(16, 48))).to(dtype)
    found: MapObjects = find_boxes(painted, objects=len(NAMES), most=1)
    assert (found.object.dtype, found.box.dtype) == (torch.int64, box)
    assert found.box.tolist() == [[[0.25, 0.25, 0.75, 0.5]]]


@pytest.mark.parametrize(
    ("semantic", "message"),
    [
        (torch.zeros(1, 8, 8), r"semantic: expected an array \(B, K, H, W\)"),
        (torch.full((1, 76, 8, 8), float("nan")), "semantic: expected finite values; found NaN or an infinity"),
    ],
)
def test_other_values_are_refused(semantic: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_boxes(semantic, objects=None, most=1)
