"""The shipped workflow of guided-diffusion's `--use_ddim`: clipping, then the classifier's shift of ε, then DDIM."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.sampling.noise import gaussian
from plugins.families.tests.guided import guided_reference as reference
from plugins.families.tests.guided.test_guided_workflow import LABELS, SCALE, SEED, STEPS, cosine_alphas_bar
from tests.paths import ROOT

SHIPPED = ROOT / "workflows" / "checkpoints" / "class_conditional_ddim.yaml"
FLAGS = reference.small(use_new_attention_order=True, num_head_channels=16, class_cond=True)
JUDGE_FLAGS = reference.small(num_channels=64, num_head_channels=64)


def sample_ddim(unet: dict[str, Tensor], judge: dict[str, Tensor], x: Tensor) -> Tensor:
    """ddim_sample with clip_denoised and cond_fn, on every 200th timestep: Dhariwal & Nichol 2021, algorithm 2."""
    bars, y = cosine_alphas_bar(), torch.tensor(LABELS)
    for index in reversed(range(STEPS)):
        t = torch.full((2,), index * 1000.0 // STEPS)
        bar, last = bars[int(t[0])], bars[(index - 1) * 1000 // STEPS] if index else 1.0
        eps = reference.unet(reference.weights_of(unet), x, t, FLAGS, y)[:, :3]
        x0 = ((x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)).clamp(-1, 1)
        x_grad = x.detach().requires_grad_()
        logits = reference.classifier(reference.weights_of(judge), x_grad, t, JUDGE_FLAGS)
        (gradient,) = torch.autograd.grad(torch.log_softmax(logits, 1)[[0, 1], y].sum(), x_grad)
        eps = (x - math.sqrt(bar) * x0) / math.sqrt(1 - bar) - math.sqrt(1 - bar) * SCALE * gradient
        x0 = (x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)
        x = math.sqrt(last) * x0 + math.sqrt(1 - last) * eps
    return x


def test_the_shipped_workflow_gives_the_samples_of_upstreams_ddim(tmp_path: Path) -> None:
    unet = reference.state(FLAGS, device="cpu")
    judge = reference.state(JUDGE_FLAGS, judge=True, device="cpu", seed=1)
    torch.save(unet, tmp_path / "model.pt")
    torch.save(judge, tmp_path / "classifier.pt")
    text = SHIPPED.read_text(encoding="utf-8")
    settings = "with: {attention: new, head_channels: 16, noise_schedule: cosine}"
    text = text.replace("in: {path: params.checkpoint}}", f"in: {{path: params.checkpoint}}, {settings}}}")
    text = text.replace("outputs: {image: image}", "outputs: {image: image, sample: sample.x}")
    (tmp_path / "sample.yaml").write_text(text, encoding="utf-8")
    workflow = load_workflow(tmp_path / "sample.yaml")
    actual = workflow.run(
        checkpoint=tmp_path / "model.pt",
        classifier=tmp_path / "classifier.pt",
        label=LABELS,
        scale=SCALE,
        steps=STEPS,
        seed=SEED,
        batch=2,
        shape=[3, 16, 16],
    )["sample"]
    expected = sample_ddim(unet, judge, gaussian(seed=SEED, shape=(3, 16, 16), batch=2))
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)
