"""Masks, objects, boxes and the sampler's name stay inputs of a bundle, which gives what the engine gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.bundle.manifest_types import Input
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.samplers.sampler import SAMPLERS
from tests.graph.export.exporting import WORKFLOWS, Made, made

MASK, OTHER = (str(WORKFLOWS / "data" / "examples" / f"{name}.png") for name in ("mask_128", "mask"))
BOXES = [[0.05, 0.5, 0.5, 0.75], [0.5, 0.5, 1.0, 1.0]]
WORKFLOW = """
guidegraph: 1
params:
  mask: {type: Path}
  shown: {type: list}
  hidden: {type: list}
  boxes: {type: list}
  sampler: ddim
  steps: 4
nodes:
  schedule: {use: schedule.flow}
  sampler:  {use: scheduler.named, in: {schedule: schedule, sampler: params.sampler, steps: params.steps}}
  mask:     {use: mask.load, in: {path: params.mask}, with: {size: 32}}
  bounds:   {use: mask.bounds, in: {mask: mask}}
  hidden:   {use: layout.place, in: {box: bounds, objects: params.hidden}}
  shown:    {use: layout.place, in: {objects: params.shown, boxes: params.boxes}}
  map:      {use: layout.map, in: {layout: hidden}}
  table:    {use: layout.table, in: {layout: shown}}
outputs: {map: map, table: table, levels: sampler.steps}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("layout")
    workflow = folder / "layout.yaml"
    workflow.write_text(WORKFLOW, encoding="utf-8")
    return made(workflow, folder, mask=MASK, hidden=["a castle"], shown=["a red car", "bunny"], boxes=BOXES)


def test_every_parameter_stays_an_input(bundle: Made) -> None:
    inputs = bundle.bundle.manifest.inputs
    assert bundle.bundle.manifest.fixed == {}
    assert {name: (spec.type, spec.many) for name, spec in inputs.items()} == {
        "mask": ("path", False),
        "shown": ("str", True),
        "hidden": ("str", True),
        "boxes": ("numbers", True),
        "sampler": ("str", False),
        "steps": ("int", False),
    }
    assert inputs["boxes"] == Input("numbers", default=BOXES, many=True)
    assert inputs["sampler"].choices == tuple(sorted(SAMPLERS))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"mask": OTHER},
        {"hidden": ["a dog", "blue kitten", "owl"]},
        {"hidden": []},
        {"shown": ["a tulip"], "boxes": [[0, 0, 0.5, 1]]},
        {"sampler": "heun", "steps": 3},
        {"sampler": "dpmpp_2m", "steps": 7},
    ],
)
def test_a_bundle_gives_what_the_engine_gives(bundle: Made, params: dict[str, Any], tmp_path: Path) -> None:
    from guidegraph import load_workflow
    from guidegraph.graph.export.compare_outputs import to_array

    actual = bundle.run(**params)
    expected = load_workflow(bundle.workflow, cache="off").run(**{**bundle.params, **params})
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], to_array(value).astype(actual[name].dtype))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hidden": ["a rabit"]}, "'a rabit' is not one object.*did you mean 'rabbit'"),
        ({"boxes": BOXES[:1]}, "found 2 objects and 1 box"),
        ({"shown": ["a big car", "bunny"]}, "'a big car' is not one object"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run(bundle: Made, params: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message) as error:
        bundle.bundle.prepare(params)
    assert error.value.code == "refused"
    assert error.value.param == next(iter(params))
