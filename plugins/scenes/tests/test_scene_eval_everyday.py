"""The everyday test: files of prompts are read and checked, and pictures judged by what the prompts ask for."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph_scenes.scene_eval_everyday import everyday_tasks, judge_everyday, list_contents
from guidegraph_scenes.scenes128.vocabulary import COLOURS, NAMES

ENTRIES: list[dict[str, Any]] = [
    {"prompt": "please draw my happy dog", "objects": [{"object": "dog"}], "relation": None},
    {
        "prompt": "could you show me two red bunnies to the right of a grey car?",
        "objects": [
            {"object": "bunnies", "count": 2, "colour": "red"},
            {"object": "car", "count": 1, "colour": "gray"},
        ],
        "relation": "right of",
    },
]
Found = list[tuple[str, str, tuple[float, float, float, float]]]
LEFT, MIDDLE, RIGHT = (0.0, 0.5, 0.2, 0.9), (0.4, 0.5, 0.6, 0.9), (0.8, 0.5, 1.0, 0.9)
TOP, NEAR, FAR = (0.4, 0.0, 0.6, 0.2), (0.1, 0.4, 0.5, 0.95), (0.4, 0.3, 0.8, 0.8)


def write(tmp_path: Path, entries: Any) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(entries, indent=1))
    return path


def judge(tmp_path: Path, found: Found, *objects: dict[str, Any], relation: str | None = None) -> bool:
    """Whether a picture with these detections, best first, shows what an entry asks for."""
    path = write(tmp_path, [{"prompt": "a picture", "objects": list(objects), "relation": relation}])
    padded = [(NAMES.index(name), COLOURS.index(colour) if colour else -1, box) for name, colour, box in found]
    padded += [(-1, -1, (-1.0, -1.0, -1.0, -1.0))] * 2
    kinds, colours, boxes = (torch.tensor([values]) for values in zip(*padded, strict=True))
    right = judge_everyday(kinds, colours, boxes, everyday_tasks(path=path).task)
    assert right.shape == (1,)
    return bool(right)


def test_prompts_and_tasks_are_read_from_json_and_from_yaml(tmp_path: Path) -> None:
    tasks = everyday_tasks(path=write(tmp_path, ENTRIES))
    assert tasks.prompt == (ENTRIES[0]["prompt"], ENTRIES[1]["prompt"])
    assert tasks.batch == 2
    dog, rabbit, car = (NAMES.index(name) for name in ("dog", "rabbit", "car"))
    red, grey = COLOURS.index("red"), COLOURS.index("grey")
    assert tasks.task.tolist() == [
        [dog, 1, -1, *(-1,) * 9, -1],
        [rabbit, 2, red, car, 1, grey, *(-1,) * 6, 1],
    ]
    (tmp_path / "prompts.yaml").write_text(
        "- {prompt: please draw my happy dog, objects: [{object: dog}]}\n"
        "- prompt: could you show me two red bunnies to the right of a grey car?\n"
        "  objects: [{object: rabbit, count: 2, colour: red}, {object: Car, colour: grey}]\n"
        "  relation: right of\n"
    )
    again = everyday_tasks(path=tmp_path / "prompts.yaml")
    assert again.prompt == tasks.prompt
    assert torch.equal(again.task, tasks.task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": [{"object": "dragon"}]}, r"there is no object 'dragon'; objects: cat, cats"),
        ({"objects": [{"object": "tigre"}]}, r"there is no object 'tigre'; did you mean 'tiger'"),
        (
            {"objects": [{"object": "dog", "colour": "turquoise"}]},
            "'colour' of dog is red, .* or null; found 'turquoise'",
        ),
        ({"objects": [{"object": "dog", "color": "red"}]}, "there is no key 'color'; did you mean 'colour'"),
        ({"objects": [{"object": "dog", "count": 5}]}, "'count' of dog is a number from 1 to 4; found 5"),
        ({"objects": [{"object": "dog", "count": True}]}, "'count' of dog is a number from 1 to 4; found True"),
        ({"objects": [{"count": 2}]}, "the key 'object' is missing"),
        ({"objects": []}, r"'objects' lists one to 4 of them; found \[\]"),
        ({"objects": ["dog"]}, "expected a mapping with the keys object, count, colour; found 'dog'"),
        ({"relation": "inside"}, "'relation' is left of, .*, next to or null; found 'inside'"),
        ({"relation": ["above"]}, r"'relation' is left of, .* or null; found \['above'\]"),
        (
            {"objects": [{"object": "dog"}, {"object": "puppy", "colour": "red"}]},
            "'dog' is listed twice, .* both another",
        ),
        ({"relation": "left of"}, "'left of' relates the first object to the second; found one object"),
        ({"prompt": ""}, "'prompt' is a text; found ''"),
    ],
)
def test_an_entry_that_cannot_be_judged_is_refused_with_its_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, [ENTRIES[1], {**ENTRIES[0], **change}])
    line = json.dumps([ENTRIES[1]], indent=1).count("\n") + 1
    with pytest.raises(ValueError, match=rf"prompts.json:{line}: {message}"):
        everyday_tasks(path=path)


def test_all_wrong_entries_are_listed_at_once(tmp_path: Path) -> None:
    wrong = [{"prompt": "a", "objects": [{"object": name}]} for name in ("dragon", "unicorn")]
    with pytest.raises(ValueError, match=r"'dragon'(.|\n)*'unicorn'"):
        everyday_tasks(path=write(tmp_path, [*ENTRIES, *wrong]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{prompt: a}", "expected a list of prompts"),
        ("[]", "there is no prompt"),
        ("[{", "prompts.yaml: this is not YAML"),
        ("- !!python/object:os.system {}", "prompts.yaml: this is not YAML"),
        ("- prompt: 2001-99-99", "prompts.yaml: this is not YAML, .*month must be in 1..12"),
        ("[\n\t{}\n]", "prompts.yaml: this is not YAML, or JSON indented by spaces"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        everyday_tasks(path=path)
    with pytest.raises(ValueError, match="there is no file"):
        everyday_tasks(path=tmp_path / "missing.json")


def test_a_character_that_json_escapes_as_two_is_one(tmp_path: Path) -> None:
    path = write(tmp_path, [{**ENTRIES[0], "prompt": "draw a dog \N{GRINNING FACE}"}])
    assert "\\ud83d\\ude00" in path.read_text()
    assert everyday_tasks(path=path).prompt == ("draw a dog \N{GRINNING FACE}",)


def test_the_message_about_an_entry_that_aliases_multiply_stays_short(tmp_path: Path) -> None:
    path, names = tmp_path / "prompts.yaml", "abcdef"
    lists = [f"&{name} [{', '.join([f'*{inner}'] * 9)}]" for inner, name in pairwise(names)]
    path.write_text(f"- {{prompt: a, objects: [&a [x], {', '.join(lists)}]}}")
    with pytest.raises(ValueError, match="'objects' lists one to 4") as caught:
        everyday_tasks(path=path)
    assert len(str(caught.value)) < 2000


def test_one_object_is_asked_for_at_least_once_and_more_exactly(tmp_path: Path) -> None:
    dogs: Found = [("dog", "", LEFT), ("dog", "", MIDDLE), ("cat", "", RIGHT)]
    assert judge(tmp_path, dogs, {"object": "dog"})
    assert judge(tmp_path, dogs, {"object": "dog", "count": 2})
    assert judge(tmp_path, dogs, {"object": "dog", "count": 2}, {"object": "cat"})
    assert not judge(tmp_path, dogs, {"object": "dog", "count": 3})
    assert not judge(tmp_path, dogs, {"object": "cat", "count": 2})
    assert not judge(tmp_path, dogs, {"object": "dog"}, {"object": "bird"})


def test_a_colour_is_that_of_the_counted_objects(tmp_path: Path) -> None:
    cars: Found = [("car", "red", LEFT), ("car", "blue", MIDDLE), ("car", "", RIGHT)]
    assert judge(tmp_path, cars, {"object": "car", "colour": "blue"})
    assert judge(tmp_path, cars, {"object": "car", "colour": "blue"}, {"object": "car", "colour": "red"})
    assert not judge(tmp_path, cars, {"object": "car", "colour": "green"})
    assert not judge(tmp_path, cars, {"object": "car", "colour": "red", "count": 2})
    assert judge(tmp_path, cars, {"object": "car", "count": 3})


@pytest.mark.parametrize(
    ("boxes", "relations"),
    [
        ((LEFT, RIGHT), {"left of", "next to"}),
        ((RIGHT, LEFT), {"right of", "next to"}),
        ((TOP, MIDDLE), {"above"}),
        ((MIDDLE, TOP), {"below"}),
        ((NEAR, FAR), {"in front of", "left of", "next to"}),
        ((FAR, NEAR), {"behind", "right of", "next to"}),
    ],
)
def test_a_relation_holds_between_the_best_detections(tmp_path: Path, boxes: Any, relations: set[str]) -> None:
    found: Found = [("dog", "", boxes[0]), ("cat", "", boxes[1]), ("dog", "", MIDDLE), ("cat", "", MIDDLE)]
    names = ("left of", "right of", "above", "below", "in front of", "behind", "next to")
    asked = ({"object": "dog"}, {"object": "cat"})
    assert {name for name in names if judge(tmp_path, found, *asked, relation=name)} == relations


def test_tasks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected tasks \(2, 13\) of scene_eval.everyday for 2 pictures"):
        judge_everyday(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 4, 4), torch.zeros(2, 8))


def test_a_scene_is_asked_for_with_its_objects_in_their_numbers_and_colours(tmp_path: Path) -> None:
    dog, car, red = NAMES.index("dog"), NAMES.index("car"), COLOURS.index("red")
    kinds, shades = torch.tensor([[car, dog, car, -1], [dog] * 4]), torch.tensor([[red, -1, red, -1], [-1] * 4])
    tasks = list_contents(kinds, shades)
    entries = [
        {"prompt": "a", "objects": [{"object": "dog"}, {"object": "car", "count": 2, "colour": "red"}]},
        {"prompt": "b", "objects": [{"object": "dog", "count": 4}]},
    ]
    assert torch.equal(tasks, everyday_tasks(path=write(tmp_path, entries)).task)
    uncoloured = list_contents(kinds, shades, colours=False)
    assert uncoloured[0].tolist() == [dog, 1, -1, car, 2, -1, *[-1] * 7]


def test_contents_of_more_objects_than_a_scene_has_are_refused() -> None:
    objects = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"N ≤ 4, as of data.scene_128; found \(2, 5\)"):
        list_contents(objects, objects)
