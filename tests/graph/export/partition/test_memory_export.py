"""A loop that carries the memory of rules, in a bundle: which graphs it has, and which of them a step runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.graph.export.partition.test_choices_export import Bundled, Exported

TEXT = """
params: {seed: 0, steps: 4, every: 2}
nodes:
  denoiser: {use: plan.unet}
  schedule: {use: schedule.cosine}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule, steps: params.steps}}
  noise: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [2, 4, 4]}}
  deep: {use: denoiser.deep_features, in: {denoiser: denoiser}, with: {site: deep.up.3}}
  empty: {use: denoiser.empty_memory, in: {denoiser: deep.keep, x: noise}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state, kept: empty}
    body:
      due:   {use: steps.is_due, in: {index: loop.index, every: params.every}}
      whole: {use: denoiser.predict_with_memory, in: {denoiser: deep.keep, x: carry.x, t: loop.t, memory: carry.kept}}
      fast:  {use: denoiser.predict_with_memory, in: {denoiser: deep.reuse, x: carry.x, t: loop.t, memory: carry.kept}}
      prediction: {choose: {when: due, of: {true: whole.prediction, false: fast.prediction}}}
      kept: {choose: {when: due, of: {true: whole.memory, false: carry.kept}}}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: prediction, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state, kept: kept}
outputs: {x: sample.x}
"""


@pytest.mark.parametrize("kind", [Exported, pytest.param(Bundled, marks=pytest.mark.slow)])
def test_a_bundle_carries_the_memory_of_rules(kind: type[Exported], tmp_path: Path) -> None:
    exported = kind(TEXT, tmp_path)
    assert [part for part in exported.parts if "sample" in part[0]] == [
        ("sample.body.whole",),
        ("sample.body.fast",),
        ("sample.body.step",),
    ]
    whole, fast = "sample.step", "sample.step2"
    for every, expected in ((2, [whole, fast, whole, fast]), (3, [whole, fast, fast, whole]), (1, [whole] * 4)):
        exported.run(every=every, seed=every)
        assert [name for name in exported.ran if name in (whole, fast)] == expected


@pytest.mark.parametrize("kind", [Exported, pytest.param(Bundled, marks=pytest.mark.slow)])
def test_each_sample_of_a_batch_has_a_memory_of_its_own(kind: type[Exported], tmp_path: Path) -> None:
    exported = kind(TEXT.replace("seed: 0", "seed: {default: [0], type: list}"), tmp_path)
    for every in (2, 3):
        together = exported.run(seed=[5, 9, 2], every=every)["x"]
        alone = [exported.run(seed=[seed], every=every)["x"] for seed in (5, 9, 2)]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-6)


def test_choices_of_one_value_make_one_graph_for_each_branch(tmp_path: Path) -> None:
    text = TEXT.replace("fast:  {use", "second: {use: plan.halve, in: {x: carry.x}}\n      fast:  {use")
    text = text.replace("    next:", "      half: {choose: {when: due, of: {true: second, false: carry.x}}}\n    next:")
    text = text.replace(
        "in: {scheduler: scheduler.scheduler, x: carry.x", "in: {scheduler: scheduler.scheduler, x: half"
    )
    exported = Exported(text, tmp_path)
    assert ("sample.body.whole", "sample.body.second") in exported.parts
    exported.run(every=3)
