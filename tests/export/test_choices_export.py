"""Choices in a bundle: both branches are exported, and a run computes the one that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph.graph.export.bundle import write_bundle
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.workflow import export_workflow, planned
from guidegraph.graph.ir import Graph
from guidegraph.graph.run import RunOptions, run
from guidegraph_runtime.bundle import Bundle
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.sessions import SessionSettings
from tests.export.planning import graph_of

NOISE = "noise: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [2, 4, 6]}}"


class Exported:
    """A workflow, its bundle, and what of the bundle ran."""

    def __init__(self, text: str, folder: Path, **values: Any) -> None:
        self.graph: Graph = graph_of(text, folder)
        self.values = {name: parameter.default for name, parameter in self.graph.params.items()} | values
        exported = export_workflow(self.graph, self.values)
        self.fixed = exported.fixed
        self.parts = [part.plan.keys for part in exported.parts]
        write_bundle(exported, folder / "bundle", kinds=dict.fromkeys(exported.outputs, "tensor"), versions={})
        self.bundle = Bundle(folder / "bundle", SessionSettings.on("cpu", intra_threads=1))
        self.ran: list[str] = []

    def run(self, **params: Any) -> dict[str, Any]:
        """What the bundle gives, which is what the engine gives; ``ran`` has the parts that ran."""
        self.ran = []
        found = self.bundle.run_with(params, observer=lambda part, given, gave: self.ran.append(part))
        expected = run(self.graph, {**self.values, **params}, RunOptions()).outputs
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-5, atol=1e-6)
        return found


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
def test_a_parameter_of_the_bundle_chooses_and_the_other_part_does_not_run(tmp_path: Path) -> None:
    made = Exported(BY_PARAMETER, tmp_path)
    assert made.parts == [("start",), ("a",), ("b",), ("end",)]
    assert made.fixed == {}
    assert made.bundle.manifest.inputs["mode"].choices == ("half", "pull")
    made.run(mode="half")
    assert made.ran == ["encode", "encode2", "encode4"]
    made.run(mode="pull")
    assert made.ran == ["encode", "encode3", "encode4"]
    with pytest.raises(BundleError, match=r"'mode'.*half, pull"):
        made.run(mode="double")


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
    for fresh, expected in ((True, ["other", "encode2", "either"]), (False, ["noise", "encode", "either"])):
        finished: list[str] = []
        made.bundle.run_with({"fresh": fresh}, finished=lambda one, _: finished.append(one.node))  # noqa: B023
        assert finished == expected
        made.run(fresh=fresh)


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


@pytest.mark.slow
def test_a_loop_of_a_bundle_chooses_in_each_iteration(tmp_path: Path) -> None:
    made = Exported(IN_A_LOOP, tmp_path)
    made.run()
    assert made.parts == [("run.body.same",), ("run.body.a",), ("run.body.b",)]
    names = [*made.bundle.manifest.parts]
    assert made.ran == [names[0], names[1], names[0], names[2], names[0], names[1], names[0], names[1]]


@pytest.mark.slow
def test_the_host_chooses_by_what_a_graph_computes(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, factor: 1.0}}
nodes:
  {NOISE}
  high: {{use: plan.above, in: {{x: noise}}, with: {{bound: 0.0}}}}
  a: {{use: plan.halve, in: {{x: noise}}}}
  b: {{use: plan.pull, in: {{x: noise}}}}
  either: {{choose: {{when: high, of: {{true: a, false: b}}}}}}
outputs: {{either: either}}
"""
    made = Exported(text, tmp_path)
    taken = set()
    for seed in range(4):
        made.run(seed=seed)
        taken.add(tuple(made.ran))
    assert taken == {("encode", "encode2"), ("encode", "encode3")}


@pytest.mark.slow
def test_structured_values_and_nested_choices(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, mode: first, deep: 1}}
nodes:
  {NOISE}
  a: {{use: plan.mix, in: {{x: noise, average: noise}}}}
  b: {{use: plan.halve, in: {{x: noise}}}}
  c: {{use: plan.scale, in: {{x: noise}}, with: {{factor: 5.0}}}}
  inner: {{choose: {{when: params.deep, of: {{1: a.x, 2: a.average}}}}}}
  outer: {{choose: {{when: params.mode, of: {{first: inner, second: b}}, otherwise: c}}}}
outputs: {{outer: outer}}
"""
    made = Exported(text, tmp_path)
    for mode, deep, part in (("first", 1, "encode"), ("first", 2, "encode"), ("second", 1, "encode2")):
        made.run(mode=mode, deep=deep)
        assert made.ran == [part]
    made.run(mode="anything else")
    assert made.ran == ["encode3"]


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_choice_of_models_is_made_at_export_with_one_branch_alone(tmp_path: Path) -> None:
    made = Exported(OF_MODELS, tmp_path, mode="high")
    assert made.fixed == {"mode": "nodes.either (choose) makes a model of it, and runs at export only"}
    made.run()


@pytest.mark.slow
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
    found, fixed, _, _ = planned(graph, {"seed": 0, "mode": "pull"}, one_graph=True)
    assert [part.keys for part in found.parts] == [("start", "b", "end")]
    assert fixed == {"mode": "nodes.either (choose) is made by it, and one graph has one branch of a choice"}
    with pytest.raises(ExportError, match=r"nodes\.run\.body\.either \(choose\) is made by what a run computes"):
        planned(graph_of(IN_A_LOOP, tmp_path), {"seed": 0, "n": 4}, one_graph=True)


def test_branches_are_parts_of_their_own(tmp_path: Path) -> None:
    def parts(text: str, **values: Any) -> list[tuple[str, ...]]:
        return [part.keys for part in planned(graph_of(text, tmp_path), {"seed": 0, **values})[0].parts]

    assert parts(BY_PARAMETER, mode="half") == [("start",), ("a",), ("b",), ("end",)]
    assert parts(IN_A_LOOP, n=4) == [("run.body.same",), ("run.body.a",), ("run.body.b",)]


def test_a_choice_of_models_fixes_its_parameter(tmp_path: Path) -> None:
    found, fixed, _, _ = planned(graph_of(OF_MODELS, tmp_path), {"seed": 0, "mode": "high"})
    assert [part.keys for part in found.parts] == [("a",)]
    assert fixed == {"mode": "nodes.either (choose) makes a model of it, and runs at export only"}
