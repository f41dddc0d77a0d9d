"""Smoothed energy guidance: against another implementation of the blur, its limits, the workflow, the bundle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d

import guidegraph_seg as seg
from guidegraph import AttentionCall, Condition, Prediction, load_workflow
from guidegraph_families.networks.denoiser import ReleasedDenoiser
from plugins.families.tests.diffusers.test_unet_names import ours
from plugins.families.tests.tiny import unet
from tests.graph.export.exporting import LEVEL, WORKFLOWS, difference, made

WORKFLOW = Path(seg.__file__).with_name("text_to_image.yaml")
PLUGIN = ("guidegraph_seg",)
OTHER: dict[str, Any] = {"steps": 4, "batch": 3, "scale": 6.0, "seg": 1.0}
"""Parameters other than at export."""


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (3, 4, 5, 5), generator=torch.Generator().manual_seed(seed))


def theirs(query: torch.Tensor, sigma: float) -> torch.Tensor:
    """diffusers' blur of queries (B, N, C) of a square map.

    diffusers 0.42 has its two branches the wrong way round: it takes the mean up to the threshold and a kernel above
    it. A threshold below any deviation gives the kernel.
    """
    size = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    return _gaussian_blur_2d(query.clone(), size, sigma, -1.0)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("side", [3, 4, 7, 8])
def test_the_blur_is_that_of_the_authors_code(sigma: float, side: int) -> None:
    query = random(0, 2, side * side, 5)
    torch.testing.assert_close(seg.blur(query, (side, side), sigma), theirs(query, sigma))


def test_an_infinite_blur_is_the_mean_and_a_narrow_one_changes_nothing() -> None:
    query = random(0, 2, 3, 12, 5)
    torch.testing.assert_close(seg.blur(query, (3, 4), math.inf), query.mean(2, keepdim=True).expand_as(query))
    torch.testing.assert_close(seg.blur(query, (3, 4), 1e-3), query)


def test_a_map_that_is_not_square_is_blurred_along_its_own_axes() -> None:
    query = random(0, 1, 2, 15, 4)
    turned = query.unflatten(2, (3, 5)).transpose(2, 3).flatten(2, 3)
    back = seg.blur(turned, (5, 3), 1.0).unflatten(2, (5, 3)).transpose(2, 3).flatten(2, 3)
    torch.testing.assert_close(seg.blur(query, (3, 5), 1.0), back)
    rows = query.unflatten(2, (3, 5)) * 0 + torch.arange(3.0)[:, None, None]
    actual = seg.blur(rows.flatten(2, 3), (3, 5), 1.0).unflatten(2, (3, 5))
    assert torch.allclose(actual, actual[:, :, :, :1].expand_as(actual))


def test_blurred_queries_are_blurred_logits() -> None:
    query, key, value = (random(seed, 1, 2, 16, 3) for seed in range(3))
    call = AttentionCall(query, key, value, None, (4, 4))
    logits = seg.blur(query @ key.transpose(-2, -1) / math.sqrt(3), (4, 4), 0.8)
    torch.testing.assert_close(call.weights(query=seg.blur(query, (4, 4), 0.8)), logits.softmax(-1))


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_a_smoothed_denoiser_is_that_of_diffusers(sigma: float) -> None:
    model = unet("sd1")
    denoiser = ReleasedDenoiser(ours(model))
    x, t, tokens = random(0, 2, 4, 16, 16), torch.tensor([3.0, 700.0]), random(1, 2, 7, 64)
    plain = denoiser(x, t, Condition(tokens=tokens)).value

    def smooth_reference(module: torch.nn.Module, args: object, query: torch.Tensor) -> torch.Tensor:
        return query.mean(1, keepdim=True).expand_as(query) if math.isinf(sigma) else theirs(query, sigma)

    model.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.register_forward_hook(smooth_reference)
    expected = model(x, t, encoder_hidden_states=tokens).sample
    actual = seg.perturb(denoiser, sigma=sigma)(x, t, Condition(tokens=tokens)).value
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    assert (actual - plain).abs().max() > 1e-3


def test_guidance_is_the_papers_alone_and_adds_to_that_of_conditions() -> None:
    cond, uncond, smooth = (Prediction(random(seed), "eps", random(seed + 9)) for seed in range(3))
    alone = seg.guide(cond, cond, smooth, scale=2.0)
    torch.testing.assert_close(alone.value, cond.value + 2 * (cond.value - smooth.value))
    assert alone.variance is cond.variance
    actual = seg.guide(uncond + 4.0 * (cond - uncond), cond, smooth, scale=torch.tensor([0.0, 1.0, 5.0])).value
    gamma = torch.tensor([0.0, 1.0, 5.0])[:, None, None, None]
    expected = uncond.value + 4 * (cond.value - uncond.value) + gamma * (cond.value - smooth.value)
    torch.testing.assert_close(actual, expected)


def test_sites_that_are_no_self_attention_are_refused() -> None:
    denoiser = ReleasedDenoiser(ours(unet("sd1")))
    with pytest.raises(ValueError, match=r"not cross\.middle\.0"):
        seg.perturb(denoiser, sites=["self", "cross.middle"])


def test_the_workflow_draws_and_has_classifier_free_guidance_as_its_limit() -> None:
    params: dict[str, Any] = {"steps": 2, "batch": 2, "scale": 4.0}
    workflow = load_workflow(WORKFLOW, plugins=PLUGIN)
    plain = load_workflow(WORKFLOWS / "text_to_image.yaml").run(seed=0, **params)["image"]
    assert (workflow.run(**params, seg=0.0)["image"] - plain).abs().max() < 1e-4
    mean = workflow.run(**params, seg=6.0, sigma=math.inf)["image"]
    assert (mean - plain).abs().max() > 0.02
    assert (workflow.run(**params, seg=6.0, sigma=0.5)["image"] - mean).abs().max() > 0.01


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    exported = made(WORKFLOW, tmp_path, PLUGIN, steps=2, batch=2, sigma=0.8)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, OTHER):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
