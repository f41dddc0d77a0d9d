"""The detector: calls, and agreement of its logits with labels."""

from __future__ import annotations

import pytest
import torch

from guidegraph_scenes.detector import detect, finds
from guidegraph_scenes.scene_sprites import CLASSES, OBJECTS


def label(*names: str) -> torch.Tensor:
    return torch.tensor([[float(name in names) for name in CLASSES]])


def test_all_objects_of_the_label_must_be_detected_and_others_are_ignored() -> None:
    expected = label(OBJECTS[0], OBJECTS[5], "night", "snow")
    detected = [
        label(OBJECTS[0], OBJECTS[5], "night", "snow"),
        label(OBJECTS[0], OBJECTS[5], OBJECTS[7], "day", "snow"),
        label(OBJECTS[0], OBJECTS[7], "night", "snow"),
        label(OBJECTS[0], OBJECTS[5], "night", "sand"),
    ]
    actual = finds(torch.cat(detected) - 0.5, expected.expand(4, -1))
    assert actual.objects.tolist() == [True, True, False, True]
    assert actual.background.tolist() == [True, False, True, False]
    assert actual.recall.tolist() == [1.0, 1.0, 0.5, 1.0]


def test_the_recall_of_a_label_without_objects_is_1() -> None:
    seen = torch.cat([label("night", "snow"), label(OBJECTS[3], "night", "snow")])
    assert finds(seen - 0.5, label("night", "snow").expand(2, -1)).recall.tolist() == [1.0, 1.0]


def test_logits_that_are_nan_find_nothing() -> None:
    expected = label(OBJECTS[0], "night", "snow")
    actual = finds(torch.full_like(expected, float("nan")), expected)
    assert actual.objects.tolist() == [False]
    assert actual.recall.tolist() == [0.0]


def test_labels_of_another_kind_raise() -> None:
    with pytest.raises(ValueError, match=r"found shapes \(2, 10\) and \(2, 10\)"):
        finds(torch.zeros(2, 10), torch.zeros(2, 10))


def test_a_detector_is_called_on_pictures() -> None:
    assert torch.equal(detect(lambda image: image.mean((2, 3)), torch.ones(2, 3, 4, 4)), torch.ones(2, 3))
