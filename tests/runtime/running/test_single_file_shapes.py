"""Sizes in a single file's description as expressions of the sizes of its inputs."""

from __future__ import annotations

import pytest

from guidegraph_runtime.running.rehearse import Axis, Size

SHAPES = {"picture": (1, 3, 64, 96), "noise": (4, 4, 16, 16)}
HEIGHT = {"height": (Axis("picture", 2),)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4", 4), ("height", 64), ("height/4", 16), ("2*height", 128), ("floor(height/5)", 12), ("height - 60 + 1", 5)],
)
def test_sizes_are_numbers_and_plain_expressions(text: str, expected: int) -> None:
    assert Size(text, HEIGHT).value(SHAPES) == expected


def test_of_several_axes_the_largest_counts() -> None:
    assert Size("batch", {"batch": (Axis("picture", 0), Axis("noise", 0))}).value(SHAPES) == 4


@pytest.mark.parametrize(
    "text",
    [
        "width",
        "height/5",
        "height - 64",
        "height/0",
        "__import__('os')",
        "height.real",
        "'a'",
        "height**9",
        "(",
    ],
)
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|whole size"):
        Size(text, HEIGHT).value(SHAPES)


def test_a_long_text_is_no_size() -> None:
    with pytest.raises(ValueError, match="at most 200"):
        Size("1" * 201, {}).value({})
