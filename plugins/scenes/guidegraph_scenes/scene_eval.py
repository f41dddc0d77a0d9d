"""SceneEval: the fidelity of pictures of 128 pixels to their prompts, after GenEval (Ghosh et al. 2023).

Six categories: single object, two objects, counting, colours, position and attribute binding. The prompts ask for
compositions that are held out of training. A detector with boxes, which was trained on drawn scenes alone, judges the
pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial as bind
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.training.batches import FunctionBatches, to_image
from guidegraph.nodes.types import Image, Table
from guidegraph_lab.metrics.metrics import wilson
from guidegraph_scenes.scenes128.content import Split
from guidegraph_scenes.scenes128.tasks import (
    BINDING,
    CATEGORIES,
    COLOUR,
    COUNTING,
    POSITION,
    TASK_FIELDS,
    make_task,
)
from guidegraph_scenes.scenes128.vocabulary import ABOVE, IN_FRONT_OF, LEFT_OF

MARGIN = 0.1
"""Two centres differ in a direction if they are farther apart than this share of the objects' sides, as in GenEval."""
SAME = 0.7
"""Boxes with more than this intersection over union are one thing, which does not count as two objects."""
CONE = 0.5
"""The least cosine of the angle between the line of two centres and the direction."""


class SceneTasks(NamedTuple):
    """Prompts, and the tasks in them. image (B, 3, 128, 128) in [-1, 1]: real scenes that show them.

    prompt: B texts. task (B, 8) int64: category, object, number, colour, the other object's, and the relation of the
    first to the other; −1 where the prompt asks for nothing.
    """

    prompt: Sequence[str]
    task: Tensor
    image: Image


class SceneEvalTasks(NamedTuple):
    """Batches of tasks, `count // batch` for each category, in the order of `CATEGORIES`."""

    batches: Sequence[SceneTasks]


@node("scene_eval.tasks")
def scene_eval_tasks(
    *,
    seed: Annotated[int, Ge(0)] = 0,
    count: Annotated[int, Ge(1)] = 100,
    batch: Annotated[int, Ge(1)] = 50,
    split: Split = "held_out",
) -> SceneEvalTasks:
    """The prompts of SceneEval with real scenes for them: `count` of each of six categories; a batch has one category.

    count: prompts in each category. batch: prompts in each batch; `count` is a multiple of it. split: whether the
    prompts ask for scenes held out of training, as in training, or both. A prompt depends on the seed, its category and
    its number alone. Half of the held-out prompts have sentence forms of no training caption.
    """
    if count % batch:
        raise ValueError(f"{count} prompts in a category do not make batches of {batch}: set 'batch' to a divisor")
    length = len(CATEGORIES) * (count // batch)
    return SceneEvalTasks(FunctionBatches(length, bind(make_tasks, seed, count, batch, split)))


def make_tasks(seed: int, count: int, batch: int, split: Split, index: int) -> SceneTasks:
    """Batch `index` of the tasks of a seed."""
    category, first = divmod(index * batch, count)
    tasks = [make_task(seed, category, first + number, split) for number in range(batch)]
    return SceneTasks(
        tuple(task.scene.caption for task in tasks),
        torch.tensor([task.columns for task in tasks]),
        to_image(np.stack([task.scene.image for task in tasks])),
    )


@node("scene_eval.judge")
def judge_scenes(object: Tensor, colour: Tensor, box: Tensor, task: Tensor) -> Tensor:
    """Judge for each picture whether it fulfils its task, bool (B).

    object, colour, box: of `detector.boxes`, best first; task (B, 8): of `scene_eval.tasks`. Every named object must be
    found, two objects in two places: a thing that passes for both is none. Counting: exactly that many of it. Colours
    and binding: the best detection of each object has its colour. Position: the centre of the first best detection lies
    in that direction of the other's, within 60° and farther than 0.1 of the objects' sides; in front: the boxes
    overlap, and the front one reaches lower. Other objects do not count.
    """
    if task.ndim != 2 or task.shape[1] != len(TASK_FIELDS) or len(task) != len(object):
        raise ValueError(
            f"expected tasks ({len(object)}, {len(TASK_FIELDS)}) of scene_eval.tasks for {len(object)} pictures; found "
            f"shape {tuple(task.shape)}"
        )
    rows = zip(object.cpu(), colour.cpu(), box.float().cpu(), task.cpu().tolist(), strict=True)
    return torch.tensor([_shows(*row) for row in rows], device=object.device)


def _shows(kinds: Tensor, colours: Tensor, boxes: Tensor, columns: list[int]) -> bool:
    """Whether the objects of one picture, best first, fulfil a task."""
    category, first, count, colour, second, _, second_colour, relation = columns
    detections = [(kinds == kind).nonzero().flatten().tolist() for kind in (first, second) if kind >= 0]
    if not all(detections):
        return False
    best = [rows[0] for rows in detections]
    if category == COUNTING:
        return len(detections[0]) == count
    if len(best) == 2 and intersection_over_union(*(boxes[row].tolist() for row in best)) > SAME:
        return False
    if category in (COLOUR, BINDING):
        expected = [value for value in (colour, second_colour) if value >= 0]
        return [int(colours[row]) for row in best] == expected
    if category == POSITION:
        return lies(boxes[best[0]].tolist(), boxes[best[1]].tolist(), relation)
    return True


def intersection_over_union(first: Sequence[float], second: Sequence[float]) -> float:
    """The area of two boxes (left, top, right, lower edge) that both have, in units of the area that either has."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(across, 0.0) * max(down, 0.0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (area - shared) if shared else 0.0


def lies(first: Sequence[float], second: Sequence[float], relation: int) -> bool:
    """Whether the first box (left, top, right, lower edge) lies to the second as a relation says.

    LEFT_OF, ABOVE and IN_FRONT_OF are known; the prompts ask for no other, though they may name the second box first.
    """
    if relation == IN_FRONT_OF:
        across = min(first[2], second[2]) - max(first[0], second[0])
        down = min(first[3], second[3]) - max(first[1], second[1])
        return across > 0 and down > 0 and first[3] > second[3]
    axis = 0 if relation == LEFT_OF else 1
    away, aside = ((second[a] + second[a + 2] - first[a] - first[a + 2]) / 2 for a in (axis, 1 - axis))
    sides = first[axis + 2] - first[axis] + second[axis + 2] - second[axis]
    return relation in (LEFT_OF, ABOVE) and away > MARGIN * sides and away > CONE * math.hypot(away, aside)


@node("scene_eval.scores")
def scene_eval_scores(right: Tensor, category: Tensor, *, pictures: str = "drawn") -> Table:
    """A table of SceneEval's scores: columns pictures, category, count, score, low and high; the last row is overall.

    right (N) bool and category (N): of `scene_eval.judge` and the first column of the tasks; what a loop collected,
    (R, B), is taken as one batch. A category's interval is Wilson's of 95 %. The overall score is the mean of the
    categories', as in GenEval; its interval is made from theirs, taken as independent, by squaring and adding (Zou &
    Donner 2008). pictures: which ones they are, for the table.
    """
    hits, kinds = right.flatten().bool().cpu(), category.flatten().cpu()
    if hits.shape != kinds.shape or not len(hits):
        raise ValueError(
            f"expected a category for each judgement, found shapes {tuple(right.shape)} and {tuple(category.shape)}"
        )
    if not ((kinds >= 0) & (kinds < len(CATEGORIES))).all():
        raise ValueError(
            f"expected categories from 0 to {len(CATEGORIES) - 1}, the first column of scene_eval.tasks; found "
            f"{kinds.min():g} to {kinds.max():g}"
        )
    rows: dict[str, list[Any]] = {name: [] for name in ("category", "count", "score", "low", "high")}
    below, above, present = 0.0, 0.0, sorted(set(kinds.tolist()))
    for kind in present:
        chosen = hits[kinds == kind]
        score = wilson(int(chosen.sum()), len(chosen))
        below += (score.value - score.low) ** 2
        above += (score.high - score.value) ** 2
        _add_row(rows, CATEGORIES[kind], len(chosen), score.value, score.low, score.high)
    overall = sum(rows["score"]) / len(present)
    low, high = overall - math.sqrt(below) / len(present), overall + math.sqrt(above) / len(present)
    _add_row(rows, "overall", len(hits), overall, low, high)
    return Table({"pictures": [pictures] * len(rows["score"]), **rows})


def _add_row(rows: dict[str, list[Any]], *values: Any) -> None:
    for column, value in zip(rows.values(), values, strict=True):
        column.append(value)
