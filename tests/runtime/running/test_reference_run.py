"""The difference of two outputs, and its tolerance."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.running.measure_costs import compare_output

TOLERANCE = 4 / 255


@pytest.mark.parametrize(
    ("kind", "actual", "expected", "absolute", "fits"),
    [
        ("image", [0.5, -0.5], [0.5, -0.51], 0.01, True),
        ("image", [0.5, -0.5], [0.5, -0.52], 0.02, False),
        ("image", [5.0, 0.0], [5.0, 0.02], 0.02, False),
        ("tensor", [100.0, 0.0], [100.0, 1.0], 1.0, True),
        ("tensor", [100.0, 0.0], [100.0, 2.0], 2.0, False),
        ("tensor", [0.01, 0.0], [0.01, 0.01], 0.01, True),
        ("tensor", [nan, 1.0], [nan, 1.0], 0.0, True),
        ("tensor", [nan, 1.0], [1.0, 1.0], nan, False),
        ("tensor", [inf, 1.0], [inf, 1.0], 0.0, True),
        ("tensor", [-inf, 1.0], [1.0, 1.0], inf, False),
        ("tensor", [1.0], [1.0, 1.0], inf, False),
        ("table", ["a"], ["a"], 0.0, True),
        ("table", ["a"], ["b"], inf, False),
    ],
)
def test_pictures_are_held_to_their_range_and_others_to_their_largest_value(
    kind: str, actual: list[Any], expected: list[Any], absolute: float, fits: bool
) -> None:
    result = compare_output("x", kind, np.array(actual), np.array(expected), TOLERANCE)
    assert result.absolute == pytest.approx(absolute, nan_ok=True)
    assert result.fits is fits


def test_a_picture_is_told_in_steps_of_a_pixel() -> None:
    result = compare_output("x", "image", np.zeros(3), np.full(3, 2 / 255), TOLERANCE)
    assert result.text == "1.0000/255 of at most 2/255"
