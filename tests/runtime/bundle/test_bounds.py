"""Bounds of numbers in a bundle."""

from __future__ import annotations

import pytest

from guidegraph_runtime.bundle.manifest_types import intersect_bounds
from guidegraph_runtime.declare.settings import Range


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ((), Range()),
        ((Range(low=0, high=9), Range(low=1)), Range(low=1, high=9)),
        ((Range(low=0), Range(above=0)), Range(above=0)),
        ((Range(low=1), Range(above=0)), Range(low=1)),
        ((Range(high=9), Range(below=9)), Range(below=9)),
        ((Range(high=8), Range(below=9)), Range(high=8)),
    ],
)
def test_an_intersection_has_the_tighter_bound_at_each_end(ranges: tuple[Range, ...], expected: Range) -> None:
    assert intersect_bounds(ranges) == expected
