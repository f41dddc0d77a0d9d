"""Layouts in the runtime: the engine's own, from words and boxes, and as tables."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from guidegraph.nodes.conditioning.mask import find_bounds
from guidegraph_runtime.checks import list_columns, make_table
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.output_formats import write_output
from guidegraph_runtime.pictures.scene_objects import COLOURS, NAMES
from guidegraph_runtime.running.measure_costs import compare_output
from guidegraph_scenes.scenes128.layout_sample import decode_layout, encode_layout, list_layout


def draw_edges(random: Random) -> tuple[float, float]:
    low, high = sorted(random.sample(range(17), 2))
    return low / 16, high / 16


def test_a_placed_layout_and_its_table_are_those_of_the_training_data() -> None:
    random = Random(0)
    for _ in range(100):
        count = random.randrange(5)
        kinds, colours = random.choices(range(len(NAMES)), k=count), random.choices(range(len(COLOURS)), k=count)
        sides = [(draw_edges(random), draw_edges(random)) for _ in range(count)]
        boxes = [(left, top, right, bottom) for (left, right), (top, bottom) in sides]
        words = [f"a {COLOURS[colour]} {NAMES[kind]}" for kind, colour in zip(kinds, colours, strict=True)]
        layout = torch.from_numpy(OPERATIONS["layout.place"](objects=words, boxes=boxes)["out"])
        empty = 4 - count
        expected = encode_layout(
            torch.tensor([[*kinds, *[-1] * empty]]),
            torch.tensor([[*boxes, *[(-1.0,) * 4] * empty]]),
            torch.tensor([[*colours, *[-1] * empty]]),
        )
        assert torch.equal(layout, expected)
        decoded, table = decode_layout(layout), list_layout(layout)
        is_there = decoded.object[0] >= 0
        assert [NAMES.index(str(name)) for name in table["object"]] == decoded.object[0][is_there].tolist()
        assert [COLOURS.index(str(name)) for name in table["colour"]] == decoded.colour[0][is_there].tolist()
        edges = [[row[edge] for edge in ("left", "top", "right", "bottom")] for row in table.records()]
        assert edges == [[round(edge, 3) for edge in box] for box in decoded.box[0][is_there].tolist()]


def test_the_bounds_of_a_mask_are_the_engines() -> None:
    random = torch.Generator().manual_seed(0)
    for share in (0.0, 0.01, 0.5):
        mask = (torch.rand(3, 1, 9, 14, generator=random) < share).float()
        actual = OPERATIONS["mask.bounds"](mask=mask.numpy())["out"]
        assert torch.equal(torch.from_numpy(actual), find_bounds(mask))


def test_an_error_in_the_words_names_their_setting() -> None:
    with pytest.raises(ValueError, match=r"'a blue rabit' is not one object.*did you mean 'rabbit'") as error:
        OPERATIONS["layout.place"](objects=["a blue rabit"], boxes=[(0, 0, 1, 1)])
    assert error.value.setting == "objects"  # type: ignore[attr-defined]


def test_a_table_is_written_as_its_columns(tmp_path: Path) -> None:
    columns = {"name": ["car", None], "left": [0.5, 0.25], "count": [1, 2]}
    table = make_table(columns)
    assert list_columns(table) == columns
    assert write_output(tmp_path, "layout", "table", table, lambda *_: {}) == ["layout.json"]
    assert json.loads((tmp_path / "layout.json").read_text()) == columns


def test_tables_are_compared_by_columns() -> None:
    expected = make_table({"name": ["car", "dog"], "left": [0.5, 0.25]})
    near = make_table({"name": ["car", "dog"], "left": [0.501, 0.25]})
    assert compare_output("layout", "table", near, expected, 0.01).absolute == pytest.approx(0.001)
    for other in ({"name": ["car", "cat"], "left": [0.5, 0.25]}, {"name": ["car"], "left": [0.5]}, {"left": [0.5, 1]}):
        assert not compare_output("layout", "table", make_table(other), expected, 0.01).fits
    assert compare_output("layout", "table", expected[:0], expected[:0], 0.01).fits
    assert np.isinf(compare_output("layout", "table", expected[:0], expected, 0.01).absolute)
