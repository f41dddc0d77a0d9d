"""Calls of one operation of the runtime, which fill up their results to one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from guidegraph.graph.export.workflow import plan_export
from guidegraph.graph.frozen_models import ExportRecipe
from guidegraph.graph.node import Registry, get_spec, node
from guidegraph.graph.resolution.load import build
from guidegraph.nodes.types import Condition
from guidegraph_runtime.bundle.manifest import Operation
from tests.graph.export.partition.planning import registry

LETTERS = Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a"))
TOWER = {"tokenizer": LETTERS.to_str().encode(), "length": 5, "start": 2, "end": 3, "pad": 4, "words": {}}


def count_texts(*, length: int = 5, fills: bool = True, **_: object) -> ExportRecipe:
    return ExportRecipe(
        "text.chunks",
        {"text": "texts"},
        {"ids_0": ("B", "N", length), "weights_0": ("B", "N", length), "some": ("B",)},
        lambda ids, weights, some: Condition(vector=(ids * weights).sum((1, 2))[:, None] * some[:, None]),
        {"towers": [{**TOWER, "length": length}]},
        beside="beside" if fills else "",
    )


@node("siblings.count", host=True, split=count_texts)
def count(*, text: str, length: int = 5, fills: bool = True) -> Condition:
    """A vector of a text."""
    return Condition(vector=torch.full((1, 1), float(len(text))))


@node("siblings.sum")
def add(conditions: Sequence[Condition]) -> Tensor:
    """The sum of vectors."""
    return torch.stack([each.vector for each in conditions if each.vector is not None]).sum(0)


TEXT = """guidegraph: 1
params: {prompt: a b, negative: "", other: b}
nodes:
  first: {use: siblings.count, in: {text: params.prompt}}
  second: {use: siblings.count, in: {text: params.negative}}
  third: {use: siblings.count, in: {text: params.other}, with: SETTINGS}
  sum: {use: siblings.sum, in: {conditions: [first, second, third]}}
outputs: {sum: sum}
"""


def plan(folder: Path, settings: str, text: str = TEXT) -> dict[str, Operation]:
    """The operations of the plan by node. settings: of the third call."""
    known = registry()
    nodes = {**known.nodes, **{get_spec(each).id: get_spec(each) for each in (count, add)}}
    file = folder / "workflow.yaml"
    file.write_text(text.replace("SETTINGS", settings))
    graph = build(file, Registry(nodes=nodes, types=known.types))
    values = {name: parameter.default for name, parameter in graph.params.items()}
    return {operation.node: operation for operation in plan_export(graph, values)[2]}


def test_each_call_takes_the_parameters_of_its_siblings(tmp_path: Path) -> None:
    operations = plan(tmp_path, "{length: 5}")
    assert [operations[f"{node}.host"].inputs for node in ("first", "second", "third")] == [
        {"texts": "params.prompt", "beside.0": "params.negative", "beside.1": "params.other"},
        {"texts": "params.negative", "beside.0": "params.prompt", "beside.1": "params.other"},
        {"texts": "params.other", "beside.0": "params.prompt", "beside.1": "params.negative"},
    ]


def test_calls_with_other_settings_are_no_siblings(tmp_path: Path) -> None:
    operations = plan(tmp_path, "{length: 6}")
    assert operations["first.host"].inputs == {"texts": "params.prompt", "beside.0": "params.negative"}
    assert operations["third.host"].inputs == {"texts": "params.other"}


def test_a_recipe_without_the_port_takes_no_siblings(tmp_path: Path) -> None:
    operations = plan(tmp_path, "{fills: false}")
    assert operations["third.host"].inputs == {"texts": "params.other"}


def test_a_constant_text_is_filled_up_in_the_run(tmp_path: Path) -> None:
    text = TEXT.replace("{text: params.negative}", "{}, with: {text: b a b a}").replace(', negative: ""', "")
    operations = plan(tmp_path, "{length: 6}", text)
    first, second, third = (operations[f"{node}.host"] for node in ("first", "second", "third"))
    assert (second.inputs, second.settings["texts"]) == ({"beside.0": "params.prompt"}, "b a b a")
    assert (first.inputs, first.settings["beside"]) == ({"texts": "params.prompt"}, ["b a b a"])
    assert not any("beside" in name for name in {**third.inputs, **third.settings}), "it has other settings"
    third = plan(tmp_path, "{length: 5}", text)["third.host"]
    assert third.inputs == {"texts": "params.other", "beside.0": "params.prompt"}
    assert third.settings["beside.1"] == "b a b a"


def test_a_constant_text_beside_no_other_is_computed_at_export(tmp_path: Path) -> None:
    text = TEXT.replace("{text: params.negative}", "{}, with: {text: b a}").replace(', negative: ""', "")
    operations = plan(tmp_path, "{length: 6}", text.replace("{text: params.prompt}", "{}, with: {text: a}"))
    assert "second.host" not in operations
