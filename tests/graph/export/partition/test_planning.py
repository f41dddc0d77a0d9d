"""The operations that an export leaves for the run, and their grouping into host operations and graphs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guidegraph.graph.execution.run import run
from guidegraph.graph.export.bundle import check_bundle_path, write_bundle
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.partition.precision import parse_precisions
from guidegraph.graph.export.workflow import export_workflow, plan_export
from guidegraph_runtime.bundle.manifest import Operation
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.sessions.sessions import SessionSettings
from tests.graph.export.partition.planning import graph_of

NOISE = "noise: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [2, 4, 6]}}"


def plan_of(text: str, folder: Path, **values: Any) -> tuple[list[tuple[str, str]], dict[str, str], list[str]]:
    """Operations and nodes of the plan, bodies after their loops; what is fixed; the parts' operations."""
    graph = graph_of(text, folder)
    defaults = {name: parameter.default for name, parameter in graph.params.items()}
    planner, fixed, plan, _ = plan_export(graph, {**defaults, **values})
    return _flat(plan), fixed, [" ".join(part.keys) for part in planner.parts]


def _flat(plan: tuple[Operation, ...]) -> list[tuple[str, str]]:
    return [pair for item in plan for pair in ((item.op, item.node), *_flat(item.body or ()))]


def test_neighbours_become_one_part(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, factor: 2.0}}
nodes:
  {NOISE}
  a: {{use: plan.halve, in: {{x: noise}}}}
  b: {{use: plan.scale, in: {{x: a, factor: params.factor}}}}
  c: {{use: plan.pull, in: {{x: b}}}}
outputs: {{b: b, c: c}}
"""
    plan, fixed, parts = plan_of(text, tmp_path)
    assert plan == [("noise.gaussian", "noise"), ("part", "encode")]
    assert parts == ["a b c"]
    assert fixed == {}


def test_a_host_operation_parts_what_is_before_it_from_what_is_after(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0}}
nodes:
  {NOISE}
  a: {{use: plan.halve, in: {{x: noise}}}}
  other: {{use: noise.gaussian, in: {{like: a, seed: params.seed}}}}
  b: {{use: plan.halve, in: {{x: a}}}}
  c: {{use: plan.halve, in: {{x: other}}}}
outputs: {{b: b, c: c}}
"""
    plan, _, parts = plan_of(text, tmp_path)
    assert plan == [
        ("noise.gaussian", "noise"),
        ("part", "encode"),
        ("noise.gaussian", "other"),
        ("part", "encode2"),
    ]
    assert parts == ["a b", "c"]


def test_what_no_parameter_changes_is_computed_at_export(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, word: abc, count: 2}}
nodes:
  {NOISE}
  known: {{use: plan.read, with: {{word: constant}}}}
  asked: {{use: plan.read, in: {{word: params.word}}}}
  a: {{use: plan.mix, in: {{x: noise, average: known}}}}
  b: {{use: plan.mix, in: {{x: a.x, average: asked}}}}
  c: {{use: plan.times, in: {{x: b.x, count: params.count}}}}
outputs: {{c: c}}
"""
    plan, fixed, parts = plan_of(text, tmp_path)
    assert parts == ["a b c"]
    assert plan[-1] == ("part", "encode")
    assert "plan.read" in fixed["word"]
    assert "while it is traced" in fixed["count"]
    assert "seed" not in fixed


def test_what_only_python_can_do_is_named(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0}}
nodes:
  {NOISE}
  run:
    loop: {{over: {{}}, as: i}}
    carry: {{x: noise}}
    body:
      a: {{use: plan.secret, in: {{x: carry.x}}}}
    next: {{x: a}}
outputs: {{x: run.x}}
""".replace("over: {}", "over: params.steps").replace("{seed: 0}", "{seed: 0, steps: 3}")
    with pytest.raises(ExportError, match=r"workflow.yaml:10:\d+: .*nodes.run.body.a \(plan.secret\).*--only"):
        plan_of(text, tmp_path)


def test_a_seed_is_fixed_where_python_must_have_its_noise(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, factor: 1.5}}
nodes:
  {NOISE}
  a: {{use: plan.secret, in: {{x: noise}}}}
  b: {{use: plan.scale, in: {{x: a, factor: params.factor}}}}
outputs: {{b: b}}
"""
    plan, fixed, _ = plan_of(text, tmp_path)
    assert plan == [("part", "encode")]
    assert fixed == {"seed": "nodes.a (plan.secret) runs at export only"}


def test_a_parameter_that_a_model_is_made_of_is_fixed(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, steps: 3, strength: 0.5, factor: 2.0}}
nodes:
  {NOISE}
  model: {{use: plan.model, in: {{factor: params.strength}}}}
  run:
    loop: {{over: params.steps, as: i}}
    carry: {{x: noise}}
    body:
      said: {{use: plan.ask, in: {{denoiser: model, x: carry.x}}}}
      a: {{use: plan.scale, in: {{x: said, factor: params.factor}}}}
    next: {{x: a}}
outputs: {{x: run.x}}
"""
    plan, fixed, parts = plan_of(text, tmp_path)
    assert fixed == {"strength": "nodes.model (plan.model) makes a model of it, and runs at export only"}
    assert parts == ["run.body.said run.body.a"]
    assert ("part", "run.step") in plan


def test_an_output_that_is_the_same_in_every_run_is_refused(tmp_path: Path) -> None:
    text = "nodes: {known: {use: plan.read, with: {word: constant}}}\noutputs: {known: known}"
    with pytest.raises(ExportError, match="output 'known' is the same in every run"):
        plan_of(text, tmp_path)


LOOP = f"""
params: {{seed: 3, steps: 4, factor: 0.5}}
nodes:
  {NOISE}
  start: {{use: plan.scale, in: {{x: noise}}, with: {{factor: 0.0}}}}
  run:
    loop: {{over: params.steps, as: i}}
    carry: {{x: noise, average: start}}
    body:
      fresh: {{use: noise.gaussian, in: {{like: carry.x, index: loop.index, seed: params.seed}}}}
      mixed: {{use: plan.mix, in: {{x: fresh, average: carry.average}}}}
      pulled: {{use: plan.pull, in: {{x: mixed.x}}}}
      both: {{use: guidance.add_scores, in: {{scores: [pulled, pulled]}}}}
      x: {{use: tensor.cat, in: {{tensors: [both, mixed.x]}}, with: {{axis: 1}}}}
      sum: {{use: plan.fold, in: {{x: x, factor: params.factor}}}}
    next: {{x: sum, average: mixed.average}}
    collect: {{kept: sum}}
  half: {{use: plan.halve, in: {{x: run.x}}}}
outputs: {{half: half, kept: run.kept}}
"""


def test_a_loop_runs_as_in_the_engine(tmp_path: Path) -> None:
    """Noise at each step, a gradient in the body, two carries, a collected value: other steps, seeds and sizes."""
    graph = graph_of(LOOP, tmp_path)
    values: dict[str, Any] = {"seed": 3, "steps": 4, "factor": 0.5}
    exported = export_workflow(graph, values)
    assert [part.plan.name for part in exported.parts] == ["encode", "run.step", "decode"]
    write_bundle(exported, tmp_path / "bundle", kinds={"half": "tensor", "kept": "tensor"}, versions={})
    bundle = Bundle(tmp_path / "bundle", SessionSettings.on("cpu", intra_threads=1))
    for change in ({}, {"steps": 7, "seed": 11, "factor": -1.25}, {"steps": 1}):
        actual = bundle.run(**change)
        expected = run(graph, {**values, **change}).outputs
        for name, tensor in expected.items():
            assert actual[name].shape == tuple(tensor.shape)
            np.testing.assert_allclose(actual[name], tensor.numpy(), rtol=1e-5, atol=1e-6)
    assert bundle.run_with({}, nodes={"noise.shape": [2, 3, 5], "noise.batch": 3})["half"].shape == (3, 2, 3, 5)


def test_a_bundle_takes_the_place_of_a_bundle_alone(tmp_path: Path) -> None:
    graph = graph_of(LOOP, tmp_path)
    exported = export_workflow(graph, {"seed": 3, "steps": 4, "factor": 0.5}, only=["half"])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="is there and no bundle"):
        write_bundle(exported, tmp_path / "taken", kinds={"half": "tensor"}, versions={})
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "years of work"
    for _ in range(2):
        write_bundle(exported, tmp_path / "bundle", kinds={"half": "tensor"}, versions={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "taken", "workflow.yaml"]
    assert torch.isfinite(torch.from_numpy(Bundle(tmp_path / "bundle").run()["half"])).all()


WORDS = f"""
params: {{seed: 0, words: {{default: [a, bbb, cc], type: list}}}}
nodes:
  {NOISE}
  run:
    loop: {{over: params.words, as: w}}
    carry: {{x: noise}}
    body:
      a: {{use: plan.spell, in: {{x: carry.x, word: loop.w}}}}
    next: {{x: a}}
outputs: {{x: run.x}}
"""


def test_a_text_that_changes_is_not_traced_as_one(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'run.w' is 'bbb', no tensor and no number, and nodes.run.body.a"):
        plan_of(WORDS, tmp_path)


def test_a_flag_that_is_traced_is_fixed_whatever_its_port_takes_besides(tmp_path: Path) -> None:
    text = f"""
params: {{seed: 0, up: {{default: true, type: bool}}}}
nodes:
  {NOISE}
  a: {{use: plan.flag, in: {{x: noise, up: params.up}}}}
outputs: {{a: a}}
"""
    _, fixed, _ = plan_of(text, tmp_path)
    assert fixed == {"up": "nodes.a (plan.flag) takes it while it is traced"}


FIXED = f"""
params: {{seed: 3, n: 3, by: 2.0}}
nodes:
  {NOISE}
  wide: {{use: plan.times, in: {{x: noise, count: params.n}}}}
  run:
    loop: {{over: params.n, as: i}}
    carry: {{x: wide, by: params.by}}
    body:
      a: {{use: plan.scale, in: {{x: carry.x, factor: carry.by}}}}
    next: {{x: a, by: params.by}}
outputs: {{x: run.x}}
"""


def test_what_is_fixed_still_counts_a_loop_and_starts_a_carry(tmp_path: Path) -> None:
    graph = graph_of(FIXED, tmp_path)
    values: dict[str, Any] = {"seed": 3, "n": 3, "by": 2.0}
    exported = export_workflow(graph, values)
    assert "n" in exported.fixed
    write_bundle(exported, tmp_path / "bundle", kinds={"x": "tensor"}, versions={})
    actual = Bundle(tmp_path / "bundle", SessionSettings.on("cpu", intra_threads=1)).run(by=0.5)
    expected = run(graph, {**values, "by": 0.5}).outputs["x"]
    np.testing.assert_allclose(actual["x"], expected.numpy(), rtol=1e-6)


FLOATS = f"""
params: {{seed: 3, factors: {{default: [1.5, 2.0, -0.5], type: list}}}}
nodes:
  {NOISE}
  run:
    loop: {{over: params.factors, as: f}}
    carry: {{x: noise}}
    body:
      a: {{use: plan.scale, in: {{x: carry.x, factor: loop.f}}}}
    next: {{x: a}}
outputs: {{x: run.x}}
"""


def test_a_loop_over_numbers(tmp_path: Path) -> None:
    graph = graph_of(FLOATS, tmp_path)
    values: dict[str, Any] = {"seed": 3, "factors": [1.5, 2.0, -0.5]}
    write_bundle(export_workflow(graph, values), tmp_path / "bundle", kinds={"x": "tensor"}, versions={})
    bundle = Bundle(tmp_path / "bundle", SessionSettings.on("cpu", intra_threads=1))
    for change in ({}, {"factors": [3.0, 0.25]}):
        expected = run(graph, {**values, **change}).outputs["x"]
        np.testing.assert_allclose(bundle.run(**change)["x"], expected.numpy(), rtol=1e-6)


def test_places_where_no_bundle_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for place, message in (("bundle/inner", "lies in the bundle"), ("file/b", "is a file"), (".", "the current one")):
        with pytest.raises(ExportError, match=message):
            check_bundle_path(Path(place))
    check_bundle_path(Path("bundle"))
    check_bundle_path(Path("new/deep"))


def test_a_link_to_a_bundle_leads_to_the_new_one_and_a_failed_exchange_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export_workflow(graph_of(LOOP, tmp_path), {"seed": 3, "steps": 2, "factor": 0.5}, only=["half"])
    real, link = tmp_path / "real", tmp_path / "link"
    write_bundle(exported, real, kinds={"half": "tensor"}, versions={"made": "1"})
    link.symlink_to(real)
    write_bundle(exported, link, kinds={"half": "tensor"}, versions={"made": "2"})
    assert link.is_symlink()
    assert Bundle(real).manifest.versions == {"made": "2"}
    replace = os.replace

    def fails_for_the_new(source: Any, target: Any) -> None:
        if Path(target) == real and not str(source).endswith(".old"):
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr("guidegraph.graph.export.bundle.os.replace", fails_for_the_new)
    with pytest.raises(OSError, match="no"):
        write_bundle(exported, real, kinds={"half": "tensor"}, versions={"made": "3"})
    assert Bundle(real).manifest.versions == {"made": "2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real", "workflow.yaml"]


def test_a_precision_of_no_part() -> None:
    with pytest.raises(ValueError, match="'=fp16' names no part; write fp16, or PART=fp16"):
        parse_precisions(["=fp16"])
