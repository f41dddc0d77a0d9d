"""The values of a bundle's inputs: null, NumPy's numbers, and texts that look like lists."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.bundle.manifest_types import Input
from guidegraph_runtime.declare.settings import Range
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.inputs import check_value, parse_input


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[oil painting] a tiger", "[oil painting] a tiger"),
        ("[a fox", "[a fox"),
        ('["a fox", "a house"]', ["a fox", "a house"]),
        ('["[a fox]"]', ["[a fox]"]),
        ("a [fox]", "a [fox]"),
    ],
)
def test_a_text_in_brackets_is_a_list_only_as_a_whole(text: str, value: Any) -> None:
    assert parse_input("prompt", Input("str", default="a fox", many=True), text, "here") == value


def test_null_fits_an_input_that_is_optional_or_null_by_default() -> None:
    for spec in (Input("int", default=2, optional=True), Input("int"), Input("path", default="a.png", optional=True)):
        assert check_value("k", spec, None, "here") is None
    for spec in (Input("int", default=2), Input("int", required=True)):
        with pytest.raises(BundleError, match="'k': expected an integer, found None"):
            check_value("k", spec, None, "here")


def test_a_number_outside_of_its_bounds_is_refused() -> None:
    spec = Input("float", default=0.7, many=True, bounds=Range(low=0, high=1))
    assert check_value("rescale", spec, [0, 1], "here") == [0, 1]
    for value in (1.5, [0.5, 1.5]):
        with pytest.raises(
            BundleError, match="'rescale': expected a number of at least 0 and at most 1, found"
        ) as caught:
            check_value("rescale", spec, value, "here")
        assert (caught.value.code, caught.value.param) == ("bad-value", "rescale")


@pytest.mark.parametrize(
    ("spec", "value", "plain"),
    [
        (Input("int"), np.int64(3), 3),
        (Input("float"), np.float32(0.5), 0.5),
        (Input("bool"), np.bool_(True), True),
        (Input("int"), np.array(3), 3),
        (Input("int", many=True), np.array([1, 2]), [1, 2]),
        (Input("int", many=True), (np.int32(1), 2), [1, 2]),
    ],
)
def test_numbers_of_numpy_are_taken_as_those_of_python(spec: Input, value: Any, plain: Any) -> None:
    result = check_value("k", spec, value, "here")
    assert (result, type(result)) == (plain, type(plain))


@pytest.mark.parametrize(
    ("spec", "value", "message"),
    [
        (Input("int", many=True), [1, "a"], "expected an integer, found 'a' as element [1] of the list"),
        (Input("int", many=True), [[1]], "expected an integer, found [1] as element [0] of the list"),
        (Input("str", many=True, choices=("a", "b")), ["a", "c"], "expected one of a, b, found 'c' as element [1]"),
    ],
)
def test_the_wrong_element_of_a_list_is_named(spec: Input, value: Any, message: str) -> None:
    with pytest.raises(BundleError, match=re.escape(f"'k': {message}")):
        check_value("k", spec, value, "here")


def test_a_list_may_have_several_of_the_choices() -> None:
    assert check_value("k", Input("str", many=True, choices=("a", "b")), ["a", "b"], "here") == ["a", "b"]


def test_numbers_of_numpy_are_checked_like_others() -> None:
    spec = Input("int", default=1, bounds=Range(low=0))
    for value, expected in (
        (np.float32(1), "an integer, found 1.0"),
        (np.array([1, 2]), "an integer, found .1, 2."),
        (np.int64(-1), "an integer of at least 0, found -1"),
    ):
        with pytest.raises(BundleError, match=f"'steps': expected {expected}"):
            check_value("steps", spec, value, "here")


def test_a_text_that_is_no_value_is_refused_with_the_kind_that_fits() -> None:
    for spec, expected in (
        (Input("int", bounds=Range(low=0)), "expected an integer, found 'two'"),
        (Input("bool"), "expected true or false, found 'two'"),
        (Input("int", many=True), "expected an integer, or a list as JSON, found 'two'"),
    ):
        with pytest.raises(BundleError, match=f"'k': {expected}"):
            parse_input("k", spec, "two", "here")


def test_a_list_of_boxes_is_lists_of_numbers() -> None:
    spec = Input("numbers", many=True, default=[[0.0, 0.5]])
    assert check_value("boxes", spec, [(0, 0.5), np.array([1.0, 2.0])], "bundle") == [[0, 0.5], [1.0, 2.0]]
    for value, message in (
        ([0.5, 1], "expected a list of numbers, found 0.5 as element"),
        ([[0, "a"]], r"expected a list of numbers, found \[0, 'a'\]"),
        ([[True]], "expected a list of numbers"),
        ([[math.nan]], "found nan"),
    ):
        with pytest.raises(BundleError, match=message):
            check_value("boxes", spec, value, "bundle")
