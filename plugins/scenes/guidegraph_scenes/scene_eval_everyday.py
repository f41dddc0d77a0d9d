"""The everyday test of SceneEval: prompts written by hand with the objects they name, judged by the same detector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from guidegraph.graph.errors import suggest
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.checkpoints.config_values import format_value
from guidegraph_runtime.pictures.scene_objects import list_colours, list_nouns
from guidegraph_scenes.scene_eval import SAME, intersection_over_union, lies
from guidegraph_scenes.scenes128.vocabulary import (
    ABOVE,
    COLOURS,
    IN_FRONT_OF,
    LARGEST_COUNT,
    LEFT_OF,
    OBJECTS,
)

NOTHING = -1
FIELDS = ("object", "count", "colour")
"""The columns of one group of objects in a task; −1 is what the prompt does not ask for."""
COLUMNS = LARGEST_COUNT * len(FIELDS) + 1
LARGEST_FILE = 1 << 20
RELATIONS: dict[str, tuple[int, bool]] = {
    "left of": (LEFT_OF, False),
    "right of": (LEFT_OF, True),
    "above": (ABOVE, False),
    "below": (ABOVE, True),
    "in front of": (IN_FRONT_OF, False),
    "behind": (IN_FRONT_OF, True),
    "next to": (LEFT_OF, False),
}
"""How the first group lies to the second: a relation of scenes, and whether it is reversed, from the second to the
first."""
NEXT_TO = tuple(RELATIONS).index("next to")


class EverydayTasks(NamedTuple):
    """N prompts, and the tasks (N, 13) int64 in them: object, count and colour of up to four groups, and the relation.

    batch: N, for the noise.
    """

    prompt: Sequence[str]
    task: Tensor
    batch: int


@node("scene_eval.everyday", host=True)
def everyday_tasks(*, path: Path) -> EverydayTasks:
    """Prompts with the objects that they name, from a file.

    path: a JSON or YAML file with a list of {prompt, objects, relation}. objects: one to four of {object, count,
    colour}. object: one of the 64, by any of its names. count: 1 to 4, by default 1; colour: one of eleven, or null.
    relation: of the first object to the second, "left of", "right of", "above", "below", "in front of", "behind" or
    "next to", or null. An object stands in two groups only with two colours.
    Raises an error that lists every entry which is not so, with its line.
    """
    prompts, tasks, errors = [], [], []
    for line, entry in read_entries(path):
        try:
            prompt, task = read_entry(entry)
        except ValueError as error:
            errors.append(f"{path}:{line}: {error}")
            continue
        prompts.append(prompt)
        tasks.append(task)
    if errors:
        raise ValueError("\n".join(errors))
    if not tasks:
        raise ValueError(f"{path}: there is no prompt: list at least one")
    return EverydayTasks(tuple(prompts), torch.tensor(tasks), len(tasks))


def read_entries(path: Path) -> list[tuple[int, Any]]:
    """The entries of a list in a JSON or YAML file, each with its line. Raises ``ValueError`` for any other file."""
    if not path.is_file():
        raise ValueError(f"there is no file '{path}': name a JSON or YAML file with prompts")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path}: a file of prompts has at most {LARGEST_FILE} bytes; found {path.stat().st_size}")
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        document = loader.get_single_node()
        items = document.value if isinstance(document, yaml.SequenceNode) else None
        entries = [(item.start_mark.line + 1, loader.construct_object(item, deep=True)) for item in items or ()]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # PyYAML lets int's and date's out
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: this is not YAML, or JSON indented by spaces: {reason:.300}") from None
    if items is None:
        raise ValueError(f"{path}: expected a list of prompts")
    return entries


def read_entry(entry: Any) -> tuple[str, list[int]]:
    """The prompt and the task (13) of an entry. Raises ``ValueError`` for one that is not as `everyday_tasks` says."""
    check_keys(entry, ("prompt", "objects", "relation"), required=("prompt", "objects"))
    prompt, groups, relation = entry["prompt"], entry["objects"], entry.get("relation")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"'prompt' is a text; found {format_value(prompt)}")
    if not isinstance(groups, list) or not 1 <= len(groups) <= LARGEST_COUNT:
        raise ValueError(f"'objects' lists one to {LARGEST_COUNT} of them; found {format_value(groups)}")
    prompt = prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # YAML reads "\ud83d\ude00" as two
    rows = [read_group(group) for group in groups]
    check_distinct(rows)
    task = [value for row in rows for value in row]
    task += [NOTHING] * (COLUMNS - 1 - len(task))
    if relation is None:
        return prompt, [*task, NOTHING]
    if not isinstance(relation, str) or relation not in RELATIONS:
        raise ValueError(f"'relation' is {', '.join(RELATIONS)} or null; found {format_value(relation)}")
    if len(groups) < 2:
        raise ValueError(f"'{relation}' relates the first object to the second; found one object")
    return prompt, [*task, tuple(RELATIONS).index(relation)]


def read_group(group: Any) -> tuple[int, int, int]:
    """The object, the count and the colour of an entry's group, as indices. Raises ``ValueError``."""
    check_keys(group, FIELDS, required=("object",))
    kinds, colours = list_nouns(), list_colours()
    noun, count, colour = group["object"], group.get("count", 1), group.get("colour")
    if not isinstance(noun, str) or noun.lower() not in kinds:
        hint = suggest(noun if isinstance(noun, str) else "", kinds, "objects")
        raise ValueError(f"there is no object {format_value(noun)}; {hint}")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= LARGEST_COUNT:
        raise ValueError(f"'count' of {noun} is a number from 1 to {LARGEST_COUNT}; found {format_value(count)}")
    if colour is None:
        return kinds[noun.lower()], count, NOTHING
    if not isinstance(colour, str) or colour.lower() not in colours:
        raise ValueError(f"'colour' of {noun} is {', '.join(COLOURS)} or null; found {format_value(colour)}")
    return kinds[noun.lower()], count, colours[colour.lower()]


def check_distinct(rows: list[tuple[int, int, int]]) -> None:
    """Raise ``ValueError`` for two groups that one object in a picture could both be."""
    for (kind, _, colour), (other, _, other_colour) in combinations(rows, 2):
        if kind == other and (colour == other_colour or NOTHING in (colour, other_colour)):
            raise ValueError(
                f"'{OBJECTS[kind].name}' is listed twice, and one in the picture would count for both: list it once "
                "with its count, or give both another colour"
            )


def check_keys(value: Any, keys: tuple[str, ...], required: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless the value is a mapping with these keys, the required ones among them."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping with the keys {', '.join(keys)}; found {format_value(value)}")
    for key in value:
        if key not in keys:
            raise ValueError(f"there is no key {format_value(key)}; {suggest(str(key), keys, 'keys')}")
    for key in required:
        if key not in value:
            raise ValueError(f"the key '{key}' is missing in {format_value(value)}")


@node("scene_eval.contents")
def list_contents(object: Tensor, colour: Tensor, *, colours: bool = True) -> Tensor:
    """The tasks (B, 13) of `scene_eval.judge_everyday` for pictures that should show the objects of scenes.

    object, colour (B, N): of `data.scene_128`, N ≤ 4, −1 for none. Each kind of object is asked for in its number and,
    with `colours`, in its colours, which make groups of their own; without, no colour is asked for.
    Raises an error for other shapes.
    """
    shape = tuple(object.shape)
    if len(shape) != 2 or shape[1] > LARGEST_COUNT or colour.shape != shape:
        raise ValueError(
            f"expected 'object' and 'colour' (B, N), N ≤ {LARGEST_COUNT}, as of data.scene_128; found {shape} and "
            f"{tuple(colour.shape)}"
        )
    tasks = []
    for kinds, shades in zip(object.tolist(), colour.tolist(), strict=True):
        things = [(kind, shade if colours else NOTHING) for kind, shade in zip(kinds, shades, strict=True)]
        groups = Counter(thing for thing in things if thing[0] != NOTHING)
        task = [value for (kind, shade), count in sorted(groups.items()) for value in (kind, count, shade)]
        tasks.append(task + [NOTHING] * (COLUMNS - len(task)))
    return torch.tensor(tasks, device=object.device).reshape(-1, COLUMNS)


@node("scene_eval.judge_everyday")
def judge_everyday(object: Tensor, colour: Tensor, box: Tensor, task: Tensor) -> Tensor:
    """Judge for each picture whether it fulfils its prompt, bool (B).

    object, colour, box: of `detector.boxes`, best first; task (B, 13): of `scene_eval.everyday`. Of each group that is
    asked for in the number 1, at least one object of its kind, and its colour if it has one, is found; in a larger
    number, exactly that many. A thing that passes for two objects is none of them. The relation holds between the best
    detections of the first two groups, by the rules of `scene_eval.judge`; next to: left of it or right of it. Other
    objects do not count.
    """
    if task.ndim != 2 or task.shape[1] != COLUMNS or len(task) != len(object):
        raise ValueError(
            f"expected tasks ({len(object)}, {COLUMNS}) of scene_eval.everyday for {len(object)} pictures; found shape "
            f"{tuple(task.shape)}"
        )
    rows = zip(object.cpu(), colour.cpu(), box.float().cpu(), task.cpu().tolist(), strict=True)
    return torch.tensor([_shows(*row) for row in rows], device=object.device)


def _shows(kinds: Tensor, colours: Tensor, boxes: Tensor, columns: list[int]) -> bool:
    """Whether the objects of one picture, best first, are a task's."""
    best = []
    for start in range(0, COLUMNS - 1, len(FIELDS)):
        kind, count, colour = columns[start : start + len(FIELDS)]
        if kind == NOTHING:
            break
        matches = (kinds == kind) & ((colours == colour) if colour != NOTHING else (kinds == kind))
        number = int(matches.sum())
        if number == 0 or (count > 1 and number != count):
            return False
        best.append(boxes[int(matches.nonzero()[0])].tolist())
    if any(intersection_over_union(*pair) > SAME for pair in combinations(best, 2)):
        return False
    if columns[-1] == NOTHING:
        return True
    first, second = best[:2]
    relation, is_reversed = tuple(RELATIONS.values())[columns[-1]]
    if columns[-1] == NEXT_TO:
        return lies(first, second, relation) or lies(second, first, relation)
    return lies(second, first, relation) if is_reversed else lies(first, second, relation)
