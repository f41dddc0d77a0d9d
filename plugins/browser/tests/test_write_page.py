"""The bounds of inputs and of graphs' inputs are in page.json."""

from __future__ import annotations

from guidegraph_browser.write_page import _describe_input, _operation_json
from guidegraph_runtime.bundle.manifest_types import Input, Operation
from guidegraph_runtime.declare.settings import Range


def test_an_input_with_bounds_says_so() -> None:
    fields = {"type": "int", "default": 2, "help": "", "choices": None, "many": False}
    assert _describe_input(Input("int", default=2)) == fields
    bounds = {"low": 0, "high": 9}
    assert _describe_input(Input("int", default=2, bounds=Range(**bounds))) == {**fields, "bounds": bounds}


def test_a_part_with_bounds_says_so() -> None:
    ranges = {"label": {"low": 0, "high": 2**63}}
    part = Operation("part", "encode", {"label": "label"}, {"ranges": ranges}, ("y",))
    fields = {"op": "part", "node": "encode", "in": {"label": "label"}, "out": ("y",)}
    assert _operation_json(part, {}) == {**fields, "ranges": {"label": {"low": 0, "high": str(2**63)}}}
