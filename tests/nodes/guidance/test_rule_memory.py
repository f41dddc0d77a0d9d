"""Rules with a memory: pure functions of their arguments, rows by sample, and deep features that are not computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from guidegraph import AttentionCall, MemoryDenoiser, RuleMemory, RuleWithMemory, Site, select_sites
from guidegraph.nodes.models.networks.hooks import HookedModel
from guidegraph.nodes.sampling.denoiser import (
    guide_denoiser,
    keep_deep_features,
    make_empty_memory,
    predict_with_memory,
)
from guidegraph.nodes.sampling.denoiser_edm import precondition
from guidegraph.nodes.sampling.schedule import edm
from guidegraph.nodes.types import Condition
from tests.nodes.guidance.test_hooks import BATCH, MODELS, inputs, own, random


@pytest.fixture(params=MODELS)
def denoiser(request: pytest.FixtureRequest) -> Any:
    return random(MODELS[request.param]())


def average(value: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mixed = 0.5 * value + 0.5 * memory
    return mixed, mixed


def averaging(site: Site) -> RuleWithMemory:
    """A rule that returns a running average of what the site has."""
    if site.kind in ("input", "feature"):
        return RuleWithMemory(average)
    if site.kind == "deep":
        return RuleWithMemory(lambda compute, memory: average(compute(), memory))
    if site.kind == "skip":

        def skip(h: torch.Tensor, skipped: torch.Tensor, memory: torch.Tensor) -> Any:
            mixed, following = average(skipped, memory)
            return (h, mixed), following

        return RuleWithMemory(skip)
    return RuleWithMemory(lambda call, memory: average(call.attend(), memory))


def test_every_kind_of_site_takes_a_rule_with_a_memory(denoiser: HookedModel) -> None:
    x, t, condition = inputs(denoiser)
    _, values = denoiser.captured(x, t, condition, denoiser.sites())
    for site in denoiser.sites():
        remembering = denoiser.with_rules({site: averaging(site)})
        assert isinstance(remembering, MemoryDenoiser)
        empty = make_empty_memory(remembering, x, condition)
        assert set(empty.values) == {site.name}
        assert empty.values[site.name].shape == values[site].shape
        assert not empty.values[site.name].any()
        first, memory = predict_with_memory(remembering, x, t, empty, condition)
        assert torch.equal(memory.values[site.name], 0.5 * values[site])
        again, _ = predict_with_memory(remembering, x, t, empty, condition)
        assert torch.equal(first.value, again.value), "a call keeps nothing"
        second, _ = predict_with_memory(remembering, x, t, memory, condition)
        assert not torch.equal(first.value, second.value)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert equality up to the rounding of a network, in units of the largest value."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_a_sample_has_a_row_of_the_memory(denoiser: HookedModel) -> None:
    x, t, condition = inputs(denoiser)
    sites = select_sites(denoiser, ["self.middle", "deep.up.1"])
    remembering = denoiser.with_rules({site: averaging(site) for site in sites})
    generator = torch.Generator().manual_seed(3)
    empty = make_empty_memory(remembering, x, condition)
    memory = RuleMemory({name: torch.randn(v.shape, generator=generator) for name, v in empty.values.items()})
    together, following = predict_with_memory(remembering, x, t, memory, condition)
    for row in range(BATCH):
        rows = slice(row, row + 1)
        fields = {name: None if value is None else value[rows] for name, value in vars(condition).items()}
        own_memory = RuleMemory({name: value[rows] for name, value in memory.values.items()})
        alone, next_alone = predict_with_memory(remembering, x[rows], t[rows], own_memory, Condition(**fields))
        assert_close(alone.value, together.value[rows])
        for name, value in next_alone.values.items():
            assert_close(value, following.values[name][rows])
    one_row = RuleMemory({name: value[:1] for name, value in memory.values.items()})
    _, repeated = predict_with_memory(remembering, x, t, one_row, condition)
    assert all(value.shape[0] == BATCH for value in repeated.values.values())
    with pytest.raises(ValueError, match=r"'self\.middle\.0' is of 3 samples and x has 2: carry a memory of its own"):
        predict_with_memory(
            remembering, x, t, RuleMemory({"self.middle.0": torch.zeros(3, 2, 16, 8), "deep.up.1": x}), condition
        )


def test_kept_features_are_those_of_the_network(denoiser: HookedModel) -> None:
    x, t, condition = inputs(denoiser)
    plain = denoiser(x, t, condition).value
    for site in select_sites(denoiser, "deep"):
        deep = keep_deep_features(denoiser, site=site.name)
        empty = make_empty_memory(deep.keep, x, condition)
        kept, memory = predict_with_memory(deep.keep, x, t, empty, condition)
        assert torch.equal(kept.value, plain)
        reused, following = predict_with_memory(deep.reuse, x, t, memory, condition)
        assert torch.equal(reused.value, plain)
        assert torch.equal(following.values[site.name], memory.values[site.name])
        elsewhere, _ = predict_with_memory(deep.reuse, x + 1, t, memory, condition)
        assert not torch.equal(elsewhere.value, plain)


def test_nothing_deeper_than_reused_features_is_computed(denoiser: HookedModel) -> None:
    x, t, condition = inputs(denoiser)
    (site,) = select_sites(denoiser, "deep.up.3")
    deep = keep_deep_features(denoiser, site="deep.up.3")
    _, memory = predict_with_memory(deep.keep, x, t, make_empty_memory(deep.keep, x, condition), condition)
    visited: list[str] = []

    def visit(site: Site) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda h: (visited.append(site.name), h)[1]

    features = {site: visit(site) for site in select_sites(denoiser, "feature")}
    predict_with_memory(deep.reuse.with_rules(features), x, t, memory, condition)
    assert visited == ["feature.down.0", "feature.up.3"]
    assert site.index == 3


def test_errors_name_the_rule_and_its_site() -> None:
    denoiser = random(own())
    x, t, condition = inputs(denoiser)
    (site,) = select_sites(denoiser, "self.middle.0")
    remembering = denoiser.with_rules({site: averaging(site)})
    name = r".*averaging.*, the rule of site 'self\.middle\.0'"
    with pytest.raises(ValueError, match=rf"{name}, has a memory, and this call has none: use denoiser\.predict_with"):
        remembering(x, t, condition)
    with pytest.raises(ValueError, match=rf"there is no memory for {name}: start the carry from denoiser\.empty"):
        predict_with_memory(remembering, x, t, RuleMemory({}), condition)
    empty = make_empty_memory(remembering, x, condition)
    wrong: list[tuple[Callable[..., Any], str]] = [
        (lambda call, memory: call.attend(), "must give its output and the next memory"),
        (lambda call, memory: (call.attend(), memory[:1]), r"gives the next memory, shape \(1, .*; expected \(2, "),
        (lambda call: call.attend(), "was called with one AttentionCall, and the memory, and failed"),
    ]
    for function, message in wrong:
        ruled = denoiser.with_rules({site: RuleWithMemory(function)})
        with pytest.raises(ValueError, match=rf"the rule of site 'self\.middle\.0'.*{message}"):
            predict_with_memory(ruled, x, t, empty, condition)
    with pytest.raises(
        ValueError, match=r"'self\.middle' is not one site of the kind 'deep': give one of deep\.up\.0, "
    ):
        keep_deep_features(denoiser, site="self.middle")
    with pytest.raises(ValueError, match=r"'deep' is not one site"):
        keep_deep_features(denoiser, site="deep")


def test_a_memory_of_other_sites_passes_through() -> None:
    denoiser = random(own())
    x, t, condition = inputs(denoiser)
    memory = RuleMemory({"self.middle.0": torch.ones(BATCH, 1)})
    prediction, following = predict_with_memory(denoiser, x, t, memory, condition)
    assert torch.equal(prediction.value, denoiser(x, t, condition).value)
    assert torch.equal(following.values["self.middle.0"], memory.values["self.middle.0"])
    assert make_empty_memory(denoiser, x, condition).values == {}


def test_a_preconditioned_denoiser_passes_the_memory_on() -> None:
    denoiser = random(own())
    x, t, condition = inputs(denoiser)
    outer = precondition(denoiser, edm())
    assert isinstance(outer, MemoryDenoiser)
    deep = keep_deep_features(outer, site="deep.up.3")
    kept, memory = predict_with_memory(deep.keep, x, t, make_empty_memory(deep.keep, x, condition), condition)
    assert torch.equal(kept.value, outer(x, t, condition).value)
    reused, _ = predict_with_memory(deep.reuse, x, t, memory, condition)
    assert torch.equal(reused.value, kept.value)


def test_a_guided_denoiser_has_no_memory_for_its_two_calls() -> None:
    denoiser = random(own())
    _, _, condition = inputs(denoiser)
    assert not isinstance(guide_denoiser(denoiser, condition, condition), MemoryDenoiser)


def test_gradients_go_through_a_memory() -> None:
    denoiser = random(own())
    x, t, condition = inputs(denoiser)
    deep = keep_deep_features(denoiser, site="deep.up.3")
    empty = make_empty_memory(deep.keep, x, condition)
    start = x.clone().requires_grad_()
    _, memory = predict_with_memory(deep.keep, start, t, empty, condition)
    reused, _ = predict_with_memory(deep.reuse, x, t, memory, condition)
    (gradient,) = torch.autograd.grad(reused.value.sum(), start)
    assert gradient.abs().max() > 0


def test_an_attention_rule_may_skip_its_attention() -> None:
    denoiser = random(own())
    x, t, condition = inputs(denoiser)
    (site,) = select_sites(denoiser, "cross.middle.0")

    def recall(call: AttentionCall, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return memory, memory

    _, values = denoiser.captured(x, t, condition, [site])
    ruled = denoiser.with_rules({site: RuleWithMemory(recall)})
    actual, _ = predict_with_memory(ruled, x, t, RuleMemory({site.name: values[site]}), condition)
    assert torch.equal(actual.value, denoiser(x, t, condition).value)
