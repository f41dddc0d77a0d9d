"""A small workflow with all that a single file has to hold: a prompt, CFG, a classifier's gradient, fresh noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from guidegraph.graph.node import Registry, get_spec, node
from guidegraph.nodes.types import Classifier, Condition, Denoiser, Prediction
from tests.graph.export.partition.planning import registry

WORKFLOW = """
params:
  prompt: {default: "a tiger on grass under a night sky", type: str | list}
  label: {default: 1, type: int | list}
  scale: 2.0
  strength: 3.0
  steps: 4
  seed: 3
  batch: 2
nodes:
  model:     {use: model.load, with: {path: "pkg:scenes"}}
  small:     {use: small.models}
  positive:  {use: text.encode, in: {embedder: model.text, prompt: params.prompt}}
  negative:  {use: text.encode, in: {embedder: model.text}, with: {prompt: ""}}
  label:     {use: label.constant, in: {label: params.label, batch: params.batch}}
  scheduler: {use: scheduler.ddpm, in: {schedule: model.schedule, steps: params.steps}, with: {clip: true}}
  noise:     {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [3, 8, 12]}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      cond:   {use: denoiser.predict, in: {denoiser: small.denoiser, x: carry.x, t: loop.t, condition: positive}}
      uncond: {use: denoiser.predict, in: {denoiser: small.denoiser, x: carry.x, t: loop.t, condition: negative}}
      guided: {use: guidance.cfg, in: {cond: cond, uncond: uncond, scale: params.scale}}
      score:
        use: guidance.classifier
        in: {classifier: small.classifier, x: carry.x, t: loop.t, label: label, scale: params.strength}
      fresh:  {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}
      step:
        use: scheduler.step
        in:
          {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, score: score, noise: fresh,
           state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
  image: {use: image.from_sample, in: {sample: sample.x}}
outputs: {image: image}
"""


class Network(nn.Module):
    """ε of two convolutions, with the time and the vector of a condition in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.vector = nn.Linear(128, 8)

    def forward(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        assert condition is not None
        assert condition.vector is not None
        dtype = self.first.weight.dtype
        vector = self.vector(condition.vector.to(dtype)) + (t / 1000).to(dtype)[:, None]
        inner = self.first(x.to(dtype)) + vector[:, :, None, None]
        return Prediction(self.second(nn.functional.silu(inner)).to(x.dtype), "eps")


class Guide(nn.Module):
    """Four classes of a convolution's means."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        dtype = self.first.weight.dtype
        time = (t / 1000).to(dtype)[:, None, None, None]
        inner = nn.functional.silu(self.norm(self.first(x.to(dtype))) + time)
        logits: Tensor = self.last(inner.mean((2, 3))).to(x.dtype)
        return logits


class Small(NamedTuple):
    denoiser: Denoiser
    classifier: Classifier


@node("small.models", host=True)
def models() -> Small:
    """Both networks, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small(Network().eval().requires_grad_(False), Guide().eval().requires_grad_(False))


def with_models() -> Registry:
    """The registry of the tests, with this node."""
    actual = registry()
    spec = get_spec(models)
    return Registry(nodes={**actual.nodes, spec.id: spec}, types=actual.types)
