"""Skip-layer guidance: against diffusers' transformer and guider, its window, the workflow, the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.guiders import SkipLayerGuidance

import guidegraph_slg as slg
from guidegraph import Condition, Prediction, load_workflow
from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph_families.networks.denoiser import ReleasedDenoiser
from guidegraph_families.sd3 import load_sd3
from plugins.families.tests.diffusers.test_unet_names import ours
from plugins.families.tests.tiny import unet
from plugins.families.tests.transformers import sd3_writer
from tests.graph.export.exporting import LEVEL, WORKFLOWS, difference, made

WORKFLOW = Path(slg.__file__).with_name("text_to_image.yaml")
PLUGIN = ("guidegraph_slg",)
OTHER: dict[str, Any] = {"batch": 3, "scale": 6.0, "slg": 1.0}
"""Parameters other than at export."""


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (3, 4, 5, 5), generator=torch.Generator().manual_seed(seed))


def test_skipped_blocks_are_those_of_diffusers() -> None:
    model = sd3_writer.network("3.5 medium")
    with use_device("cpu", "float32"):
        denoiser = load_sd3(sd3_writer.single_file(model), Path("a"), LoadOptions())["denoiser"]
    x, t = random(0, 2, 4, 16, 16), torch.tensor([3.0, 700.0])
    tokens, vector = random(1, 2, 7, 24), random(2, 2, 20)
    for blocks in ([1], [0, 2]):
        expected = model(x, tokens, vector, t, skip_layers=blocks).sample
        worse = slg.skip(denoiser, sites=[f"skip.block.{index}" for index in blocks])
        actual = worse(x, t, Condition(tokens=tokens, vector=vector)).value
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_a_skipped_attention_adds_its_bias_alone() -> None:
    model = unet("sd1")
    x, t, tokens = random(0, 2, 4, 16, 16), torch.tensor([3.0, 700.0]), random(1, 2, 7, 64)
    denoiser = slg.skip(ReleasedDenoiser(ours(model)), sites=["self.middle", "cross.up"])
    blocks = [block for stage in model.up_blocks for part in getattr(stage, "attentions", ()) for block in
              part.transformer_blocks]  # fmt: skip
    layers = [model.mid_block.attentions[0].transformer_blocks[0].attn1, *(block.attn2 for block in blocks)]
    for layer in layers:
        layer.to_v.weight.zero_()
    expected = model(x, t, encoder_hidden_states=tokens).sample
    torch.testing.assert_close(denoiser(x, t, Condition(tokens=tokens)).value, expected, rtol=0, atol=1e-4)


def test_sites_that_are_no_layers_are_refused() -> None:
    denoiser = ReleasedDenoiser(ours(unet("sd1")))
    with pytest.raises(ValueError, match=r"such as skip\.block\.7 or self\.up\.0, and not skip\.up\.0"):
        slg.skip(denoiser, sites="skip")
    with pytest.raises(ValueError, match=r"no site 'skip\.block\.7'"):
        slg.skip(denoiser, sites="skip.block.7")
    with pytest.raises(ValueError, match=r"has a rule already, guidegraph_slg\.attend_to_nothing"):
        slg.skip(slg.skip(denoiser, sites="self"), sites="self.middle")


def test_guidance_is_that_of_diffusers() -> None:
    cond, uncond, worse = (random(seed) for seed in range(3))
    guider = SkipLayerGuidance(4.0, skip_layer_guidance_scale=2.8, skip_layer_guidance_layers=[7])
    expected = guider.forward(cond, uncond, worse).pred
    predictions = {"cond": Prediction(cond, "flow"), "skipped": Prediction(worse, "flow")}
    actual = slg.guide(Prediction(uncond + 4 * (cond - uncond), "flow"), **predictions)
    torch.testing.assert_close(actual.value, expected)
    weights = torch.tensor([0.0, 1.0, 5.0])
    actual = slg.guide(Prediction(cond, "flow"), **predictions, scale=weights)
    torch.testing.assert_close(actual.value, cond + weights[:, None, None, None] * (cond - worse))


@pytest.mark.parametrize("steps", [1, 20, 28, 40])
@pytest.mark.parametrize(("start", "stop"), [(0.01, 0.2), (0.0, 1.0), (0.5, 0.5)])
def test_the_window_is_that_of_diffusers(steps: int, start: float, stop: float) -> None:
    """As StableDiffusion3Pipeline: i > N · start and i < N · stop."""
    for index in range(steps):
        expected = 2.0 if index > steps * start and index < steps * stop else 0.0
        actual = slg.window(index, steps, scale=2.0, start=start, stop=stop)
        assert type(actual) is float
        assert actual == expected
        traced: Any = slg.window(torch.tensor(index), torch.tensor(steps), scale=2.0, start=start, stop=stop)  # type: ignore[arg-type]
        assert float(traced) == expected


def test_the_workflow_draws_and_has_classifier_free_guidance_as_its_limit() -> None:
    params: dict[str, Any] = {"steps": 2, "batch": 2, "scale": 4.0, "start": 0.0, "stop": 1.0}
    workflow = load_workflow(WORKFLOW, plugins=PLUGIN)
    plain = load_workflow(WORKFLOWS / "text_to_image.yaml").run(seed=0, steps=2, batch=2, scale=4.0)["image"]
    assert (workflow.run(**params, slg=0.0)["image"] - plain).abs().max() < 1e-4
    assert (workflow.run(**{**params, "stop": 0.5}, slg=6.0)["image"] - plain).abs().max() < 1e-4
    assert (workflow.run(**params, slg=6.0)["image"] - plain).abs().max() > 0.05


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    exported = made(WORKFLOW, tmp_path, PLUGIN, steps=3, batch=2, start=0.0, stop=0.7)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, OTHER):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
