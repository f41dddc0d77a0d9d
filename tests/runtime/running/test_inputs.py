"""The values of a bundle's inputs: null, and texts that look like lists."""

from __future__ import annotations

from typing import Any

import pytest

from guidegraph_runtime.bundle.manifest_types import Input
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
