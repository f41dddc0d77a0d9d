"""Two plugins from outside compose in one body with CFG and classifier guidance, and export, with no change here.

One makes a Score, by a gradient through the decoder; one maps predictions, with the context of the step and a state
from step to step. They are two distributions that know nothing of each other, found by their entry points.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from guidegraph import load_workflow
from guidegraph.plugins.manager import PluginManager
from tests.graph.export.exporting import LEVEL, made

BRIGHT = '''
"""A score toward a wanted brightness of the decoded picture."""

import torch

from guidegraph import (
    Autoencoder, Condition, Denoiser, Sample, Schedule, Score, Timesteps, hookimpl, node, predict
)


@node("bright.toward")
def toward(
    denoiser: Denoiser, autoencoder: Autoencoder, schedule: Schedule, x: Sample, t: Timesteps, condition: Condition,
    *, mean: float = 0.0, strength: float = 1.0,
) -> Score:
    """-strength times the gradient of the squared distance of the decoded picture's mean from `mean`."""
    with torch.enable_grad():
        x_in = x.detach().requires_grad_()
        picture = autoencoder.decode(schedule.to_x0(predict(denoiser, x_in, t, condition), x_in, t))
        distance = (picture.mean((1, 2, 3)) - mean).square().sum()
        (gradient,) = torch.autograd.grad(distance, x_in)
    return -strength * gradient


@hookimpl
def guidegraph_nodes():
    return [toward]
'''
STEADY = '''
"""Guidance that changes slowly from step to step, and begins late."""

from typing import NamedTuple

import torch

from guidegraph import Prediction, Sample, StepContext, Tensor, hookimpl, node


class Steadied(NamedTuple):
    prediction: Prediction
    mean: Tensor


@node("steady.start")
def start(x: Sample) -> Tensor:
    """No x0 yet."""
    return torch.zeros_like(x)


@node("steady.guide")
def guide(guided: Prediction, cond: Prediction, context: StepContext, mean: Tensor, *, keep: float = 0.5) -> Steadied:
    """A running mean of the guided x0, from the second step on; before it, cond as it is."""
    x0 = context.x0(guided)
    mean = torch.where(context.step > 0, keep * mean + (1 - keep) * x0, x0)
    steadied = context.convert(Prediction(mean, "x0"), guided.kind)
    return Steadied(Prediction(torch.where(context.step > 0, steadied.value, cond.value), cond.kind), mean)


@hookimpl
def guidegraph_nodes():
    return [start, guide]
'''
WORKFLOW = """
guidegraph: 1
requires: {guidegraph-bright: ">=0.1", guidegraph-steady: ">=0.1"}
params: {prompt: a tiger on grass under a night sky, scale: 4.0, steps: 3, seed: 0, batch: 2,
         mean: 0.9, strength: 200.0, keep: 0.5, sky: 20.0}
nodes:
  model:     {use: model.load, with: {path: "pkg:scenes"}}
  guide:     {use: model.load, with: {path: "pkg:scenes_sky"}}
  positive:  {use: text.encode, in: {embedder: model.text, prompt: params.prompt}}
  negative:  {use: text.encode, in: {embedder: model.text}, with: {prompt: ""}}
  label:     {use: label.constant, in: {batch: params.batch}, with: {label: 1}}
  scheduler: {use: scheduler.ddim, in: {schedule: model.schedule, steps: params.steps}}
  noise:     {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [4, 16, 16]}}
  nothing:   {use: steady.start, in: {x: noise}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state, mean: nothing}
    body:
      here:    {use: guidance.context, in: {scheduler: scheduler.scheduler, x: carry.x, state: carry.state, t: loop.t}}
      cond:    {use: denoiser.predict, in: {denoiser: model.denoiser, x: carry.x, t: loop.t, condition: positive}}
      uncond:  {use: denoiser.predict, in: {denoiser: model.denoiser, x: carry.x, t: loop.t, condition: negative}}
      free:    {use: guidance.cfg, in: {cond: cond, uncond: uncond, scale: params.scale}}
      steady:  {use: steady.guide, in: {guided: free, cond: cond, context: here, mean: carry.mean, keep: params.keep}}
      bright:
        use: bright.toward
        in: {denoiser: model.denoiser, autoencoder: model.autoencoder, schedule: model.schedule, x: carry.x, t: loop.t,
             condition: positive, mean: params.mean, strength: params.strength}
      night:
        use: guidance.classifier
        in: {classifier: guide.classifier, x: carry.x, t: loop.t, label: label, scale: params.sky}
      score:   {use: guidance.add_scores, in: {scores: [bright, night]}}
      guided:
        use: guidance.shift_eps
        in: {prediction: steady.prediction, score: score, x: carry.x, t: loop.t, schedule: model.schedule}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state, mean: steady.mean}
  image: {use: autoencoder.decode, in: {autoencoder: model.autoencoder, latent: sample.x}}
outputs: {image: image}
"""


def installed(site: Path, name: str, code: str) -> None:
    """A distribution as pip leaves it: a module, and metadata with its entry point."""
    (site / f"guidegraph_{name}.py").write_text(code, encoding="utf-8")
    info = site / f"guidegraph_{name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: guidegraph-{name}\nVersion: 0.1.0\nRequires-Dist: guidegraph>=0.1\n",
        encoding="utf-8",
    )
    (info / "entry_points.txt").write_text(f"[guidegraph]\n{name} = guidegraph_{name}\n", encoding="utf-8")


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workflow, with both distributions on the path."""
    site = tmp_path / "site"
    site.mkdir()
    installed(site, "bright", BRIGHT)
    installed(site, "steady", STEADY)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    path = tmp_path / "both.yaml"
    path.write_text(WORKFLOW, encoding="utf-8")
    return path


def test_both_act_and_each_can_be_turned_off(workflow: Path) -> None:
    manager = PluginManager()
    assert {"bright", "steady"} <= {status.name for status in manager.statuses if status.ok}

    def drawn(**params: float) -> np.ndarray:
        return load_workflow(workflow, registry=manager.registry).run(**params)["image"].numpy()

    both = drawn()
    without = {name: drawn(**{name: 0.0}) for name in ("strength", "keep", "sky")}
    for name, picture in without.items():
        assert np.abs(picture - both).max() > 0.05, name
    assert both.mean() > without["strength"].mean() + 0.02  # brighter than without the score
    assert np.abs(drawn(batch=1) - both[:1]).max() < 1e-4


@pytest.mark.slow
def test_both_export_in_one_step_and_run_without_torch(workflow: Path, tmp_path: Path) -> None:
    registry_of_host = PluginManager().registry
    assert {"bright.toward", "steady.guide"} <= set(registry_of_host.nodes)
    actual = made(workflow, tmp_path, steps=3, batch=2)
    assert "sample.step" in actual.bundle.manifest.parts
    (tmp_path / "engine").mkdir()
    for arguments in ({}, {"steps": 5, "batch": 3, "scale": 2.0, "mean": -0.5, "keep": 0.25}):
        engine, bundle = actual.engine(tmp_path / "engine", **arguments), actual.run(**arguments)
        assert np.abs(engine["image"] - bundle["image"]).max() <= LEVEL
    code = (
        "import sys; from guidegraph_runtime.cli import main; "
        f"sys.argv = ['guidegraph-run', {str(tmp_path / 'bundle')!r}, '--out', {str(tmp_path / 'out')!r}]; "
        "status = main(); "
        "assert 'torch' not in sys.modules and 'guidegraph_bright' not in sys.modules; sys.exit(status)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "out" / "image-0000.png").is_file()
