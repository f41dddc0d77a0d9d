"""Scenes in depth: an object in front of another hides a part of it, and neighbours are near each other."""

from __future__ import annotations

import numpy as np
import pytest

from guidegraph_scenes.scenes128.artwork import mask_of
from guidegraph_scenes.scenes128.captions import choose_wording
from guidegraph_scenes.scenes128.layout import LARGEST_COVER, LEAST_HIDDEN, NEAR
from guidegraph_scenes.scenes128.scene import Scene128, compose_scene
from guidegraph_scenes.scenes128.vocabulary import IN_FRONT_OF

NEIGHBOURS = (" next to ", " beside ", " close to ", " near ", "side by side", "by the side of")


@pytest.fixture(scope="module")
def scenes() -> list[Scene128]:
    wording = choose_wording("train", everyday=0.7)._replace(relation=0.2)
    return [compose_scene(21, index, wording=wording) for index in range(1200)]


def measure_hidden_part(scene: Scene128) -> float:
    """The part of the second group's object that is not to be seen, counted in the picture."""
    row = next(row for row, placement in enumerate(scene.layout.placements) if placement.group == 1)
    back = scene.layout.placements[row]
    return 1 - int((scene.owner == row + 1).sum()) / int(mask_of(back.sprite, back.longer).sum())


def test_an_object_in_front_hides_a_part_of_the_other(scenes: list[Scene128]) -> None:
    hidden = np.array([measure_hidden_part(scene) for scene in scenes if scene.content.relation == IN_FRONT_OF])
    assert len(hidden) > 80
    assert hidden.max() <= LARGEST_COVER + 0.01
    assert (hidden >= LEAST_HIDDEN - 0.01).mean() > 0.95


def test_captions_call_neighbours_only_what_is_near(scenes: list[Scene128]) -> None:
    named = [s for s in scenes if len(s.content.groups) == 2 and any(words in s.caption for words in NEIGHBOURS)]
    assert len(named) >= 10
    for scene in named:
        first, second = ([p for p in scene.layout.placements if p.group == group] for group in (0, 1))
        gaps = [max(b.left - a.left - a.width, a.left - b.left - b.width) for a in first for b in second]
        assert min(gaps) <= NEAR, scene.caption
