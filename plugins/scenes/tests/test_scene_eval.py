"""SceneEval: the tasks are what they say, and judgements follow its rules."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.graph.node import get_spec
from guidegraph.nodes.models.own.box_detector import BoxDetector, BoxDetectorConfig, Detector, DetectorConfig
from guidegraph_lab.metrics.metrics import wilson
from guidegraph_scenes.detector import MOST_OBJECTS, detect_boxes
from guidegraph_scenes.scene_eval import (
    judge_scenes,
    lies,
    scene_eval_scores,
    scene_eval_tasks,
)
from guidegraph_scenes.scenes128 import content
from guidegraph_scenes.scenes128 import vocabulary as words
from guidegraph_scenes.scenes128.artwork import ARTWORKS, load_artwork, palette_of
from guidegraph_scenes.scenes128.content import ARTWORK
from guidegraph_scenes.scenes128.tasks import (
    BINDING,
    CATEGORIES,
    COLOUR,
    COUNTING,
    POSITION,
    SINGLE,
    TWO,
    SceneTask,
    is_look_alike,
    list_options,
    make_task,
)

ALL = range(len(CATEGORIES))


@pytest.fixture(scope="module")
def tasks() -> dict[int, list[SceneTask]]:
    return {category: [make_task(0, category, n, "held_out") for n in range(100)] for category in ALL}


def columns(items: list[SceneTask]) -> Tensor:
    return torch.tensor([task.columns for task in items])


def objects(items: list[SceneTask], field: str) -> Tensor:
    """A field of the objects of real scenes, from back to front; its order does not matter to these tasks."""
    return torch.stack([torch.from_numpy(getattr(task.scene.objects, field).copy()) for task in items])


def judge(items: list[SceneTask], **changed: Tensor) -> list[bool]:
    fields = {name: changed.get(name, objects(items, name)) for name in ("object", "colour", "box")}
    right: list[bool] = judge_scenes(**fields, task=columns(items)).tolist()
    return right


@pytest.mark.parametrize("category", ALL, ids=CATEGORIES)
def test_the_objects_of_a_real_scene_are_what_its_task_asks_for(
    tasks: dict[int, list[SceneTask]], category: int
) -> None:
    assert all(judge(tasks[category]))


@pytest.mark.parametrize("category", ALL, ids=CATEGORIES)
def test_those_of_other_scenes_are_not(tasks: dict[int, list[SceneTask]], category: int) -> None:
    others = tasks[category][1:] + tasks[category][:1]
    fields = {name: objects(others, name) for name in ("object", "colour", "box")}
    assert sum(judge(tasks[category], **fields)) <= 1


def test_tasks_ask_for_what_is_held_out(tasks: dict[int, list[SceneTask]]) -> None:
    for category in (TWO, POSITION, BINDING):
        for task in tasks[category]:
            assert content.is_held_out_pair(task.columns[1], task.columns[4])
    assert all(content.is_held_out_count(task.columns[1], task.columns[2]) for task in tasks[COUNTING])
    assert all(content.is_held_out_colour(task.columns[1], task.columns[3]) for task in tasks[COLOUR])
    for task in tasks[BINDING]:
        _, first, _, colour, second, _, other_colour, _ = task.columns
        assert colour != other_colour
        assert not content.is_held_out_colour(first, colour)
        assert not content.is_held_out_colour(second, other_colour)


def test_tasks_of_a_category_differ_as_long_as_there_are_others(tasks: dict[int, list[SceneTask]]) -> None:
    assert [len(list_options(category, "held_out")) for category in ALL] == [64, 320, 32, 127, 320, 320]
    for category in (TWO, COLOUR, POSITION, BINDING):
        assert len({(t.columns[1], t.columns[3], t.columns[4]) for t in tasks[category]}) == 100
    assert len({task.columns[1] for task in tasks[SINGLE]}) == 64
    assert len({task.columns[1:3] for task in tasks[COUNTING]}) == 32
    assert len({task.scene.caption for task in tasks[COUNTING]}) > 90


def test_prompts_name_what_their_tasks_ask_for(tasks: dict[int, list[SceneTask]]) -> None:
    for category in ALL:
        for task in tasks[category]:
            caption = task.scene.caption.lower()
            for kind, colour in (task.columns[1:4:2], task.columns[4:7:2]):
                if kind < 0:
                    continue
                nouns = [words.OBJECTS[kind].name, words.OBJECTS[kind].plural]
                nouns += [noun for pair in words.OBJECTS[kind].synonyms for noun in pair]
                assert any(noun in caption for noun in nouns)
                if colour >= 0:
                    synonyms = {"grey": ("grey", "gray"), "purple": ("purple", "violet")}
                    name = words.COLOURS[colour]
                    assert any(word in caption for word in synonyms.get(name, (name,)))
    positions = [task.columns[7] for task in tasks[POSITION]]
    assert all(positions.count(relation) >= 10 for relation in (words.LEFT_OF, words.ABOVE, words.IN_FRONT_OF))


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_split_has_only_its_own_compositions(split: Any) -> None:
    for category in set(ALL) - {SINGLE}:
        for items in list_options(category, split):
            groups = [(item.object, item.number, item.colour) for item in items]
            assert content.is_held_out(groups) == (split == "held_out")
            assert all(a.object != b.object for a, b in combinations(items, 2))
    assert len(list_options(TWO, "all")) == 64 * 63 // 2


def test_batches_have_one_category_each_and_tasks_do_not_depend_on_them() -> None:
    small, large = scene_eval_tasks(count=4, batch=2).batches, scene_eval_tasks(count=4, batch=4).batches
    assert len(small) == 12
    assert len(large) == 6
    for number, tasks in enumerate(large):
        halves = small[2 * number], small[2 * number + 1]
        assert tasks.task[:, 0].tolist() == [number] * 4
        assert list(tasks.prompt) == [*halves[0].prompt, *halves[1].prompt]
        assert torch.equal(tasks.image, torch.cat([half.image for half in halves]))
        assert torch.equal(tasks.task, torch.cat([half.task for half in halves]))
    with pytest.raises(ValueError, match="100 prompts in a category do not make batches of 30"):
        scene_eval_tasks(batch=30)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_detector_takes_pictures_of_another_dtype(dtype: torch.dtype) -> None:
    detector = BoxDetector(BoxDetectorConfig(channels=8)).eval().to(dtype)
    boxes = detect_boxes(detector, torch.zeros(1, 3, 32, 32), most=5)
    assert boxes.box.dtype == boxes.score.dtype == torch.float32
    assert boxes.box.shape == (1, 5, 4)


def verdict(task: list[int], rows: list[tuple[int, int, tuple[float, ...]]]) -> bool:
    """Whether objects (kind, colour, box), best first, are what a task asks for."""
    right = judge_scenes(
        torch.tensor([[row[0] for row in rows]]),
        torch.tensor([[row[1] for row in rows]]),
        torch.tensor([[row[2] for row in rows]]),
        torch.tensor([task]),
    )
    return bool(right)


BOX = (0.1, 0.1, 0.3, 0.3)
OTHER_BOX = (0.5, 0.1, 0.7, 0.3)
NONE = (-1, -1, (-1.0,) * 4)


def test_counting_takes_exactly_that_number_and_ignores_other_kinds() -> None:
    task = [COUNTING, 5, 2, -1, -1, -1, -1, 0]
    assert verdict(task, [(5, 0, BOX), (7, 0, BOX), (5, 0, BOX), NONE])
    assert not verdict(task, [(5, 0, BOX), (7, 0, BOX), NONE])
    assert not verdict(task, [(5, 0, BOX), (5, 0, BOX), (5, 0, BOX)])


def test_the_best_detection_has_the_colour() -> None:
    task = [COLOUR, 5, 1, 3, -1, -1, -1, 0]
    assert verdict(task, [(5, 3, BOX), (5, 4, BOX)])
    assert not verdict(task, [(5, 4, BOX), (5, 3, BOX)])
    assert not verdict(task, [(6, 3, BOX), NONE])


def test_one_thing_is_not_two_objects() -> None:
    almost = (0.11, 0.1, 0.31, 0.3)
    for task in ([TWO, 5, 1, -1, 6, 1, -1, 0], [BINDING, 5, 1, 3, 6, 1, 4, 0]):
        assert verdict(task, [(5, 3, BOX), (6, 4, OTHER_BOX)])
        assert not verdict(task, [(5, 3, BOX), (6, 4, BOX)])
        assert not verdict(task, [(5, 3, BOX), (6, 4, almost)])


def test_no_task_asks_for_a_colour_that_looks_like_the_natural_one_under_another_name(
    tasks: dict[int, list[SceneTask]],
) -> None:
    artwork = load_artwork()
    for kind in range(len(words.OBJECTS)):
        sprite = ARTWORKS * kind + ARTWORK
        opaque = artwork.pixels[sprite][artwork.alpha[sprite] > 127]
        natural = palette_of(sprite, words.NATURAL)[opaque].astype(float)
        for colour in range(len(words.COLOURS)):
            difference = abs(palette_of(sprite, colour)[opaque] - natural).mean()
            is_named_otherwise = colour != words.natural_colour(kind, ARTWORK)
            assert is_look_alike(kind, colour) == (difference < 22 and is_named_otherwise)
    coloured = [pair for task in tasks[COLOUR] + tasks[BINDING] for pair in (task.columns[1:4:2], task.columns[4:7:2])]
    assert not any(is_look_alike(kind, colour) for kind, colour in coloured if kind >= 0)


def test_binding_does_not_accept_colours_that_are_exchanged() -> None:
    task = [BINDING, 5, 1, 3, 6, 1, 4, 0]
    assert verdict(task, [(6, 4, OTHER_BOX), (5, 3, BOX)])
    assert not verdict(task, [(6, 3, OTHER_BOX), (5, 4, BOX)])
    assert not verdict(task, [(5, 3, BOX), NONE])


@pytest.mark.parametrize(
    ("second", "relation", "expected"),
    [
        ((0.5, 0.1, 0.7, 0.3), words.LEFT_OF, True),
        ((0.5, 0.4, 0.7, 0.6), words.LEFT_OF, True),
        ((0.2, 0.5, 0.4, 0.7), words.LEFT_OF, False),  # below rather than beside
        ((0.12, 0.1, 0.32, 0.3), words.LEFT_OF, False),  # hardly beside
        ((0.1, 0.5, 0.3, 0.7), words.ABOVE, True),
        ((0.5, 0.1, 0.7, 0.3), words.ABOVE, False),
        ((0.2, 0.05, 0.4, 0.25), words.IN_FRONT_OF, True),
        ((0.2, 0.15, 0.4, 0.35), words.IN_FRONT_OF, False),  # it reaches lower
        ((0.5, 0.05, 0.7, 0.25), words.IN_FRONT_OF, False),  # apart
        ((0.5, 0.1, 0.7, 0.3), words.NO_RELATION, False),
    ],
)
def test_boxes_lie_as_a_relation_says(second: tuple[float, ...], relation: int, expected: bool) -> None:
    assert lies(BOX, second, relation) is expected
    task = [POSITION, 5, 1, -1, 6, 1, -1, relation]
    assert verdict(task, [(6, 0, second), (5, 0, BOX)]) is expected


def test_directions_are_opposite() -> None:
    for first, second in (((0.0, 0.0, 0.2, 0.2), (0.6, 0.3, 0.8, 0.5)), ((0.1, 0.1, 0.2, 0.2), (0.3, 0.7, 0.4, 0.9))):
        for relation in (words.LEFT_OF, words.ABOVE):
            assert not lies(second, first, relation)


def test_scores_are_shares_with_intervals_and_their_mean() -> None:
    right = torch.tensor([[True, True, False, True], [False, False, False, True]])
    category = torch.tensor([[0, 0, 0, 0], [4, 4, 4, 4]])
    table = scene_eval_scores(right, category[..., None], pictures="some")
    assert list(table["pictures"]) == ["some"] * 3
    assert list(table["category"]) == ["single object", "position", "overall"]
    assert list(table["count"]) == [4, 4, 8]
    assert list(table["score"]) == [0.75, 0.25, 0.5]
    assert (table["low"][0], table["high"][0]) == tuple(wilson(3, 4)[1:])
    (_, low, high), (_, other_low, other_high) = wilson(3, 4), wilson(1, 4)
    assert table["low"][2] == pytest.approx(0.5 - ((0.75 - low) ** 2 + (0.25 - other_low) ** 2) ** 0.5 / 2)
    assert table["high"][2] == pytest.approx(0.5 + ((high - 0.75) ** 2 + (other_high - 0.25) ** 2) ** 0.5 / 2)
    with pytest.raises(ValueError, match="a category for each judgement"):
        scene_eval_scores(right, torch.zeros(3))
    for kind in (-1, 6):
        with pytest.raises(ValueError, match=r"expected categories from 0 to 5, .* found (0 to 6|-1 to 0)"):
            scene_eval_scores(torch.tensor([True, False]), torch.tensor([0, kind]))


def test_the_interval_of_the_overall_score_holds_it_in_nineteen_of_twenty_evaluations() -> None:
    chances, count, evaluations = torch.tensor([0.99, 0.9, 0.7, 0.9, 0.7, 0.6]), 20, 400
    draws = torch.rand(evaluations, len(chances), count, generator=torch.Generator().manual_seed(0))
    category = torch.arange(len(chances))[:, None].expand(-1, count)
    tables = [scene_eval_scores(right, category) for right in draws < chances[:, None]]
    held = [table["low"][-1] <= chances.mean() <= table["high"][-1] for table in tables]
    assert 0.92 <= sum(held) / evaluations <= 0.98


def test_an_overall_score_of_zero_or_of_one_category_has_an_interval() -> None:
    never = scene_eval_scores(torch.zeros(12, dtype=torch.bool), torch.arange(12) % 6)
    assert never["low"][-1] == 0 < never["high"][-1] < never["high"][0]
    single = scene_eval_scores(torch.arange(10) < 7, torch.zeros(10, dtype=torch.int64))
    assert (single["low"][-1], single["high"][-1]) == pytest.approx(tuple(wilson(7, 10)[1:]))


def test_other_tensors_and_detectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected tasks \(2, 8\)"):
        judge_scenes(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 4, 4), torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"detector\.boxes takes a detector of model\.box_detector"):
        detect_boxes(Detector(DetectorConfig(channels=8)), torch.zeros(1, 3, 64, 64))
    boxes = detect_boxes(BoxDetector(BoxDetectorConfig(channels=8)).eval(), torch.zeros(1, 3, 128, 128), most=5)
    assert boxes.object.shape == (1, 5)
    assert boxes.box.shape == (1, 5, 4)


def test_a_detector_compares_so_many_objects_at_most() -> None:
    most = get_spec(detect_boxes).settings["most"]
    assert most.literal(MOST_OBJECTS) == MOST_OBJECTS
    with pytest.raises(ValueError, match=str(MOST_OBJECTS)):
        most.literal(MOST_OBJECTS + 1)  # for all 65,536 peaks of a picture, it would take 32 GB


def test_boxes_of_detections_may_end_at_the_edges_of_the_picture() -> None:
    torch.manual_seed(0)
    detector = BoxDetector(BoxDetectorConfig(channels=8)).eval()
    image = torch.randn(2, 3, 64, 64)
    free, cut = (detect_boxes(detector, image, threshold=0.001, most=64, inside=inside) for inside in (False, True))
    is_there = free.object >= 0
    assert ((free.box[is_there] < 0) | (free.box[is_there] > 1)).any()
    assert torch.equal(cut.box[is_there], free.box[is_there].clamp(0, 1))
    assert torch.equal(cut.box[~is_there], free.box[~is_there])
