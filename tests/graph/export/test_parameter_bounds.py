"""The ranges of traced settings bound the inputs of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Le

from guidegraph.graph.errors import Mark
from guidegraph.graph.export.parameter_bounds import find_bounds, find_port_ranges, range_of
from guidegraph.graph.export.workflow import export_workflow
from guidegraph.graph.ir import Call
from guidegraph.graph.sources import Param
from guidegraph_runtime.declare.settings import Range
from tests.graph.export.partition.planning import graph_of, registry

Positive = Annotated[float, Gt(0)]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (float, Range()),
        (Annotated[float, Ge(0), Le(1)], Range(low=0, high=1)),
        (Annotated[int, Range(low=1, below=9)] | None, Range(low=1, below=9)),
        (Annotated[Positive, Le(2)], Range(above=0, high=2)),
        (Annotated[int | None, Ge(1)], Range(low=1)),
        (Positive | list[Positive] | bool, Range(above=0)),
        (Positive | int, Range()),
        (Positive | Any, Range()),
    ],
)
def test_the_range_of_an_annotation(annotation: Any, expected: Range) -> None:
    assert range_of(annotation) == expected


TEXT = """
params: {low: 0.5, steps: 3, factor: 2.0}
nodes:
  mask: {use: mask.box, with: {size: 8, top: 2, left: 2, height: 4, width: 4}}
  picture: {use: noise.gaussian, with: {shape: [3, 8, 8]}}
  run:
    loop: {over: params.steps, as: i}
    carry: {x: picture}
    body:
      a: {use: plan.scale, in: {x: carry.x, factor: params.factor}}
      hidden: {use: mask.apply, in: {image: a, mask: mask, fill: params.low}}
    next: {x: hidden}
outputs: {x: run.x}
"""


def test_a_parameter_has_the_bounds_of_the_settings_that_it_is_and_of_loops(tmp_path: Path) -> None:
    ops = graph_of(TEXT, tmp_path).ops
    expected = {"low": Range(low=-1, high=1), "steps": Range(low=0)}
    assert find_bounds(ops, {"run.body.a", "run.body.hidden"}, {"low", "steps", "factor"}, {}) == expected
    assert find_bounds(ops, (), (), {}) == {}


def test_the_inputs_of_an_export_have_bounds(tmp_path: Path) -> None:
    exported = export_workflow(graph_of(TEXT, tmp_path), {"low": 0.5, "steps": 3, "factor": 2.0})
    assert {name: spec.bounds for name, spec in exported.inputs.items()} == {
        "low": Range(low=-1, high=1),
        "steps": Range(low=0),
        "factor": None,
    }


CLASSES = """
params: {label: 1, known: 1}
nodes:
  embedder: {use: model.label_embedder, with: {classes: 3, width: 4}}
  label: {use: label.constant, in: {label: params.label}}
  other: {use: label.constant, in: {label: params.known}, with: {classes: 3}}
  condition: {use: label.embed, in: {embedder: embedder, label: label}}
  condition2: {use: label.embed, in: {embedder: embedder, label: other}}
  picture: {use: noise.gaussian, with: {shape: [3, 8, 8]}}
  told: {use: plan.told, in: {x: picture, condition: condition}}
  told2: {use: plan.told, in: {x: told, condition: condition2}}
outputs: {x: told2}
"""


def test_labels_have_the_bounds_of_the_classes_of_the_model_that_reads_them(tmp_path: Path) -> None:
    exported = export_workflow(graph_of(CLASSES, tmp_path), {"label": 1, "known": 1})
    assert {name: spec.bounds for name, spec in exported.inputs.items()} == {
        "label": Range(low=0, high=3),  # 3 is the null class
        "known": Range(low=0, high=2),  # without the null class
    }
    (part,) = (operation for operation in exported.plan if operation.op == "part")
    assert part.settings["ranges"] == {"label": {"low": 0, "high": 3}, "other": {"low": 0, "high": 3}}


@dataclass
class Model:
    classes: int
    has_null: bool = True


@pytest.mark.parametrize(
    ("id", "port", "model", "expected"),
    [
        ("label.embed", "embedder", Model(4), {"label": Range(low=0, high=4)}),
        ("label.embed", "embedder", Model(4, has_null=False), {"label": Range(low=0, high=3)}),
        ("guidance.classifier", "classifier", Model(4), {"label": Range(low=0, high=3)}),
        ("guidance.classifier", "classifier", object(), {}),
    ],
)
def test_the_range_of_a_label_depends_on_the_model(
    id: str, port: str, model: object, expected: dict[str, Range]
) -> None:
    call = Call("node", registry().nodes[id], {port: Param("model")}, {}, Mark("here.yaml", 1, 1))
    assert find_port_ranges(call, {Param("model"): model}) == expected
    assert find_port_ranges(call, {}) == {}
