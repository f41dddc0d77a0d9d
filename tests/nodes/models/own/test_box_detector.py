"""The detector with boxes: its targets, its loss, and reading objects from its maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from guidegraph.nodes.models.own.box_detector import (
    BoxDetector,
    BoxDetectorConfig,
    ObjectMaps,
    box_detector_loss,
    find_objects,
    make_targets,
)
from guidegraph.nodes.models.store import load_part, save_parts
from guidegraph_scenes.scenes128.dataset import scenes_128

UNNAMED = 11


def ideal_maps(object: Tensor, colour: Tensor, box: Tensor) -> ObjectMaps:
    """Maps that say exactly what the rows say."""
    targets = make_targets(object, colour, box, (64, 32, 32), UNNAMED)
    batch = len(object)
    geometry, colours = torch.zeros(batch, 4, 32, 32), torch.zeros(batch, UNNAMED + 1, 32, 32)
    picture, row, column = targets.cells.unbind(1)
    geometry[picture, :, row, column] = targets.geometry
    colours[picture, targets.colour, row, column] = 20.0
    return ObjectMaps(torch.logit(targets.heat.clamp(1e-6, 1 - 1e-6)), colours, geometry)


def test_objects_of_scenes_come_back_from_ideal_maps() -> None:
    scenes = scenes_128(seed=3, batch=24, split="all").batches[0]
    detected = find_objects(ideal_maps(scenes.object, scenes.colour, scenes.box), threshold=0.3, most=16, overlap=0.5)
    for i in range(24):
        expected = rows(scenes.object[i], scenes.colour[i], scenes.box[i])
        actual = rows(detected.object[i], detected.colour[i], detected.box[i])
        assert [row[:2] for row in actual] == [row[:2] for row in expected]
        torch.testing.assert_close(
            torch.tensor([row[2:] for row in actual]), torch.tensor([row[2:] for row in expected]), rtol=0, atol=1e-5
        )


def rows(object: Tensor, colour: Tensor, box: Tensor) -> list[tuple[float, ...]]:
    """The objects of one picture, sorted."""
    return sorted((int(k), int(c), *map(float, b)) for k, c, b in zip(object, colour, box, strict=True) if k >= 0)


def test_the_loss_is_that_of_the_papers() -> None:
    """Against Zhou et al. 2019, eq. 1, written out for each cell, and one object's L1 and cross-entropy."""
    torch.manual_seed(0)
    object, colour = torch.tensor([[2, -1]]), torch.tensor([[1, -1]])
    box = torch.tensor([[[0.1, 0.2, 0.4, 0.8], [-1.0] * 4]])
    targets = make_targets(object, colour, box, (5, 8, 8), 3)
    maps = ObjectMaps(torch.randn(1, 5, 8, 8), torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8))
    p, y = torch.sigmoid(maps.kinds), targets.heat
    cells = torch.where(y == 1, (1 - p) ** 2 * p.log(), (1 - y) ** 4 * p**2 * (1 - p).log())
    row, column = 4, 2
    assert targets.cells.tolist() == [[0, row, column]]
    assert y[0, 2, row, column] == 1
    assert (y == 1).sum() == 1
    expected_geometry = torch.tensor([0.25 * 8 - 2.5, 0.5 * 8 - 4.5, torch.tensor(2.4).log(), torch.tensor(4.8).log()])
    torch.testing.assert_close(targets.geometry[0], expected_geometry)
    expected = -cells.sum()
    expected += 0.3 * (maps.geometry[0, :, row, column] - expected_geometry).abs().sum()
    expected += 0.5 * F.cross_entropy(maps.colours[0, :, row, column][None], torch.tensor([1]))
    torch.testing.assert_close(box_detector_loss(maps, targets), expected)


def test_ideal_maps_have_a_small_loss_and_empty_scenes_have_one() -> None:
    scenes = scenes_128(seed=3, batch=4, split="all").batches[0]
    targets = make_targets(scenes.object, scenes.colour, scenes.box, (64, 32, 32), UNNAMED)
    ideal = ideal_maps(scenes.object, scenes.colour, scenes.box)
    wrong = ideal._replace(kinds=-ideal.kinds)
    assert box_detector_loss(ideal, targets) < 0.2 < 10 < box_detector_loss(wrong, targets)
    empty = make_targets(torch.full((4, 4), -1), scenes.colour, scenes.box, (64, 32, 32), UNNAMED)
    assert len(empty.cells) == 0
    assert box_detector_loss(ideal, empty).isfinite()


def test_of_overlapping_objects_of_one_kind_the_better_stays() -> None:
    kinds = torch.full((1, 3, 8, 8), -20.0)
    geometry = torch.full((1, 4, 8, 8), 4.0).log()
    geometry[:, :2] = 0
    kinds[0, 0, 2, 2], kinds[0, 0, 2, 4], kinds[0, 1, 2, 5], kinds[0, 0, 6, 6] = 3.0, 2.0, 1.0, 0.5
    maps = ObjectMaps(kinds, torch.zeros(1, 4, 8, 8), geometry)
    strict = find_objects(maps, threshold=0.3, most=5, overlap=0.3)
    assert strict.object[0].tolist() == [0, 1, 0, -1, -1]
    assert strict.score[0].tolist() == pytest.approx([0.9526, 0.7311, 0.6225, 0, 0], abs=1e-4)
    assert strict.box[0, 0].tolist() == pytest.approx([0.5 / 8, 0.5 / 8, 4.5 / 8, 4.5 / 8])
    assert (strict.box[0, 3:] == -1).all()
    loose = find_objects(maps, threshold=0.3, most=5, overlap=0.4)
    assert loose.object[0].tolist() == [0, 0, 1, 0, -1]
    assert find_objects(maps, threshold=0.7, most=5, overlap=0.4).object[0].tolist() == [0, 0, 1, -1, -1]


def test_a_detector_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = BoxDetector(BoxDetectorConfig(channels=8)).eval()
    save_parts(tmp_path, {"detector": detector}, dtype=torch.float32)
    loaded = load_part(tmp_path, "detector", device=torch.device("cpu"), dtype=torch.float32)
    image = torch.rand(2, 3, 128, 128) * 2 - 1
    for actual, expected in zip(loaded(image), detector(image), strict=True):
        torch.testing.assert_close(actual, expected)
    assert detector(image).kinds.shape == (2, 64, 32, 32)


@pytest.mark.slow
def test_a_small_detector_learns_a_batch_by_heart() -> None:
    scenes = scenes_128(seed=3, batch=4, split="all").batches[0]
    torch.manual_seed(0)
    detector = BoxDetector(BoxDetectorConfig(channels=16)).train()
    optimizer = torch.optim.Adam(detector.parameters(), 3e-3)
    targets = make_targets(scenes.object, scenes.colour, scenes.box, (64, 32, 32), UNNAMED)
    for _ in range(120):
        loss = box_detector_loss(detector(scenes.image), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        detected = find_objects(detector(scenes.image), threshold=0.3, most=16, overlap=0.5)
    for i in range(4):
        expected = rows(scenes.object[i], scenes.colour[i], scenes.box[i])
        actual = rows(detected.object[i], detected.colour[i], detected.box[i])
        assert [row[:2] for row in actual] == [row[:2] for row in expected]
