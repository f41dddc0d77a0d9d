"""Steps of a bundle that leave out calls of a network, as the engine does for the same numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from guidegraph.graph.export.workflow import plan_export
from tests.graph.export.partition.test_choices_export import Bundled, Exported

TEXT = """
params: {seed: 0, steps: 5, scale: 3.0, low: 300.0, batch: 2}
nodes:
  denoiser: {use: plan.unet}
  schedule: {use: schedule.cosine}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule, steps: params.steps}}
  noise: {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [2, 4, 4]}}
  other: {use: noise.gaussian, with: {shape: [2, 4, 4], seed: 9}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      scale:  {use: guidance.interval, in: {t: loop.t, scale: params.scale, low: params.low}}
      cond:   {use: denoiser.predict, in: {denoiser: denoiser, x: carry.x, t: loop.t}}
      moved:  {use: plan.scale, in: {x: carry.x}, with: {factor: 0.5}}
      uncond: {use: denoiser.predict, in: {denoiser: denoiser, x: moved, t: loop.t}}
      guided: {use: guidance.cfg, in: {cond: cond, uncond: uncond, scale: scale}}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
outputs: {x: sample.x}
"""
WHOLE, SHORT = "sample.step", "sample.step.short"
KINDS = pytest.mark.parametrize("kind", [Exported, pytest.param(Bundled, marks=pytest.mark.slow)])


@KINDS
def test_a_step_without_guidance_runs_a_graph_with_one_call(kind: type[Exported], tmp_path: Path) -> None:
    made = kind(TEXT, tmp_path)
    predicts = [Counter(key.split(".")[-1] for key in part) for part in made.parts]
    assert [(keys["cond"], keys["uncond"]) for keys in predicts] == [(1, 1), (1, 0)]
    for low, scale, expected in (
        (300.0, 3.0, [WHOLE, WHOLE, WHOLE, SHORT, SHORT]),
        (900.0, 3.0, [SHORT] * 5),
        (0.0, 3.0, [WHOLE] * 5),
        (0.0, 1.0, [SHORT] * 5),
    ):
        made.run(low=low, scale=scale, seed=4)
        assert [name for name in made.ran if name.startswith(WHOLE)] == expected


@KINDS
def test_samples_of_a_batch_are_those_drawn_alone(kind: type[Exported], tmp_path: Path) -> None:
    made = kind(TEXT, tmp_path)
    together = made.run(seed=5, batch=3)["x"]
    alone = [made.run(seed=seed, batch=1)["x"] for seed in (5, 6, 7)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-6)


def test_an_interval_of_noise_levels_reads_the_schedule_of_the_model(tmp_path: Path) -> None:
    made = Exported(TEXT.replace("{t: loop.t, scale", "{t: loop.t, schedule: schedule, scale"), tmp_path)
    made.run(low=0.5)
    assert [name for name in made.ran if name.startswith(WHOLE)] == [WHOLE] * 3 + [SHORT] * 2


def test_a_number_that_is_the_same_at_each_step_gives_no_other_graph(tmp_path: Path) -> None:
    """It costs a graph for a run that nobody makes: guidance at a scale of 1."""
    made = Exported(TEXT.replace("uncond: uncond, scale: scale", "uncond: uncond, scale: params.scale"), tmp_path)
    assert len(made.parts) == 1


def test_two_numbers_have_a_form_for_each_and_one_for_both(tmp_path: Path) -> None:
    late = "second: {use: guidance.interval, in: {t: loop.t, scale: params.scale}, with: {low: 700.0}}"
    third = "third: {use: denoiser.predict, in: {denoiser: denoiser, x: other, t: loop.t}}"
    again = "again: {use: guidance.cfg, in: {cond: guided, uncond: third, scale: second}}"
    text = TEXT.replace("prediction: guided", "prediction: again").replace(
        "      step:\n", f"      {late}\n      {third}\n      {again}\n      step:\n"
    )
    made = Exported(text, tmp_path)
    made.run()
    assert len(made.parts) == 4
    calls = [sum(key.split(".")[-1] in ("cond", "uncond", "third") for key in part) for part in made.parts]
    assert calls[:2] == [3, 1]
    assert sorted(calls[2:]) == [2, 2]
    by_name = dict(zip((part.name for part in made.planner.parts), calls, strict=True))
    assert [by_name[name] for name in made.ran if name.startswith(WHOLE)] == [3, 2, 2, 1, 1]


def test_a_graph_that_holds_the_whole_workflow_makes_each_call(tmp_path: Path) -> None:
    made = Exported(TEXT, tmp_path)
    planner, *_ = plan_export(made.graph, made.values, one_graph=True)
    assert len(planner.parts) == 1


@pytest.mark.slow
def test_unlike_runs_share_the_calls_of_each_form(tmp_path: Path) -> None:
    """Two runs guide at three of five steps and one at none, so the whole runs at three steps and its form at all."""
    bundle = Bundled(TEXT, tmp_path).bundle
    requests = [{"seed": 1, "low": 300.0}, {"seed": 2, "low": 300.0, "scale": 5.0}, {"seed": 3, "low": 900.0}]
    runs = [bundle.start(**request) for request in requests]
    before = Counter(bundle.timings.calls)
    while not all(run.done for run in runs):
        bundle.step(runs)
    calls = Counter(bundle.timings.calls) - before
    assert (calls[WHOLE], calls[SHORT]) == (3, 5)
    for request, run in zip(requests, runs, strict=True):
        np.testing.assert_allclose(run.finish()["x"], bundle.run(**request)["x"], atol=1e-5)


@pytest.mark.slow
def test_the_manifest_has_a_shorter_form_with_its_numbers(tmp_path: Path) -> None:
    made = Bundled(TEXT, tmp_path)
    (loop,) = [operation for operation in made.bundle.manifest.plan if operation.op == "loop"]
    whole = next(operation for operation in loop.body or () if operation.node == WHOLE)
    (form,) = whole.body or ()
    assert (form.node, form.outputs, form.settings["when"]) == (SHORT, whole.outputs, {"sample.body.scale": 1.0})
    assert made.bundle.manifest.parts[SHORT].outputs == made.bundle.manifest.parts[WHOLE].outputs
