"""Hooks of transformers: the sites of their blocks, rules, captured values, skipped blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph import AttentionCall, Rule, RuleWithMemory, Site, select_sites
from guidegraph.nodes.models.networks.hooks import HookedModel
from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
from guidegraph.nodes.sampling.denoiser import features, list_sites
from guidegraph.nodes.types import Condition
from tests.nodes.guidance.test_rule_memory import averaging
from tests.nodes.models.transformers.networks import BATCH, DEPTH, SIDE, WIDTH, captioned, dit, flux, labelled, mmdit

Inputs = tuple[Tensor, Tensor, Condition]
MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Inputs]]] = {
    "dit": (dit, labelled),
    "mmdit": (mmdit, captioned),
    "mmdit with a second attention": (lambda: mmdit(dual=(0, 2)), captioned),
    "rotary mmdit": (lambda: mmdit(positions="rotary"), captioned),
    "flux": (flux, captioned),
}
PATCHES = (SIDE // 2) ** 2


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[HookedModel, Inputs]:
    build, inputs = MODELS[request.param]
    return build(), inputs()


def unchanged(site: Site) -> Rule:
    """A rule that computes the same as the network."""
    if site.kind == "skip":
        return lambda h, skipped: (h, skipped)
    if site.kind in ("input", "feature"):
        return lambda h: h
    return AttentionCall.attend


def changing(site: Site) -> Rule:
    if site.kind == "skip":
        return lambda h, skipped: (1.5 * h, 0.5 * skipped)
    if site.kind in ("input", "feature"):
        return lambda h: h.abs()
    return lambda call: 1.5 * call.attend()


def leave_out(h: Tensor, skipped: Tensor) -> tuple[Tensor, Tensor]:
    """The rule of a block that is left out."""
    return torch.zeros_like(h), skipped


def test_each_block_of_a_dit_has_three_sites() -> None:
    names = [site.name for site in dit().sites()]
    assert names == [f"{kind}.block.{i}" for i in range(DEPTH) for kind in ("input", "self", "skip", "feature")]
    assert set(list_sites(dit())["stage"]) == {"block"}
    with pytest.raises(ValueError, match=r"no site 'self\.middle'; .*self\.block\.0 … 2"):
        select_sites(dit(), "self.middle")


def test_the_sites_of_an_mmdit_are_joint_and_of_its_second_attentions() -> None:
    names = [site.name for site in mmdit(dual=(1,)).sites()]
    assert names == [
        *("input.block.0", "joint.block.0", "skip.block.0", "feature.block.0"),
        *("input.block.1", "joint.block.1", "self.block.0", "skip.block.1", "feature.block.1"),
        *("input.block.2", "joint.block.2", "skip.block.2", "feature.block.2"),
    ]


def test_rules_run_in_the_order_of_the_sites_and_get_their_tensors(model: tuple[HookedModel, Inputs]) -> None:
    denoiser, (x, t, condition) = model
    seen: list[Site] = []
    tokens = 0 if condition.tokens is None else condition.tokens.shape[1]

    def watch(site: Site) -> Rule:
        def attend(call: AttentionCall) -> Tensor:
            seen.append(site)
            count = PATCHES + (tokens if site.kind == "joint" else 0)
            assert call.query.shape == call.key.shape == call.value.shape == (BATCH, 2, count, WIDTH // 2)
            assert call.size == (SIDE // 2, SIDE // 2)
            assert (call.mask is None) == (site.kind == "self")
            return call.attend()

        def skip(h: Tensor, skipped: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(site)
            assert h.shape == skipped.shape
            assert h.shape in ((BATCH, WIDTH, SIDE // 2, SIDE // 2), (BATCH, WIDTH, tokens, 1))
            return h, skipped

        def feature(h: Tensor) -> Tensor:
            seen.append(site)
            assert h.shape == (BATCH, WIDTH, SIDE // 2, SIDE // 2)
            return h

        return {"input": feature, "skip": skip, "feature": feature}.get(site.kind, attend)  # type: ignore[return-value]

    denoiser.with_rules({site: watch(site) for site in denoiser.sites()})(x, t, condition)
    assert tuple(dict.fromkeys(seen)) == denoiser.sites()


def test_rules_that_compute_the_same_do_not_change_the_prediction(model: tuple[HookedModel, Inputs]) -> None:
    denoiser, inputs = model
    ruled = denoiser.with_rules({site: unchanged(site) for site in denoiser.sites()})
    assert torch.equal(ruled(*inputs).value, denoiser(*inputs).value)


def test_rules_act_in_mixed_precision(model: tuple[HookedModel, Inputs]) -> None:
    denoiser, inputs = model
    ruled = denoiser.with_rules({site: unchanged(site) for site in denoiser.sites()})
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ruled(*inputs).value, denoiser(*inputs).value)


def test_a_rule_at_every_site_changes_the_prediction_and_not_the_original(model: tuple[HookedModel, Inputs]) -> None:
    denoiser, inputs = model
    plain = denoiser(*inputs).value
    for site in denoiser.sites():
        ruled = denoiser.with_rules({site: changing(site)})
        assert not torch.allclose(ruled(*inputs).value, plain, atol=1e-5), site
    assert torch.equal(denoiser(*inputs).value, plain)


def test_captured_values_are_those_after_the_rule(model: tuple[HookedModel, Inputs]) -> None:
    denoiser, inputs = model
    prediction, before = denoiser.captured(*inputs, denoiser.sites())
    assert torch.equal(prediction.value, denoiser(*inputs).value)
    assert tuple(before) == denoiser.sites()
    for site in denoiser.sites():
        _, after = denoiser.with_rules({site: changing(site)}).captured(*inputs, [site])
        absolute = before[site].abs()
        expected = {"input": absolute, "feature": absolute, "skip": 0.5 * before[site]}.get(
            site.kind, 1.5 * before[site]
        )
        assert torch.equal(after[site], expected), site
    names = {site.name: value for site, value in before.items()}
    for index in range(1, DEPTH):  # the skip of a block is the output of the block before it
        assert torch.equal(names[f"skip.block.{index}"], names[f"feature.block.{index - 1}"])
    assert torch.equal(features(denoiser, *inputs, site="feature.block.1"), names["feature.block.1"])


@pytest.mark.parametrize(("build", "inputs"), [(dit, labelled), (mmdit, captioned)])
def test_a_block_that_is_left_out_is_one_that_the_network_does_not_have(build: Any, inputs: Any) -> None:
    denoiser = build()
    ruled = denoiser.with_rules(dict.fromkeys(select_sites(denoiser, "skip.block.1"), leave_out))
    actual = ruled(*inputs()).value
    blocks = denoiser.network.blocks if build is dit else denoiser.network.joint_blocks
    del blocks[1]
    assert torch.equal(actual, denoiser(*inputs()).value)


def has_two_streams(denoiser: HookedModel, site: Site) -> bool:
    """Whether the rule of a site is called for the picture and for the text: at the skip of all blocks but the last."""
    joint = any(other.kind == "joint" for other in denoiser.sites())
    return joint and site.kind == "skip" and site.index < DEPTH - 1


def test_the_sites_of_a_flux_go_on_from_its_double_to_its_single_blocks() -> None:
    kinds = ("input", "joint", "skip", "feature")
    assert [site.name for site in flux().sites()] == [f"{kind}.block.{i}" for i in range(DEPTH) for kind in kinds]


@pytest.mark.parametrize("index", [1, 2])
def test_a_block_of_a_flux_that_is_left_out_is_one_that_it_does_not_have(index: int) -> None:
    denoiser = flux(single_depth=2)
    ruled = denoiser.with_rules(dict.fromkeys(select_sites(denoiser, f"skip.block.{index}"), leave_out))
    actual = ruled(*captioned()).value
    blocks = denoiser.network.double_blocks if index < DEPTH - 1 else denoiser.network.single_blocks
    del blocks[index % (DEPTH - 1)]
    assert torch.equal(actual, denoiser(*captioned()).value)


def test_rules_with_a_memory_act_where_one_tensor_passes(model: tuple[HookedModel, Inputs]) -> None:
    denoiser, (x, t, condition) = model
    _, values = denoiser.captured(x, t, condition, denoiser.sites())
    for site in denoiser.sites():
        if has_two_streams(denoiser, site):
            continue
        ruled = denoiser.with_rules({site: averaging(site)})
        empty = ruled.empty_memory(x, condition)
        first, memory = ruled.predict_with_memory(x, t, condition, empty)
        assert torch.equal(memory.values[site.name], 0.5 * values[site])
        second, _ = ruled.predict_with_memory(x, t, condition, memory)
        assert not torch.equal(first.value, second.value), site


def test_a_skip_of_two_streams_takes_no_rule_with_a_memory() -> None:
    denoiser = mmdit()
    x, t, condition = captioned()
    count = RuleWithMemory(lambda h, skipped, memory: ((h, skipped), memory + 1))
    for site in denoiser.sites():
        if has_two_streams(denoiser, site):
            ruled = denoiser.with_rules({site: count})
            empty = ruled.empty_memory(x, condition)
            with pytest.raises(
                ValueError, match=rf"site '{site}', has a memory, .* use feature\.block\.{site.index} or"
            ):
                ruled.predict_with_memory(x, t, condition, empty)


def test_gradients_go_through_rules(model: tuple[HookedModel, Inputs]) -> None:
    denoiser, (x, t, condition) = model

    def gradient(chosen: HookedModel) -> Tensor:
        point = x.clone().requires_grad_()
        (actual,) = torch.autograd.grad(chosen(point, t, condition).value.sum(), point)
        return actual

    plain = gradient(denoiser)
    sites = denoiser.sites()
    idle = gradient(denoiser.with_rules({site: unchanged(site) for site in sites}))
    torch.testing.assert_close(idle, plain, rtol=1e-4, atol=1e-4)  # maps of tokens are multiplied in another layout
    for site in sites[:3]:
        assert not torch.allclose(gradient(denoiser.with_rules({site: changing(site)})), plain), site


def test_rules_survive_copies_of_the_model(model: tuple[HookedModel, Inputs]) -> None:
    denoiser, inputs = model
    ruled = denoiser.with_rules({site: changing(site) for site in denoiser.sites()[:2]})
    assert torch.equal(copy_sharing_tensors(ruled)(*inputs).value, ruled(*inputs).value)


def test_a_rule_with_a_result_of_another_shape_is_named(model: tuple[HookedModel, Inputs]) -> None:
    denoiser, inputs = model
    (skip,) = select_sites(denoiser, "skip.block.0")
    with pytest.raises(ValueError, match=r"the rule of site 'skip\.block\.0', must give two tensors"):
        denoiser.with_rules({skip: lambda h, skipped: h})(*inputs)
    (feature,) = select_sites(denoiser, "feature.block.0")
    with pytest.raises(ValueError, match=r"rule of site 'feature\.block\.0'.*expected \(2, 16, 4, 4\)"):
        denoiser.with_rules({feature: lambda h: h[:1]})(*inputs)
