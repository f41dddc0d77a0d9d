"""A flow in a bundle: the shift follows the size of the noise, and samplers, levels and steps stay free."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxscript")

from tests.graph.export.exporting import Made, difference, made

PLUGIN = ("tests.nodes.sampling.mixture",)
WORKFLOW = """
guidegraph: 1
params: {steps: 4, seed: 0, strength: 1.0}
nodes:
  plain:     {use: schedule.flow}
  noise:     {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [1, 32, 32], batch: 2}}
  schedule:  {use: schedule.flow_shift, in: {schedule: plain, like: noise}}
  denoiser:  {use: mixture.denoiser, in: {schedule: plain}}
  grid:      {use: levels.flow, in: {schedule: schedule, steps: params.steps}}
  part:      {use: levels.start, in: {levels: grid, strength: params.strength}}
  scheduler: {use: scheduler.unipc, in: {schedule: schedule, levels: part}}
  start:     {use: scheduler.add_noise, in: {scheduler: scheduler.scheduler, x0: noise, noise: noise}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: start, state: scheduler.state}
    body:
      predicted: {use: denoiser.predict, in: {denoiser: denoiser, x: carry.x, t: loop.t}}
      fresh:     {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}
      step:
        use: scheduler.step
        in:
          scheduler: scheduler.scheduler
          x: carry.x
          prediction: predicted
          noise: fresh
          state: carry.state
          t: loop.t
    next: {x: step.x, state: step.state}
outputs: {sample: sample.x, steps: scheduler.steps}
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("flow")
    (folder / "flow.yaml").write_text(WORKFLOW, encoding="utf-8")
    return made(folder / "flow.yaml", folder, PLUGIN)


@pytest.mark.parametrize("params", [{}, {"steps": 7, "seed": 3}, {"steps": 6, "strength": 0.5}], ids=str)
def test_a_bundle_draws_what_the_engine_draws(exported: Made, params: dict[str, float], tmp_path: Path) -> None:
    engine, bundle = exported.engine(tmp_path, **params), exported.run(**params)
    np.testing.assert_array_equal(bundle["steps"], engine["steps"])
    assert difference(bundle, engine) < 1e-5
    assert (engine["steps"][0] == 1000) == ("strength" not in params)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "heun_flow"])
def test_another_sampler_in_the_bundle(exported: Made, name: str, tmp_path: Path) -> None:
    bundle = exported.run({"scheduler.use": f"scheduler.{name}"}, steps=5)
    engine = exported.engine(tmp_path, [("scheduler.unipc", f"scheduler.{name}")], steps=5)
    assert difference(bundle, engine) < 1e-5


def test_the_shift_is_that_of_the_noises_size(exported: Made) -> None:
    shift = np.exp(0.5 + (256 - 256) * 0.65 / 3840)
    even = 1 - np.arange(4) / 4
    np.testing.assert_allclose(exported.run()["steps"] / 1000, shift * even / (1 + (shift - 1) * even), rtol=1e-6)
