"""The page places objects and lists layouts as the runtime does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_browser.write_page import extra_settings
from guidegraph_runtime.checks import list_columns
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.pictures.scene_objects import COLOUR_WORDS, OBJECTS
from plugins.browser.tests.modules import run_script

RANDOM = np.random.default_rng(46)
PLACE = """
import { OPERATIONS } from "./operations.js";
const tensor = (box) => box && { dtype: "float32", dims: [1, 1, 4], data: Float32Array.from(box) };
const place = ({ box = null, ...rest }) => OPERATIONS["layout.place"]({ ...given.words, ...rest, box: tensor(box) });
show(given.cases.map((settings) => catchMessage(() => place(settings))));
"""


def random_words() -> str:
    """An object by one of its names, with an article, a colour, both or neither."""
    kind = OBJECTS[RANDOM.integers(len(OBJECTS))]
    noun = RANDOM.choice([kind.name, *(singular for singular, _ in kind.synonyms)])
    colours = [word for words in COLOUR_WORDS.values() for word in words]
    text = " ".join([RANDOM.choice(["", "a", "The", "one"]), RANDOM.choice(["", *colours]), noun])
    text = text.replace(" ", RANDOM.choice(["  ", "\x1c", "\x85", "\u2003", "\n "])) if RANDOM.random() < 0.3 else text
    return f" {text.upper()}\t" if RANDOM.random() < 0.2 else text


def random_box() -> list[float]:
    left, right = sorted(RANDOM.choice(101, 2, replace=False) / 100)
    top, bottom = sorted(RANDOM.random(2))
    return [float(edge) for edge in (left, top, right, bottom)]


def place_in_page(folder: Path, cases: list[dict[str, Any]]) -> list[Any]:
    results: list[Any] = run_script(folder, PLACE, {"cases": cases, "words": extra_settings("layout.place")})
    return results


def place_in_runtime(case: dict[str, Any]) -> np.ndarray[Any, Any]:
    box = None if case.get("box") is None else np.array(case["box"], np.float32).reshape(1, 1, 4)
    layout: np.ndarray[Any, Any] = OPERATIONS["layout.place"](**{**case, "box": box})["out"]
    return layout


def test_objects_are_placed_as_in_the_runtime(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = [{}, {"objects": [], "boxes": []}, {"box": [-1, -1, -1, -1]}]
    for count in RANDOM.integers(1, 5, 60):
        objects = [random_words() for _ in range(count)]
        cases.append({"objects": objects, "boxes": [random_box() for _ in range(count)]})
        cases.append({"objects": objects, "box": random_box()})
    for case, result in zip(cases, place_in_page(tmp_path, cases), strict=True):
        expected = place_in_runtime(case)
        assert result["dims"] == [*expected.shape], (case, result)
        assert np.array_equal(np.array(result["data"], np.float32).reshape(expected.shape), expected), case


BOX = [0.1, 0.2, 0.3, 0.4]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"objects": ["a red car"]}, "found 1 object and 0 boxes"),
    ({"objects": ["cat"] * 5, "boxes": [BOX] * 5}, "expected a list of up to 4 objects, and a box for each"),
    ({"objects": ["a blue rabit"], "boxes": [BOX]}, "one of the 64 objects, as in 'a red car'; did you mean 'rabbit'?"),
    ({"objects": ["two cats"], "boxes": [BOX]}, "did you mean 'cat'"),
    ({"objects": [""], "boxes": [BOX]}, "'' is not one object"),
    ({"objects": ["a\ufeffcat"], "boxes": [BOX]}, "is not one object"),
    ({"objects": ["cat"], "boxes": [[0.3, 0.2, 0.1, 0.4]]}, "with left < right and top < bottom; found [0.3, 0.2,"),
    ({"objects": ["cat"], "boxes": [[0.1, 0.2, 0.3]]}, "the box of 'cat' is [left, top, right, bottom]"),
    ({"objects": ["cat"], "boxes": [BOX], "box": BOX}, "found both, and 1 box"),
    ({"objects": ["cat"], "box": [-1, -1, -1, -1]}, "the mask is empty"),
]


def test_what_cannot_be_placed_is_refused_as_in_the_runtime(tmp_path: Path) -> None:
    results = place_in_page(tmp_path, [case for case, _ in WRONG])
    for (case, message), result in zip(WRONG, results, strict=True):
        with pytest.raises(ValueError, match=r"expected|is not one object|mask is empty|the box of"):
            place_in_runtime(case)
        assert message in result["message"]


def test_layouts_are_listed_as_in_the_runtime(tmp_path: Path) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const layout = { dtype: "float32", dims: given.dims, data: Float32Array.from(given.data) };
    show(OPERATIONS["layout.table"]({ ...given.words, layout }));
    """
    layout = RANDOM.normal(size=(40, 81, 1, 4)).astype(np.float32)
    layout[:, -4:] = RANDOM.integers(-40, 40, (40, 4, 1, 4)) / 16  # edges such as 1/16, which lie between thousandths
    layout[::3, 64] = 9
    given = {"dims": layout.shape, "data": layout.ravel().tolist(), "words": extra_settings("layout.table")}
    table = run_script(tmp_path, script, given)
    expected = list_columns(OPERATIONS["layout.table"](layout=layout)["out"])
    assert table["dims"] == [len(expected["picture"])]
    for name, column in expected.items():
        assert table["data"][name] == ["" if cell is None else cell for cell in column], name


def test_bounds_of_masks_are_those_of_the_runtime(tmp_path: Path) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const mask = { dtype: "float32", dims: given.dims, data: Float32Array.from(given.data) };
    show(OPERATIONS["mask.bounds"]({ mask }));
    """
    masks = (RANDOM.random((6, 1, 9, 14)) > 0.96).astype(np.float32)
    masks[0], masks[1] = 0, 1
    result = run_script(tmp_path, script, {"dims": masks.shape, "data": masks.ravel().tolist()})
    expected = OPERATIONS["mask.bounds"](mask=masks)["out"]
    assert np.array_equal(np.array(result["data"], np.float32).reshape(result["dims"]), expected)


def test_a_field_of_a_list_has_an_entry_on_each_line(tmp_path: Path) -> None:
    script = """
    import { readLines } from "./form.js";
    const [texts, boxes, row] = [{ type: "str" }, { type: "numbers", many: true }, { type: "numbers", many: false }];
    show([
      readLines("objects", texts, "a red car\\n\\n  a cat \\n"), readLines("objects", texts, " \\n"),
      readLines("boxes", boxes, "0.1, 0.2 0.3;0.4\\n1 0 1e-1 0"), readLines("row", row, "1, 2"),
      catchMessage(() => readLines("boxes", boxes, "0, 1\\n0, x")),
    ]);
    """
    assert run_script(tmp_path, script) == [
        ["a red car", "a cat"],
        [],
        [[0.1, 0.2, 0.3, 0.4], [1, 0, 0.1, 0]],
        [1, 2],
        {"message": "boxes[1]: expected a number, found 'x'"},
    ]


def test_a_box_is_moved_and_resized_inside_of_the_picture(tmp_path: Path) -> None:
    script = """
    import { moveBox, resizeBox } from "./boxes.js";
    const box = [0.25, 0.5, 0.5, 0.75];
    show([moveBox(box, 0.25, -0.25), moveBox(box, -2, 2), resizeBox(box, 0.25, 0.125), resizeBox(box, 3, -3)]);
    """
    moved, pushed, larger, smallest = run_script(tmp_path, script)
    assert moved == [0.5, 0.25, 0.75, 0.5]
    assert pushed == [0, 0.75, 0.25, 1]
    assert larger == [0.25, 0.5, 0.75, 0.875]
    assert smallest == [0.25, 0.5, 1, 0.55]
