"""guided-diffusion's checkpoints in a workflow: classifier guidance with a learned variance, step by step."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.sampling.noise import gaussian
from plugins.families.tests.guided import guided_reference as reference

STEPS, SCALE, SEED = 5, 300.0, 4  # the gradient of a classifier of random weights is small
LABELS = [6, 1]

WORKFLOW = """
guidegraph: 1
params:
  path: {type: Path, help: "the diffusion model"}
  classifier: {type: Path, help: "the classifier of noisy pictures"}
  labels: {type: list}
  scale: 1.0
  steps: 250
  seed: 0
nodes:
  model:
    use: checkpoint.load
    in: {path: params.path}
    with: {attention: new, head_channels: 16, noise_schedule: cosine}
  guide:     {use: checkpoint.load, in: {path: params.classifier}}
  label:     {use: label.constant, in: {label: params.labels}}
  condition: {use: label.embed, in: {embedder: model.label, label: label}}
  scheduler:
    use: scheduler.ddpm
    in: {schedule: model.schedule, steps: params.steps}
    with: {spacing: linspace, variance: learned, clip: true}
  noise:     {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [3, 16, 16], batch: 2}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      said:  {use: denoiser.predict, in: {denoiser: model.denoiser, x: carry.x, t: loop.t, condition: condition}}
      score:
        use: guidance.classifier
        in: {classifier: guide.classifier, x: carry.x, t: loop.t, label: label, scale: params.scale}
      fresh: {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}
      step:
        use: scheduler.step
        in:
          scheduler: scheduler.scheduler
          x: carry.x
          prediction: said
          score: score
          noise: fresh
          state: carry.state
          t: loop.t
    next: {x: step.x, state: step.state}
outputs: {sample: sample.x}
"""


def cosine_alphas_bar() -> list[float]:
    """ᾱ of Nichol & Dhariwal 2021, eq. 17, with β at most 0.999."""
    bar = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    actual, product = [], 1.0
    for t in range(1000):
        product *= 1 - min(1 - bar[t + 1] / bar[t], 0.999)
        actual.append(product)
    return actual


def sample(
    unet: dict[str, Tensor], flags: reference.Flags, judge: dict[str, Tensor], judge_flags: reference.Flags, x: Tensor
) -> Tensor:
    """Dhariwal & Nichol 2021, algorithm 1, with the learned variance of Nichol & Dhariwal 2021, eq. 15."""
    all_bars, y = cosine_alphas_bar(), torch.tensor(LABELS)
    visited = [round(999 / (STEPS - 1) * i) for i in range(STEPS)]
    bars = [all_bars[t] for t in visited]
    before = [1.0, *bars[:-1]]
    betas = [1 - bar / last for bar, last in zip(bars, before, strict=True)]
    smallest = [beta * (1 - last) / (1 - bar) for beta, bar, last in zip(betas, bars, before, strict=True)]
    smallest[0] = smallest[1]
    for index in reversed(range(STEPS)):
        t = torch.full((2,), float(visited[index]))
        bar, last, beta = bars[index], before[index], betas[index]
        out = reference.unet(reference.weights_of(unet), x, t, flags, y)
        eps, v = out[:, :3], out[:, 3:]
        variance = torch.exp((v + 1) / 2 * math.log(beta) + (1 - v) / 2 * math.log(smallest[index]))
        x0 = ((x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)).clamp(-1, 1)
        mean = math.sqrt(last) * beta / (1 - bar) * x0 + math.sqrt(1 - beta) * (1 - last) / (1 - bar) * x
        x_grad = x.detach().requires_grad_()
        logits = reference.classifier(reference.weights_of(judge), x_grad, t, judge_flags)
        (gradient,) = torch.autograd.grad(torch.log_softmax(logits, 1)[[0, 1], y].sum(), x_grad)
        fresh = gaussian(like=x, index=STEPS - 1 - index, seed=SEED)
        x = mean + variance * SCALE * gradient + (variance.sqrt() * fresh if index else 0)
    return x


def test_a_workflow_gives_the_samples_of_classifier_guidance_as_published(tmp_path: Path) -> None:
    flags = reference.small(use_new_attention_order=True, num_head_channels=16, class_cond=True)
    judge_flags = reference.small(num_channels=64, num_head_channels=64)
    unet = reference.state(flags, device="cpu")
    judge = reference.state(judge_flags, judge=True, device="cpu", seed=1)
    torch.save(unet, tmp_path / "model.pt")
    torch.save(judge, tmp_path / "classifier.pt")
    (tmp_path / "sample.yaml").write_text(WORKFLOW, encoding="utf-8")
    arguments = {"path": tmp_path / "model.pt", "classifier": tmp_path / "classifier.pt", "labels": LABELS}
    workflow = load_workflow(tmp_path / "sample.yaml")
    actual = workflow.run(**arguments, scale=SCALE, steps=STEPS, seed=SEED)["sample"]
    start = gaussian(seed=SEED, shape=(3, 16, 16), batch=2)
    expected = sample(unet, flags, judge, judge_flags, start)
    unguided = workflow.run(**arguments, scale=0.0, steps=STEPS, seed=SEED)["sample"]
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)
    assert (actual - unguided).abs().max() > 0.01
