"""What `GET /v1/workflows/NAME` says of an input."""

from __future__ import annotations

from guidegraph_runtime.bundle.manifest_types import Input
from guidegraph_runtime.declare.settings import Range
from guidegraph_serve.web.routes import _describe_input


def test_a_parameter_that_takes_null_says_so() -> None:
    fields = {"type": "int", "required": False, "help": "", "default": 2}
    assert _describe_input(Input("int", default=2)) == fields
    assert _describe_input(Input("int", default=2, optional=True)) == fields | {"optional": True}
    assert _describe_input(Input("int")) == fields | {"default": None, "optional": True}


def test_a_parameter_with_bounds_says_so() -> None:
    fields = {"type": "int", "required": False, "help": "", "default": 2, "bounds": {"low": 0, "high": 9}}
    assert _describe_input(Input("int", default=2, bounds=Range(low=0, high=9))) == fields
