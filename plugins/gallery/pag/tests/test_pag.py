"""Perturbed-attention guidance: against diffusers, its limits, the workflow, the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0

import guidegraph_pag as pag
from guidegraph import AttentionCall, Condition, Prediction, load_workflow
from guidegraph_families.networks.denoiser import ReleasedDenoiser
from plugins.families.tests.diffusers.test_unet_names import ours
from plugins.families.tests.tiny import unet
from tests.graph.export.exporting import LEVEL, WORKFLOWS, difference, made

WORKFLOW = Path(pag.__file__).with_name("text_to_image.yaml")
PLUGIN = ("guidegraph_pag",)
OTHER: dict[str, Any] = {"steps": 4, "batch": 3, "scale": 6.0, "pag": 1.0}
"""Parameters other than at export."""


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (3, 4, 5, 5), generator=torch.Generator().manual_seed(seed))


def test_a_perturbed_denoiser_is_that_of_diffusers() -> None:
    model = unet("sd1")
    denoiser = ReleasedDenoiser(ours(model))
    x, t, tokens = random(0, 2, 4, 16, 16), torch.tensor([3.0, 700.0]), random(1, 2, 7, 64)
    for module in model.mid_block.attentions[0].transformer_blocks:
        module.attn1.set_processor(PAGIdentitySelfAttnProcessor2_0())
    doubled = [torch.cat([tensor, tensor]) for tensor in (x, t, tokens)]
    plain, perturbed = model(doubled[0], doubled[1], encoder_hidden_states=doubled[2]).sample.chunk(2)
    condition = Condition(tokens=tokens)
    torch.testing.assert_close(denoiser(x, t, condition).value, plain, rtol=0, atol=1e-4)
    actual = pag.perturb(denoiser, sites="self.middle")(x, t, condition).value
    torch.testing.assert_close(actual, perturbed, rtol=0, atol=1e-4)
    assert (actual - plain).abs().max() > 1e-2


def test_the_map_is_the_identity() -> None:
    query, key, value = random(0, 2, 3, 6, 4), random(1, 2, 3, 6, 4), random(2, 2, 3, 6, 5)
    actual = pag.identity(AttentionCall(query, key, value, None, (2, 3)))
    torch.testing.assert_close(actual, torch.eye(6) @ value)


def test_guidance_is_the_papers_alone_and_adds_to_that_of_conditions() -> None:
    cond, uncond, worse = (Prediction(random(seed), "eps", random(seed + 9)) for seed in range(3))
    alone = pag.guide(cond, cond, worse, scale=2.0)
    torch.testing.assert_close(alone.value, cond.value + 2 * (cond.value - worse.value))
    assert alone.variance is cond.variance
    weights = torch.tensor([0.0, 1.0, 5.0])
    actual = pag.guide(uncond + 4.0 * (cond - uncond), cond, worse, scale=weights).value
    w = weights[:, None, None, None]
    expected = uncond.value + 4 * (cond.value - uncond.value) + w * (cond.value - worse.value)
    torch.testing.assert_close(actual, expected)
    single = pag.guide(
        Prediction(cond.value[1:2], "eps"), Prediction(cond.value[1:2], "eps"), Prediction(worse.value[1:2], "eps")
    )
    torch.testing.assert_close(single.value, pag.guide(cond, cond, worse).value[1:2])


def test_sites_that_are_no_self_attention_are_refused() -> None:
    denoiser = ReleasedDenoiser(ours(unet("sd1")))
    with pytest.raises(ValueError, match=r"not at cross\.middle\.0"):
        pag.perturb(denoiser, sites=["self", "cross.middle"])
    with pytest.raises(ValueError, match=r"no site 'self\.center'; .*self\.middle\.0"):
        pag.perturb(denoiser, sites="self.center")
    with pytest.raises(ValueError, match=r"has a rule already, guidegraph_pag\.identity, .*guidegraph_pag\.identity"):
        pag.perturb(pag.perturb(denoiser))


def test_the_workflow_draws_and_has_classifier_free_guidance_as_its_limit() -> None:
    params: dict[str, Any] = {"steps": 2, "batch": 2, "scale": 4.0}
    workflow = load_workflow(WORKFLOW, plugins=PLUGIN)
    plain = load_workflow(WORKFLOWS / "text_to_image.yaml").run(seed=0, **params)["image"]
    assert (workflow.run(**params, pag=0.0)["image"] - plain).abs().max() < 1e-4
    assert (workflow.run(**params, pag=6.0)["image"] - plain).abs().max() > 0.05


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    exported = made(WORKFLOW, tmp_path, PLUGIN, steps=2, batch=2)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, OTHER):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
