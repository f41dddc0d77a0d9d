"""Choices in a bundle: both branches are exported, and a run computes the one that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guidegraph.graph.execution.run import run
from guidegraph.graph.export.bundle import write_bundle
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.workflow import export_workflow, plan_export
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.running.compute import Computation
from guidegraph_runtime.running.values import Values
from guidegraph_runtime.sessions.sessions import SessionSettings
from tests.graph.export.partition.planning import graph_of

NOISE = "noise: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [2, 4, 6]}}"


class Exported:
    """A workflow as a bundle has it, with its parts as torch has them, and what of it ran."""

    def __init__(self, text: str, folder: Path, **values: Any) -> None:
        self.graph = graph_of(text, folder)
        self.values = {name: parameter.default for name, parameter in self.graph.params.items()} | values
        self.planner, self.fixed, self.plan, self.outputs = plan_export(self.graph, self.values)
        self.parts = [part.keys for part in self.planner.parts]
        self.ran: list[str] = []

    def run(self, **params: Any) -> dict[str, Any]:
        """What the plan gives, which is what the engine gives; ``ran`` has the parts and the host's nodes that ran."""
        self.ran = []
        values = {**self.values, **params}
        actual = self._run(values)
        expected = run(self.graph, values).outputs
        for name, value in actual.items():
            np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-5, atol=1e-6)
        return actual

    def _run(self, values: dict[str, Any]) -> dict[str, Any]:
        parts = {part.name: part for part in self.planner.parts}

        def run_part(name: str, given: Mapping[str, Any], /) -> dict[str, Any]:
            self.ran.append(name)
            part = parts[name]
            tensors = [torch.as_tensor(given[item.name]).to(item.example.dtype) for item in part.inputs]
            return {at: item.numpy() for at, item in zip(part.outputs, part.function(*tensors), strict=True)}

        tables = {name: item.numpy() for name, item in self.planner.examples.host.tables.items()}
        memory = Values(tables | {f"params.{name}": value for name, value in values.items()})
        computation = Computation("here", run_part, self.planner.examples.host.files.__getitem__, memory)
        with torch.no_grad():
            for pause in computation.walk(self.plan, [*self.outputs.values()]):
                if pause.kind == "done" and not pause.depth and pause.operation.op != "part":
                    self.ran.append(pause.operation.node)
        return {name: memory.read(at) for name, at in self.outputs.items()}


class Bundled(Exported):
    """The same as a bundle that onnxruntime runs."""

    def __init__(self, text: str, folder: Path, **values: Any) -> None:
        super().__init__(text, folder, **values)
        exported = export_workflow(self.graph, self.values)
        write_bundle(exported, folder / "bundle", kinds=dict.fromkeys(exported.outputs, "tensor"), versions={})
        self.bundle = Bundle(folder / "bundle", SessionSettings.on("cpu", intra_threads=1))

    def _run(self, values: dict[str, Any]) -> dict[str, Any]:
        params = {name: value for name, value in values.items() if name in self.bundle.manifest.inputs}
        return self.bundle.run_with(params, observer=lambda part, given, gave: self.ran.append(part))


BY_PARAMETER = f"""
params: {{seed: 0, mode: half}}
nodes:
  {NOISE}
  start: {{use: plan.scale, in: {{x: noise}}, with: {{factor: 3.0}}}}
  a: {{use: plan.halve, in: {{x: start}}}}
  b: {{use: plan.pull, in: {{x: start}}}}
  either: {{choose: {{when: params.mode, of: {{half: a, pull: b}}}}}}
  end: {{use: plan.halve, in: {{x: either}}}}
outputs: {{end: end}}
"""


@pytest.mark.slow
@pytest.mark.slow
def test_a_bundle_runs_the_graphs_of_the_branch_that_its_parameter_takes(tmp_path: Path) -> None:
    made = Bundled(BY_PARAMETER, tmp_path)
    assert made.bundle.manifest.inputs["mode"].choices == ("half", "pull")
    made.run(mode="half")
    assert made.ran == ["encode", "encode2", "encode4"]
    made.run(mode="pull")
    assert made.ran == ["encode", "encode3", "encode4"]
    with pytest.raises(BundleError, match=r"'mode'.*half, pull"):
        made.bundle.run(mode="double")


def test_a_parameter_chooses_and_the_other_part_does_not_run(tmp_path: Path) -> None:
    made = Exported(BY_PARAMETER, tmp_path)
    assert made.parts == [("start",), ("a",), ("b",), ("end",)]
    assert made.fixed == {}
    made.run(mode="half")
    assert made.ran == ["noise", "encode", "encode2", "either", "encode4"]
    made.run(mode="pull")
    assert made.ran == ["noise", "encode", "encode3", "either", "encode4"]


def test_what_only_one_branch_needs_of_the_host_runs_for_it_alone(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, fresh: {{default: true, type: bool}}}}
nodes:
  {NOISE}
  other: {{use: noise.gaussian, in: {{seed: params.seed}}, with: {{shape: [2, 4, 6], index: 7}}}}
  a: {{use: plan.halve, in: {{x: noise}}}}
  b: {{use: plan.scale, in: {{x: other}}, with: {{factor: 2.0}}}}
  either: {{choose: {{when: params.fresh, of: {{true: b, false: a}}}}}}
outputs: {{either: either}}
"""
    made = Exported(text, tmp_path)
    made.run(fresh=True)
    assert made.ran == ["other", "encode2", "either"]
    made.run(fresh=False)
    assert made.ran == ["noise", "encode", "either"]


IN_A_LOOP = f"""
params: {{seed: 0, n: 4}}
nodes:
  {NOISE}
  run:
    loop: {{over: params.n, as: i}}
    carry: {{x: noise}}
    body:
      same: {{use: plan.scale, in: {{x: carry.x}}, with: {{factor: 0.9}}}}
      a: {{use: plan.halve, in: {{x: same}}}}
      b: {{use: plan.pull, in: {{x: same}}}}
      either: {{choose: {{when: loop.index, of: {{1: b}}, otherwise: a}}}}
    next: {{x: either}}
    collect: {{all: either}}
outputs: {{x: run.x, all: run.all}}
"""


@pytest.mark.parametrize("kind", [Exported, pytest.param(Bundled, marks=pytest.mark.slow)])
def test_a_loop_of_a_bundle_chooses_in_each_iteration(kind: type[Exported], tmp_path: Path) -> None:
    made = kind(IN_A_LOOP, tmp_path)
    made.run()
    assert made.parts == [("run.body.same",), ("run.body.a",), ("run.body.b",)]
    same, a, b = (f"run.step{number}" for number in ("", 2, 3))
    assert [name for name in made.ran if "step" in name] == [same, a, same, b, same, a, same, a]


@pytest.mark.parametrize("kind", [Exported, pytest.param(Bundled, marks=pytest.mark.slow)])
def test_the_host_chooses_by_what_a_graph_computes(kind: type[Exported], tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0}}
nodes:
  {NOISE}
  high: {{use: plan.above, in: {{x: noise}}, with: {{bound: 0.0}}}}
  a: {{use: plan.halve, in: {{x: noise}}}}
  b: {{use: plan.pull, in: {{x: noise}}}}
  either: {{choose: {{when: high, of: {{true: a, false: b}}}}}}
outputs: {{either: either}}
"""
    made = kind(text, tmp_path)
    taken = set()
    for seed in range(4):
        made.run(seed=seed)
        taken.add(tuple(name for name in made.ran if "encode" in name))
    assert taken == {("encode", "encode2"), ("encode", "encode3")}


def test_structured_values_and_nested_choices(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, mode: first, deep: 1}}
nodes:
  {NOISE}
  a: {{use: plan.mix, in: {{x: noise, average: noise}}}}
  told: {{use: plan.tokens, in: {{x: noise}}}}
  halved: {{use: plan.halve, in: {{x: noise}}}}
  other: {{use: plan.tokens, in: {{x: halved}}}}
  condition: {{choose: {{when: params.deep, of: {{1: told}}, otherwise: other}}}}
  b: {{use: plan.told, in: {{x: noise, condition: condition}}}}
  c: {{use: plan.scale, in: {{x: noise}}, with: {{factor: 5.0}}}}
  inner: {{choose: {{when: params.deep, of: {{1: a.x, 2: a.average}}}}}}
  outer: {{choose: {{when: params.mode, of: {{first: inner, second: b}}, otherwise: c}}}}
outputs: {{outer: outer}}
"""
    made = Exported(text, tmp_path)
    for mode, deep, expected in (("first", 1, 1), ("first", 2, 1), ("second", 1, 2), ("second", 2, 2), ("third", 1, 1)):
        made.run(mode=mode, deep=deep)
        assert len([name for name in made.ran if "encode" in name]) == expected


def test_numbers_and_texts_are_chosen_too(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, mode: low, low: 2.0, high: 8.0}}
nodes:
  {NOISE}
  factor: {{choose: {{when: params.mode, of: {{low: params.low, high: params.high}}}}}}
  a: {{use: plan.scale, in: {{x: noise, factor: factor}}}}
outputs: {{a: a}}
"""
    made = Exported(text, tmp_path)
    made.run(mode="high")
    made.run(mode="low", low=3.0)


OF_MODELS = f"""
params: {{seed: 0, mode: low}}
nodes:
  {NOISE}
  low: {{use: plan.model, with: {{factor: 2.0}}}}
  high: {{use: plan.model, with: {{factor: 3.0}}}}
  either: {{choose: {{when: params.mode, of: {{low: low, high: high}}}}}}
  a: {{use: plan.ask, in: {{denoiser: either, x: noise}}}}
outputs: {{a: a}}
"""


def test_a_choice_of_models_is_made_at_export(tmp_path: Path) -> None:
    made = Exported(OF_MODELS, tmp_path, mode="high")
    assert made.parts == [("a",)]
    assert made.fixed == {"mode": "nodes.either (choose) makes a model of it, and runs at export only"}
    made.run()


def test_a_fixed_choice_computes_one_branch_at_export(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0}}
nodes:
  {NOISE}
  high: {{use: plan.is_long, with: {{word: abc}}}}
  a: {{use: plan.read, with: {{word: abcd}}}}
  b: {{use: plan.fail}}
  either: {{choose: {{when: high, of: {{true: a, false: b}}}}}}
  end: {{use: plan.mix, in: {{x: noise, average: either}}}}
outputs: {{end: end.x}}
"""
    Exported(text, tmp_path).run()


def test_branches_of_different_structure_are_refused(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, mode: low}}
nodes:
  {NOISE}
  low: {{use: plan.vector, in: {{x: noise}}}}
  high: {{use: plan.tokens, in: {{x: noise}}}}
  either: {{choose: {{when: params.mode, of: {{low: low, high: high}}}}}}
  a: {{use: plan.told, in: {{x: noise, condition: either}}}}
outputs: {{a: a}}
"""
    with pytest.raises(ExportError, match=r"'low' and 'high' of nodes\.either give values of different structure"):
        Exported(text, tmp_path)


def test_one_graph_has_the_branch_of_its_export_alone(tmp_path: Path) -> None:
    graph = graph_of(BY_PARAMETER, tmp_path)
    actual, fixed, _, _ = plan_export(graph, {"seed": 0, "mode": "pull"}, one_graph=True)
    assert [part.keys for part in actual.parts] == [("start", "b", "end")]
    assert fixed == {"mode": "nodes.either (choose) is made by it, and one graph has one branch of a choice"}
    with pytest.raises(ExportError, match=r"nodes\.run\.body\.either \(choose\) is made by what a run computes"):
        plan_export(graph_of(IN_A_LOOP, tmp_path), {"seed": 0, "n": 4}, one_graph=True)
