"""Small plans with their results: `plan_cases.json`, which the tests of the runtime and of the page share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidegraph_runtime.bundle.manifest_types import Operation, Part, Tensor

TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = TABLE["cases"]
"""Each has a `plan`, the `values` before it and those that are `expected`, or the pieces of an `error`.

calls: the graphs that are called, in order. iterations: of each loop outside others. rehearsed: the shapes that a
rehearsal finds, null for an unknown one. not_in_page: why the page does not run the plan.
"""


def read_value(value: Any) -> Any:
    """A value of the table: a tensor, or a plain value."""
    return np.array(value["data"], value["dtype"]).reshape(value["dims"]) if isinstance(value, dict) else value


def read_parts() -> dict[str, Part]:
    """The graphs of the table: `double` gives 2 x, `add` gives a + b, `keep` gives a."""

    def read(items: list[dict[str, Any]]) -> tuple[Tensor, ...]:
        return tuple(Tensor(item["name"], item["dtype"], tuple(item["dims"])) for item in items)

    return {
        name: Part(f"{name}.onnx", read(part["inputs"]), read(part["outputs"]), {})
        for name, part in TABLE["parts"].items()
    }


def run_part(name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Compute a graph of the table."""
    if name == "double":
        return {"doubled": inputs["x"] * 2}
    return {"sum": inputs["a"] + inputs["b"] if name == "add" else inputs["a"]}


def read_plan(operations: list[dict[str, Any]]) -> tuple[Operation, ...]:
    """The operations of a plan as it is written in a bundle."""
    return tuple(
        Operation(
            item["op"],
            item["node"],
            item["in"],
            item["with"],
            tuple(item["out"]),
            read_plan(item["body"]) if "body" in item else None,
        )
        for item in operations
    )
