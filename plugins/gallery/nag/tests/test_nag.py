"""Normalized attention guidance: against its formula in two networks, its limits, the workflow, the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import guidegraph_nag as nag
from guidegraph import AttentionCall, Condition, load_workflow
from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling.denoiser import guide_denoiser
from guidegraph.nodes.sampling.denoiser_edm import precondition
from guidegraph_families.networks.denoiser import ReleasedDenoiser
from guidegraph_families.sd3 import load_sd3
from guidegraph_nag.attention import guide
from plugins.families.tests.diffusers.test_unet_names import ours
from plugins.families.tests.tiny import unet
from plugins.families.tests.transformers import sd3_writer
from tests.graph.export.exporting import LEVEL, difference, made
from tests.nodes.models.transformers.networks import TOKEN_WIDTH, captioned, flux, mmdit, z_image

WORKFLOW = Path(nag.__file__).with_name("text_to_image.yaml")
PLUGIN = ("guidegraph_nag",)
OTHER: dict[str, Any] = {"steps": 4, "batch": 3, "negative": "a cactus", "nag": 3.0}
"""Parameters other than at export."""

SETTINGS: dict[str, Any] = {"scale": 4.0, "tau": 1.2, "alpha": 0.6}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def papers_guidance(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """Of features (B, N, C), as the paper's code: extrapolate, limit the ratio of L1 norms, blend."""
    guided = positive * scale - negative * (scale - 1)
    ratio = guided.norm(p=1, dim=-1, keepdim=True) / positive.norm(p=1, dim=-1, keepdim=True)
    limited = guided * torch.minimum(ratio, torch.tensor(tau)) / ratio
    return limited * alpha + positive * (1 - alpha)


class NegativeProcessor:
    """Cross-attention of diffusers' U-Net to the first tokens, guided away from `count` last ones."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        def heads(features: Tensor) -> Tensor:
            return features.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        query, results = heads(attn.to_q(hidden_states)), []
        for tokens in (encoder_hidden_states[:, : -self.count], encoder_hidden_states[:, -self.count :]):
            attended = scaled_dot_product_attention(query, heads(attn.to_k(tokens)), heads(attn.to_v(tokens)))
            results.append(attended.transpose(1, 2).flatten(2))
        guided = papers_guidance(*results, **SETTINGS)
        out: Tensor = attn.to_out[0](guided)
        return out


def test_a_unets_prediction_is_the_papers() -> None:
    model = unet("sd1")
    denoiser = ReleasedDenoiser(ours(model))
    x, t = random(0, 2, 4, 16, 16), torch.tensor([3.0, 700.0])
    tokens, negative = random(1, 2, 7, 64), random(2, 1, 5, 64)
    for name, module in model.named_modules():
        if name.endswith("attn2"):
            module.set_processor(NegativeProcessor(5))
    both = torch.cat([tokens, negative.expand(2, -1, -1)], 1)
    expected = model(x, t, encoder_hidden_states=both).sample
    actual = nag.predict_away(denoiser, x, t, Condition(tokens=tokens), Condition(tokens=negative), **SETTINGS).value
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    assert (actual - denoiser(x, t, Condition(tokens=tokens)).value).abs().max() > 1e-2


@pytest.mark.parametrize("masked", [False, True])
def test_an_mmdits_prediction_is_that_of_a_doubled_batch(masked: bool) -> None:
    """As the paper's code has it: each text goes through the network with the picture, which is guided in both."""
    with use_device("cpu", "float32"):
        tensors = sd3_writer.single_file(sd3_writer.network("3.5 medium"))
        denoiser = load_sd3(tensors, Path("a"), LoadOptions())["denoiser"]
    x, t, vector = random(0, 2, 4, 16, 16), torch.tensor([3.0, 700.0]), random(3, 2, 20)
    tokens, negative = random(1, 2, 7, 24), random(2, 2, 7, 24)
    masks = [torch.arange(7) < torch.tensor([[7], [3]]), torch.arange(7) < torch.tensor([[2], [5]])]

    def of_both(call: AttentionCall) -> Tensor:
        attended, pixels = call.attend(), call.size[0] * call.size[1]
        positive, away = (half[:, :, :pixels].transpose(1, 2).flatten(2) for half in attended.chunk(2))
        guided = papers_guidance(positive, away, **SETTINGS).unflatten(2, (call.query.shape[1], -1)).transpose(1, 2)
        return torch.cat([torch.cat([guided, guided]), attended[:, :, pixels:]], 2)

    doubled = denoiser.with_rules({site: of_both for site in denoiser.sites() if site.kind == "joint"})
    condition = Condition(
        tokens=torch.cat([tokens, negative]), vector=vector.repeat(2, 1), mask=torch.cat(masks) if masked else None
    )
    expected = doubled(x.repeat(2, 1, 1, 1), t.repeat(2), condition).value[:2]
    positive = Condition(tokens=tokens, vector=vector, mask=masks[0] if masked else None)
    away = Condition(tokens=negative, vector=random(4, 2, 20), mask=masks[1] if masked else None)
    actual = nag.predict_away(denoiser, x, t, positive, away, **SETTINGS).value
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    assert (actual - denoiser(x, t, positive).value).abs().max() > 1e-2


def test_guidance_is_the_papers_for_each_sample() -> None:
    positive, negative = random(0, 3, 2, 6, 4), random(1, 3, 2, 6, 4)
    for tau in (1.0, 2.5, 100.0):
        actual = guide(positive, negative, torch.tensor([1.0, 3.0, 9.0]), tau, 0.3)
        for i, scale in enumerate((1.0, 3.0, 9.0)):
            features = [values[i : i + 1].transpose(1, 2).flatten(2) for values in (positive, negative)]
            expected = papers_guidance(*features, scale, tau, 0.3).unflatten(2, (2, 4)).transpose(1, 2)
            torch.testing.assert_close(actual[i : i + 1], expected)
    assert torch.equal(guide(torch.zeros(1, 2, 6, 4), torch.zeros(1, 2, 6, 4), 5.0, 2.5, 0.25), torch.zeros(1, 2, 6, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [5.0, torch.tensor([5.0, 3.0])])
def test_narrow_attention_is_guided_in_float32(dtype: torch.dtype, scale: Any) -> None:
    positive, negative = random(0, 2, 2, 6, 4).to(dtype), random(1, 2, 2, 6, 4).to(dtype)
    positive[0] = negative[0] = 0
    actual = guide(positive, negative, scale, 2.5, 0.25)
    assert torch.equal(actual, guide(positive.float(), negative.float(), scale, 2.5, 0.25).to(dtype))
    assert not actual[0].any()


def test_one_text_may_have_a_mask() -> None:
    denoiser = ReleasedDenoiser(ours(unet("sd1")))
    x, t, tokens, negative = random(0, 1, 4, 16, 16), torch.tensor([9.0]), random(1, 1, 7, 64), random(2, 1, 5, 64)
    short = Condition(tokens=negative, mask=torch.arange(5)[None] < 3)
    actual = nag.predict_away(denoiser, x, t, Condition(tokens=tokens), short)
    expected = nag.predict_away(denoiser, x, t, Condition(tokens=tokens), Condition(tokens=negative[:, :3]))
    torch.testing.assert_close(actual.value, expected.value, rtol=0, atol=1e-5)


def test_no_guidance_is_the_prediction_and_needs_no_negative() -> None:
    denoiser = ReleasedDenoiser(ours(unet("sd1")))
    x, t, condition = random(0, 1, 4, 16, 16), torch.tensor([9.0]), Condition(tokens=random(1, 1, 7, 64))
    plain = denoiser(x, t, condition).value
    assert torch.equal(nag.predict_away(denoiser, x, t, condition, scale=1.0).value, plain)
    away = Condition(tokens=random(2, 1, 5, 64))
    for settings in ({"scale": 1.0}, {"alpha": 0.0}):
        actual = nag.predict_away(denoiser, x, t, condition, away, **settings).value
        torch.testing.assert_close(actual, plain, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"scale is 5\.0, and there is nothing to guide away from: wire 'negative'"):
        nag.predict_away(denoiser, x, t, condition)
    with pytest.raises(ValueError, match="one of the conditions has none"):
        nag.predict_away(denoiser, x, t, condition, Condition())
    with pytest.raises(ValueError, match=r"self\.middle has sites of other kinds"):
        nag.predict_away(denoiser, x, t, condition, away, sites="self.middle")


@pytest.mark.parametrize("build", [mmdit, flux])
def test_without_its_share_a_joint_network_predicts_as_without_a_negative_text(build: Any) -> None:
    denoiser = build()
    x, t, condition = captioned()
    negative = Condition(tokens=torch.randn(2, 7, TOKEN_WIDTH), vector=condition.vector)
    plain = denoiser(x, t, condition).value
    guided = nag.predict_away(denoiser, x, t, condition, negative, alpha=0.0)
    torch.testing.assert_close(guided.value, plain)
    assert (nag.predict_away(denoiser, x, t, condition, negative).value - plain).abs().max() > 0.05


def test_a_network_that_mixes_both_texts_is_refused() -> None:
    x, t, condition = captioned()
    condition = Condition(tokens=condition.tokens)
    with pytest.raises(ValueError, match=r"this denoiser mixes all tokens first: use guidance\.cfg"):
        nag.predict_away(z_image(), x, t, condition, condition)


def test_a_guided_denoiser_is_refused() -> None:
    x, t, condition = captioned()
    guided = guide_denoiser(mmdit(), condition, condition, scale=4.0)
    for denoiser in (guided, precondition(guided, schedules.linear())):
        with pytest.raises(ValueError, match=r"this denoiser is guided: .* put guidance\.cfg outside"):
            nag.predict_away(denoiser, x, t, condition, condition)


def test_the_workflow_keeps_away_from_a_negative_prompt() -> None:
    params: dict[str, Any] = {"steps": 2, "batch": 2, "negative": "a cactus on snow"}
    workflow = load_workflow(WORKFLOW, plugins=PLUGIN)
    plain, guided = (workflow.run(**params, nag=scale)["image"] for scale in (1.0, 9.0))
    assert (guided - plain).abs().max() > 0.05
    one = workflow.run(**{**params, "batch": 1}, nag=9.0)["image"]
    assert (one - guided[:1]).abs().max() < 1e-4


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    exported = made(WORKFLOW, tmp_path, PLUGIN, steps=2, batch=2, negative="snow")
    (tmp_path / "engine").mkdir()
    for parameters in ({}, OTHER):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
