"""Token perturbation guidance: against diffusers, its orders, its limits, the workflow, the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guidegraph_tpg as tpg
from guidegraph import Condition, Prediction, load_workflow, select_sites
from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph_families.networks.denoiser import ReleasedDenoiser
from guidegraph_families.sd3 import load_sd3
from plugins.families.tests.diffusers.test_unet_names import ours
from plugins.families.tests.tiny import unet
from plugins.families.tests.transformers import sd3_writer
from tests.graph.export.exporting import LEVEL, WORKFLOWS, difference, made
from tests.nodes.models.transformers.networks import captioned, dit, labelled, mmdit

WORKFLOW = Path(tpg.__file__).with_name("text_to_image.yaml")
PLUGIN = ("guidegraph_tpg",)
OTHER: dict[str, Any] = {"steps": 4, "batch": 3, "scale": 6.0, "tpg": 1.0}
"""Parameters other than at export."""


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (3, 4, 5, 5), generator=torch.Generator().manual_seed(seed))


def order_of(noise: torch.Tensor, turn: int, count: int) -> torch.Tensor:
    """The order (B, N) of a site's tokens: that of the first N values of a channel of each sample's noise."""
    return torch.from_numpy(np.argsort(noise.flatten(2).numpy()[:, turn, :count], axis=1))


def shuffle_input(module: torch.nn.Module, noise: torch.Tensor, turn: int) -> None:
    """Let a block of diffusers get its tokens in the order of a turn, as the authors' code does."""

    def shuffle(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        tokens = positional[0] if positional else named["hidden_states"]
        order = order_of(noise, turn, tokens.shape[1])
        shuffled = torch.stack([row[indices] for row, indices in zip(tokens, order, strict=True)])
        return ((shuffled, *positional[1:]), named) if positional else ((), {**named, "hidden_states": shuffled})

    module.register_forward_pre_hook(shuffle, with_kwargs=True)


def test_shuffled_blocks_are_those_of_diffusers() -> None:
    model = unet("sd1")
    denoiser = ReleasedDenoiser(ours(model))
    x, t, condition, noise = (
        random(0, 2, 4, 16, 16),
        torch.tensor([3.0, 700.0]),
        random(1, 2, 7, 64),
        random(2, 2, 4, 16, 16),
    )
    plain = model(x, t, encoder_hidden_states=condition).sample
    blocks = [
        block
        for stage in (*model.down_blocks, model.mid_block)
        for part in getattr(stage, "attentions", ())
        for block in part.transformer_blocks
    ]
    sites = select_sites(denoiser, ["input.down", "input.middle"])
    assert len(sites) == len(blocks) == 2
    for turn, block in enumerate(blocks):
        shuffle_input(block, noise, turn)
    expected = model(x, t, encoder_hidden_states=condition).sample
    chosen = ["input.middle", "input.down"]
    actual = tpg.predict_shuffled(denoiser, x, t, noise, Condition(tokens=condition), sites=chosen).value
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    assert (actual - plain).abs().max() > 1e-2


def test_a_transformer_computes_the_change_from_shuffled_patches() -> None:
    model = sd3_writer.network("3.5 medium")
    with use_device("cpu", "float32"):
        denoiser = load_sd3(sd3_writer.single_file(model), Path("a"), LoadOptions())["denoiser"]
    x, t = random(0, 2, 4, 16, 16), torch.tensor([3.0, 700.0])
    tokens, vector, noise = random(1, 2, 7, 24), random(2, 2, 20), random(3, 2, 4, 16, 16)
    plain = model(x, tokens, vector, t).sample
    block = model.transformer_blocks[1]
    entered: list[torch.Tensor] = []

    def remember(_: Any, positional: Any, named: dict[str, Any]) -> None:
        entered.append(named["hidden_states"])

    block.register_forward_pre_hook(remember, with_kwargs=True)
    shuffle_input(block, noise, 0)

    def keep_places(_: Any, positional: Any, named: dict[str, Any], output: tuple[torch.Tensor, torch.Tensor]) -> Any:
        return output[0], output[1] - named["hidden_states"] + entered[-1]

    block.register_forward_hook(keep_places, with_kwargs=True)
    expected = model(x, tokens, vector, t).sample
    condition = Condition(tokens=tokens, vector=vector)
    actual = tpg.predict_shuffled(denoiser, x, t, noise, condition, sites="input.block.1").value
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    assert (actual - plain).abs().max() > 1e-2


@pytest.mark.parametrize(("build", "inputs"), [(dit, labelled), (mmdit, captioned)])
def test_a_sample_is_shuffled_as_it_is_alone(build: Any, inputs: Any) -> None:
    denoiser, (x, t, condition) = build(), inputs()
    noise = random(4, *x.shape)
    together = tpg.predict_shuffled(denoiser, x, t, noise, condition, sites="input.block").value
    for row in range(len(x)):
        rows = slice(row, row + 1)
        fields = {name: None if value is None else value[rows] for name, value in vars(condition).items()}
        alone = tpg.predict_shuffled(denoiser, x[rows], t[rows], noise[rows], Condition(**fields), sites="input.block")
        torch.testing.assert_close(together[rows], alone.value, rtol=0, atol=1e-4)
    again = tpg.predict_shuffled(denoiser, x, t, noise, condition, sites="input.block").value
    assert torch.equal(again, together)
    other = tpg.predict_shuffled(denoiser, x, t, random(5, *x.shape), condition, sites="input.block").value
    assert (other - together).abs().max() > 1e-3


def test_a_shuffle_keeps_the_tokens_of_each_sample_in_orders_of_their_own() -> None:
    h, keys = random(0, 3, 6, 4, 5), random(1, 3, 4, 24)
    shuffled = [tpg.make_rule(keys, turn)(h).flatten(2) for turn in (0, 1, 4)]
    for each in shuffled:
        torch.testing.assert_close(each.sort(2).values, h.flatten(2).sort(2).values, rtol=0, atol=0)
        torch.testing.assert_close(each.norm(dim=1).sort(1).values, h.flatten(2).norm(dim=1).sort(1).values)
    assert not torch.equal(shuffled[0], shuffled[1])
    assert not torch.equal(shuffled[1], shuffled[2])
    tokens = h.flatten(2)
    orders = {tuple((shuffled[0][row, 0][:, None] == tokens[row, 0]).int().argmax(1).tolist()) for row in range(3)}
    assert len(orders) == 3


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_each_site_has_an_order_of_its_own(channels: int) -> None:
    h, keys = random(0, 1, 6, 4, 5), random(1, 1, channels, 24)
    shuffled = [tpg.make_rule(keys, turn)(h) for turn in range(12)]
    assert len({tuple(each[0, 0].flatten().tolist()) for each in shuffled}) == 12


def test_guidance_is_the_papers_alone_and_adds_to_that_of_conditions() -> None:
    cond, uncond, worse = (Prediction(random(seed), "eps", random(seed + 9)) for seed in range(3))
    alone = tpg.guide(cond, cond, worse, scale=3.0)
    torch.testing.assert_close(alone.value, cond.value + 3 * (cond.value - worse.value))
    assert alone.variance is cond.variance
    weights = torch.tensor([0.0, 1.0, 5.0])
    actual = tpg.guide(uncond + 4.0 * (cond - uncond), cond, worse, scale=weights).value
    w = weights[:, None, None, None]
    expected = cond.value + 3 * (cond.value - uncond.value) + w * (cond.value - worse.value)
    torch.testing.assert_close(actual, expected)


def test_sites_that_are_no_inputs_are_refused() -> None:
    denoiser = ReleasedDenoiser(ours(unet("sd1")))
    arguments = denoiser, random(0, 1, 4, 16, 16), torch.tensor([3.0]), random(1, 1, 4, 16, 16)
    condition = Condition(tokens=random(1, 1, 7, 64))
    with pytest.raises(ValueError, match=r"such as input\.down\.0, and not self\.middle\.0"):
        tpg.predict_shuffled(*arguments, condition, sites=["input", "self.middle"])
    with pytest.raises(ValueError, match=r"no site 'input\.block'; .*input\.down\.0"):
        tpg.predict_shuffled(*arguments, condition, sites="input.block")


def test_the_workflow_draws_and_has_classifier_free_guidance_as_its_limit() -> None:
    params: dict[str, Any] = {"steps": 2, "batch": 2, "scale": 4.0}
    workflow = load_workflow(WORKFLOW, plugins=PLUGIN)
    plain = load_workflow(WORKFLOWS / "text_to_image.yaml").run(seed=0, **params)["image"]
    assert (workflow.run(**params, tpg=0.0)["image"] - plain).abs().max() < 1e-4
    guided = workflow.run(**params, tpg=3.0)["image"]
    assert (guided - plain).abs().max() > 0.05
    second = workflow.run(**{**params, "batch": 1}, tpg=3.0, seed=1)["image"]
    torch.testing.assert_close(guided[1:], second, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    exported = made(WORKFLOW, tmp_path, PLUGIN, steps=2, batch=2)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, OTHER):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
