"""Guidance against closed forms: CFG, both of Dhariwal & Nichol's algorithms, rescaling and intervals."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guidegraph.graph.node import get_spec
from guidegraph.nodes.guidance import guidance
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler_step import mean, step
from guidegraph.nodes.types import Prediction
from tests.nodes.sampling.closed_form import eps_star, normal, scaled_linear

MEANS = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)


class GaussianClassifier:
    """log p(y | x_t) for classes N(m_y, 1) in every value, at the schedule's α, σ."""

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == x.shape[:1]
        alpha, sigma = self.schedule.along(x.unsqueeze(1), t)
        distance = x.unsqueeze(1) - alpha * MEANS.to(x).reshape(1, -1, *(1,) * (x.ndim - 1))
        return (-0.5 * distance**2 / (alpha**2 + sigma**2)).flatten(2).sum(2)


def gradient_by_hand(x: Tensor, label: Tensor, alpha: float, sigma: float) -> Tensor:
    """∇ log softmax: the label's gradient minus the mean gradient of all classes."""
    means = MEANS.reshape(1, -1, *(1,) * (x.ndim - 1))
    pull = -(x.unsqueeze(1) - alpha * means) / (alpha**2 + sigma**2)
    logits = (-0.5 * (x.unsqueeze(1) - alpha * means) ** 2 / (alpha**2 + sigma**2)).flatten(2).sum(2)
    weight = logits.softmax(1).reshape(*logits.shape, *(1,) * (x.ndim - 1))
    return pull[torch.arange(len(x)), label] - (weight * pull).sum(1)


@settings(max_examples=30, deadline=None)
@given(st.floats(-1, 12))
def test_cfg_with_scale_w_plus_1_is_the_papers_equation(w: float) -> None:
    cond, uncond = (Prediction(normal(2, 3, seed=i), "eps") for i in range(2))
    guided = guidance.classifier_free_guidance(cond, uncond, scale=w + 1)
    torch.testing.assert_close(guided.value, (1 + w) * cond.value - w * uncond.value, atol=1e-12, rtol=1e-12)


def test_cfg_takes_a_scale_for_each_sample_and_keeps_conds_variance() -> None:
    cond = Prediction(normal(2, 3, 4, 4), "v", variance=normal(2, 3, 4, 4, seed=2))
    uncond = Prediction(normal(2, 3, 4, 4, seed=1), "v", variance=normal(2, 3, 4, 4, seed=3))
    guided = guidance.classifier_free_guidance(cond, uncond, scale=torch.tensor([1.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(guided.value[0], cond.value[0])
    torch.testing.assert_close(guided.value[1], uncond.value[1] + 3 * (cond.value[1] - uncond.value[1]))
    assert guided.variance is cond.variance


@pytest.mark.parametrize("batch", [1, 2])
def test_scales_for_another_batch_are_refused(batch: int) -> None:
    scale, schedule = torch.ones(3), scaled_linear()
    x, prediction = normal(batch, 1, 3, 3), Prediction(normal(batch, 1, 3, 3), "eps")
    with pytest.raises(ValueError, match=f"3 scales do not fit {batch} samples: give one for all or for each"):
        guidance.classifier_free_guidance(prediction, prediction, scale=scale)
    classifier, t, label = GaussianClassifier(schedule), torch.tensor([9.0]), torch.tensor([0])
    with pytest.raises(ValueError, match=f"3 scales do not fit {batch} samples"):
        guidance.classifier_guidance(classifier, x, t, label, scale=scale)


@pytest.mark.parametrize("axes", [(4,), (4, 1), (4, 1, 1), (4, 1, 1, 1)])
def test_a_scale_for_each_sample_may_have_trailing_axes(axes: tuple[int, ...]) -> None:
    """Rows of the picture are as many as samples, so that (B, 1) would broadcast along them."""
    scale, schedule = torch.arange(4.0), scaled_linear()
    cond, uncond = (Prediction(normal(4, 1, 4, 4, seed=i), "eps") for i in range(2))
    guided = guidance.classifier_free_guidance(cond, uncond, scale=scale.reshape(axes))
    assert torch.equal(guided.value, guidance.classifier_free_guidance(cond, uncond, scale=scale).value)
    assert torch.equal((cond / (1 + scale).reshape(axes)).value, (cond / (1 + scale)).value)
    x, t, label = normal(4, 1, 4, 4), torch.tensor([400.0]), torch.tensor([1])
    scores = [
        guidance.classifier_guidance(GaussianClassifier(schedule), x, t, label, scale=value)
        for value in (scale.reshape(axes), scale)
    ]
    assert torch.equal(*scores)


@pytest.mark.parametrize("axes", [(1, 4), (4, 4), (1, 1, 4, 1), (4, 1, 4, 4)])
def test_a_scale_for_each_pixel_is_refused(axes: tuple[int, ...]) -> None:
    prediction, message = Prediction(normal(4, 1, 4, 4), "eps"), f"the scales have shape {axes}: give one number, or "
    with pytest.raises(ValueError, match=re.escape(message + "a tensor (B) with one for each sample")):
        guidance.classifier_free_guidance(prediction, prediction, scale=torch.ones(axes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool])
def test_a_label_that_is_not_int64_is_refused(dtype: torch.dtype) -> None:
    x, t, label = normal(2, 1, 3, 3), torch.tensor([9.0]), torch.tensor([1]).to(dtype)
    with pytest.raises(ValueError, match=rf"the label has dtype {dtype}: expected class indices in int64, as from"):
        guidance.classifier_guidance(GaussianClassifier(scaled_linear()), x, t, label)


def upstream_ddim(x: Tensor, label: Tensor, times: list[int], scale: float, bound: float) -> Tensor:
    """guided-diffusion's ddim_sample with clip_denoised and cond_fn, written independently."""
    schedule = scaled_linear()
    for i, t in enumerate(times):
        bar = float(schedule.alphas_bar[t])
        after = float(schedule.alphas_bar[times[i + 1]]) if i + 1 < len(times) else 1.0
        alpha, sigma = math.sqrt(bar), math.sqrt(1 - bar)
        x0 = ((x - sigma * wild_eps(x, alpha, sigma)) / alpha).clamp(-bound, bound)
        eps = (x - alpha * x0) / sigma - sigma * scale * gradient_by_hand(x, label, alpha, sigma)
        x = math.sqrt(after) * (x - sigma * eps) / alpha + math.sqrt(1 - after) * eps
    return x


def wild_eps(x: Tensor, alpha: Any, sigma: Any) -> Tensor:
    """A denoiser's ε whose x̂0 is often out of bounds."""
    return eps_star(x, alpha, sigma) * 0.9 + 0.1 * torch.sin(3 * x)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_clip_before_the_shift_matches_guided_diffusion(kind: Any) -> None:
    schedule, bound, scale = scaled_linear(), 0.5, 2.0
    sampler = samplers.ddim(schedule, steps=10)
    x, label = normal(3, 1, 2, 2), torch.tensor([0, 1, 2])
    expected = upstream_ddim(x, label, [int(t) for t in sampler.steps], scale, bound)
    state = sampler.state
    for t in sampler.steps.split(1):
        eps = Prediction(wild_eps(x, *schedule.along(x, t)), "eps")
        clipped = guidance.clip_prediction(schedule.convert(eps, kind, x, t), x, t, schedule, clip=bound)
        score = guidance.classifier_guidance(GaussianClassifier(schedule), x, t, label, scale=scale)
        guided = guidance.shift_eps(clipped, score, x, t, schedule)
        assert clipped.kind == guided.kind == kind
        x, state = step(sampler.scheduler, x, guided, state, t)
    torch.testing.assert_close(x, expected, atol=1e-6, rtol=0)


def test_clip_after_the_shift_gives_another_result() -> None:
    """The order of a sampler that clips; the two differ where x̂0 is out of bounds."""
    schedule, bound, scale = scaled_linear(), 0.5, 2.0
    sampler = samplers.ddim(schedule, steps=10, clip=bound)
    x, label, state = normal(3, 1, 2, 2), torch.tensor([0, 1, 2]), sampler.state
    upstream = upstream_ddim(x, label, [int(t) for t in sampler.steps], scale, bound)
    for t in sampler.steps.split(1):
        eps = Prediction(wild_eps(x, *schedule.along(x, t)), "eps")
        score = guidance.classifier_guidance(GaussianClassifier(schedule), x, t, label, scale=scale)
        x, state = step(sampler.scheduler, x, guidance.shift_eps(eps, score, x, t, schedule), state, t)
    assert float((x - upstream).abs().max()) > 0.05


def test_clip_keeps_values_in_bounds_and_the_learned_variance() -> None:
    schedule, x, t = scaled_linear(), normal(2, 1, 3, 3), torch.tensor([500.0])
    inside = Prediction(torch.full((2, 1, 3, 3), 0.5, dtype=torch.float64), "x0", variance=normal(2, 1, 3, 3))
    clipped = guidance.clip_prediction(inside, x, t, schedule)
    assert torch.equal(clipped.value, inside.value)
    assert clipped.variance is inside.variance


def test_clip_thresholds_as_a_sampler_does() -> None:
    schedule, x, t = scaled_linear(), normal(2, 1, 8, 8), torch.tensor([0.0])
    x0 = Prediction(3 * normal(2, 1, 8, 8, seed=1), "x0")
    clipped = guidance.clip_prediction(x0, x, t, schedule, threshold=0.8, threshold_max=1.5)
    edge = x0.value.abs().flatten(1).quantile(0.8, dim=1).clamp(1.0, 1.5).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(clipped.value, x0.value.clamp(-edge, edge) / edge)
    assert float(edge.max()) == 1.5


def test_clip_thresholds_a_prediction_in_half_precision() -> None:
    schedule, x, t = scaled_linear(), normal(2, 1, 8, 8), torch.tensor([0.0])
    x0 = (3 * normal(2, 1, 8, 8, seed=1)).bfloat16()
    clipped = guidance.clip_prediction(Prediction(x0, "x0"), x, t, schedule, threshold=0.8)
    assert clipped.value.dtype == torch.bfloat16
    wide = guidance.clip_prediction(Prediction(x0.float(), "x0"), x, t, schedule, threshold=0.8)
    assert torch.equal(clipped.value, wide.value.bfloat16())


def test_predictions_of_other_sizes_are_refused() -> None:
    large, small = Prediction(normal(2, 3, 4, 4), "eps"), Prediction(normal(2, 3, 1, 1), "eps")
    for call in (guidance.classifier_free_guidance, guidance.rescale):
        with pytest.raises(ValueError, match=r"must be of one size, .* found shapes \(2, 3, .* and \(2, 3, "):
            call(large, small)


def test_an_empty_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="no noise level is from 600 to 100: low must not be above high"):
        guidance.interval(torch.tensor([300.0]), low=600.0, high=100.0)


def test_cfg_needs_one_call_at_scale_1_and_gives_it_unchanged() -> None:
    spec = get_spec(guidance.classifier_free_guidance)
    assert spec.needs is not None
    assert spec.identity is not None
    assert spec.needs(scale=1.0) == {"cond"}
    assert spec.needs(scale=7.5) == {"cond", "uncond"}
    assert spec.identity(scale=1) == "cond"
    assert spec.identity(scale=7.5) is None


@pytest.mark.parametrize("scale", [0, 1.0, 7.5, torch.tensor(2.0), torch.tensor([0.5, 3.0])])
@pytest.mark.parametrize("variances", [(False, False), (True, False), (False, True), (True, True)])
def test_extrapolation_is_the_arithmetic_of_predictions(scale: Any, variances: tuple[bool, bool]) -> None:
    uncond, cond = (
        Prediction(normal(2, 1, 3, 3, seed=i).double(), "v", normal(2, 1, 3, 3, seed=9 + i) if has_variance else None)
        for i, has_variance in enumerate(variances)
    )
    actual, expected = uncond.extrapolate(cond, scale), uncond + scale * (cond - uncond)
    assert actual.kind == "v"
    assert actual.variance is expected.variance
    torch.testing.assert_close(actual.value, expected.value, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_cfg_of_a_sample_is_the_same_in_any_batch_and_keeps_the_scale(dtype: torch.dtype) -> None:
    uncond, cond = (normal(3, 3, 5, 5, seed=i).to(dtype) for i in range(2))

    def guide(samples: slice, scale: float) -> Tensor:
        pair = (Prediction(cond[samples], "eps"), Prediction(uncond[samples], "eps"))
        return guidance.classifier_free_guidance(*pair, scale=scale).value

    alone = torch.cat([guide(slice(i, i + 1), 7.3) for i in range(3)])
    assert torch.equal(guide(slice(3), 7.3), alone)
    assert not torch.equal(guide(slice(3), 1.003), guide(slice(3), 1.0))


def test_cfg_of_different_kinds_is_refused() -> None:
    with pytest.raises(ValueError, match="'v' and 'eps' do not add"):
        guidance.classifier_free_guidance(Prediction(normal(2), "v"), Prediction(normal(2), "eps"), scale=2.0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.0, torch.tensor([1.0, 4.0], dtype=torch.float64)])
def test_the_classifiers_score_is_its_gradient_even_where_gradients_are_off(scale: Any) -> None:
    schedule = scaled_linear()
    x, t, label = normal(2, 1, 3, 3), torch.tensor([400.0]), torch.tensor([0, 2])
    alpha, sigma = (c.item() for c in schedule.alpha_sigma(t.double()))
    with torch.no_grad():
        score = guidance.classifier_guidance(GaussianClassifier(schedule), x, t, label, scale=scale)
    factor = scale.reshape(2, 1, 1, 1) if isinstance(scale, Tensor) else scale
    torch.testing.assert_close(score, factor * gradient_by_hand(x, label, alpha, sigma), atol=1e-10, rtol=1e-10)
    assert not score.requires_grad


def test_one_label_broadcasts_to_the_batch() -> None:
    schedule, x, t = scaled_linear(), normal(2, 1, 3, 3), torch.tensor([400.0])
    classifier = GaussianClassifier(schedule)
    broadcast = guidance.classifier_guidance(classifier, x, t, torch.tensor([1]))
    assert torch.equal(broadcast, guidance.classifier_guidance(classifier, x, t, torch.tensor([1, 1])))


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("at_mean", [False, True])
def test_algorithm_1_against_a_plain_loop(scale: float, at_mean: bool) -> None:
    """Dhariwal & Nichol 2021, algorithm 1: x_{t−1} ~ N(μ + sΣ∇log p(y|·), Σ), the gradient at x_t or at μ."""
    schedule, label = schedules.linear(), torch.tensor([2, 0])
    classifier, sampler = GaussianClassifier(schedule), samplers.ddpm(schedules.linear(), steps=50)
    times = [int(t) for t in sampler.steps]
    bars = schedule.alphas_bar.tolist()
    x = y = normal(2, 1, 3, 3)
    state = sampler.state
    for i, t in enumerate(times):
        noise = normal(2, 1, 3, 3, seed=i + 1)
        row_t = sampler.steps[i : i + 1]
        alpha, sigma = (c.item() for c in schedule.alpha_sigma(row_t.double()))
        prediction = Prediction(eps_star(x, alpha, sigma), "eps")
        point = mean(sampler.scheduler, x, prediction, state, row_t) if at_mean else x
        score = guidance.classifier_guidance(classifier, point, row_t, label, scale=scale)
        x, state = step(sampler.scheduler, x, prediction, state, row_t, score=score, noise=noise)

        bar, before = bars[t], bars[times[i + 1]] if i + 1 < len(times) else 1.0
        a = bar / before
        x0 = (y - math.sqrt(1 - bar) * eps_star(y, math.sqrt(bar), math.sqrt(1 - bar))) / math.sqrt(bar)
        mu = math.sqrt(before) * (1 - a) / (1 - bar) * x0 + math.sqrt(a) * (1 - before) / (1 - bar) * y
        variance = (1 - before) / (1 - bar) * (1 - a)
        gradient = gradient_by_hand(mu if at_mean else y, label, math.sqrt(bar), math.sqrt(1 - bar))
        y = mu + scale * variance * gradient + math.sqrt(variance) * noise
    assert float((x - y).abs().max()) < 1e-6


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_algorithm_2_against_a_plain_loop(scale: float, kind: Any) -> None:
    """Dhariwal & Nichol 2021, algorithm 2: ε̂ = ε − √(1−ᾱ) s∇log p(y|x_t), then DDIM."""
    schedule, label, t_start = scaled_linear(), torch.tensor([2, 0]), 20
    classifier, sampler = GaussianClassifier(schedule), samplers.ddim(scaled_linear(), steps=t_start)
    times = [int(t) for t in sampler.steps]
    bars = schedule.alphas_bar.tolist()
    x = y = normal(2, 1, 3, 3)
    state = sampler.state
    for i, t in enumerate(times):
        row_t = sampler.steps[i : i + 1]
        alpha, sigma = (c.item() for c in schedule.alpha_sigma(row_t.double()))
        prediction = schedule.convert(Prediction(eps_star(x, alpha, sigma), "eps"), kind, x, row_t)
        score = guidance.classifier_guidance(classifier, x, row_t, label, scale=scale)
        guided = guidance.shift_eps(prediction, score, x, row_t, schedule)
        assert guided.kind == kind
        x, state = step(sampler.scheduler, x, guided, state, row_t)

        bar, before = bars[t], bars[times[i + 1]] if i + 1 < len(times) else 1.0
        alpha, sigma = math.sqrt(bar), math.sqrt(1 - bar)
        eps = eps_star(y, alpha, sigma) - sigma * scale * gradient_by_hand(y, label, alpha, sigma)
        y = math.sqrt(before) * (y - sigma * eps) / alpha + math.sqrt(1 - before) * eps
    assert float((x - y).abs().max()) < 1e-6


def test_shift_eps_keeps_dtype_and_variance() -> None:
    schedule, x = scaled_linear(), normal(2, 1, 3, 3).float()
    prediction = Prediction(x, "v", variance=x)
    shifted = guidance.shift_eps(prediction, x, x, torch.tensor([10.0, 900.0]), schedule)
    assert shifted.value.dtype == torch.float32
    assert shifted.variance is x


def test_scores_add_up() -> None:
    scores = [normal(2, 3, seed=i) for i in range(3)]
    torch.testing.assert_close(guidance.add_scores(scores), scores[0] + scores[1] + scores[2])
    with pytest.raises(ValueError, match="at least one"):
        guidance.add_scores([])


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1))
def test_rescale_blends_the_deviation_of_each_sample(phi: float) -> None:
    cond, guided = (Prediction(normal(2, 3, 4, 4, seed=i) * (1 + 4 * i), "v") for i in range(2))
    rescaled = guidance.rescale(guided, cond, phi=phi)
    for i in range(2):
        target = phi * cond.value[i].std() + (1 - phi) * guided.value[i].std()
        torch.testing.assert_close(rescaled.value[i].std(), target)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rescale_of_zeros_is_zeros(dtype: torch.dtype) -> None:
    zero = Prediction(torch.zeros(1, 1, 2, 2, dtype=dtype), "eps")
    assert torch.equal(guidance.rescale(zero, zero, phi=1.0).value, zero.value)


def test_rescale_needs_no_condition_where_it_changes_nothing() -> None:
    spec = get_spec(guidance.rescale)
    assert spec.needs is not None
    assert spec.needs(phi=0) == {"guided"}


def test_the_ends_of_an_interval_may_be_tensors_as_in_a_graph() -> None:
    low, high = torch.tensor(100.0), torch.tensor(600.0)
    times = torch.tensor([99.0, 100.0, 600.0, 601.0])
    torch.testing.assert_close(
        guidance.interval(times, scale=5.0, low=low, high=high),  # type: ignore[arg-type]
        torch.tensor([1.0, 5.0, 5.0, 1.0]),
    )
    swapped = guidance.interval(times, scale=5.0, low=high, high=low)  # type: ignore[arg-type]
    torch.testing.assert_close(swapped, torch.ones(4))


@pytest.mark.parametrize(("t", "expected"), [(99.0, 1.0), (100.0, 5.0), (600.0, 5.0), (601.0, 1.0)])
def test_interval_gives_a_number_that_cfg_can_compare(t: float, expected: float) -> None:
    value = guidance.interval(torch.tensor([t]), scale=5.0, low=100.0, high=600.0)
    assert isinstance(value, float)
    assert value == expected


def test_interval_over_sigma_and_over_samples() -> None:
    schedule = scaled_linear()
    alpha, sigma = schedule.alpha_sigma(torch.tensor([300.0]))
    ratio = float(sigma / alpha)
    assert guidance.interval(torch.tensor([300.0]), schedule, scale=3.0, low=ratio - 0.01, high=ratio + 0.01) == 3.0
    assert guidance.interval(torch.tensor([310.0]), schedule, scale=3.0, low=ratio - 0.01, high=ratio + 0.01) == 1.0
    times = torch.tensor([50.0, 500.0])
    torch.testing.assert_close(guidance.interval(times, scale=3.0, high=100.0), torch.tensor([3.0, 1.0]))
    scales = torch.tensor([2.0, 4.0])
    torch.testing.assert_close(guidance.interval(times[1:], scale=scales, low=100.0), scales)


def test_an_interval_without_an_upper_end_has_none() -> None:
    cosine, last = schedules.cosine(), torch.tensor([999.0])
    alpha, sigma = cosine.alpha_sigma(last)
    assert float(sigma / alpha) > 20_000
    assert guidance.interval(last, cosine, scale=3.0, low=0.3) == 3.0
    assert guidance.interval(torch.tensor([3999.0]), scale=3.0, low=100.0) == 3.0, "of 4,000 timesteps"


def test_interval_of_a_flow_is_over_its_sigma() -> None:
    schedule, t = schedules.flow(), torch.tensor([1000.0])
    assert guidance.interval(t, schedule, scale=3.0) == 3.0, "by default everywhere, also where σ/α is infinite"
    assert guidance.interval(t, schedule, scale=3.0, high=0.99) == 1.0
    assert guidance.interval(torch.tensor([600.0]), schedule, scale=3.0, low=0.5, high=0.7) == 3.0


@pytest.mark.parametrize("level", [0.1, 0.3, 0.6, 0.7, 0.9])
def test_both_ends_of_an_interval_of_sigma_are_included(level: float) -> None:
    schedule, t = schedules.flow(), torch.tensor([round(1000 * level)], dtype=torch.float32)
    for ends in ({"high": level}, {"low": level}):
        assert guidance.interval(t, schedule, scale=3.0, **ends) == 3.0
        each = guidance.interval(t.repeat(2), schedule, scale=3.0, **ends)
        torch.testing.assert_close(each, torch.tensor([3.0, 3.0]))


def test_interval_can_be_traced() -> None:
    class Body(torch.nn.Module):
        def forward(self, t: Tensor) -> Any:
            return guidance.interval(t, scale=5.0, low=100.0, high=600.0)

    program = torch.export.export(Body(), (torch.tensor([500.0]),), strict=False).module()
    assert program(torch.tensor([500.0])).tolist() == [5.0]
    assert program(torch.tensor([50.0])).tolist() == [1.0]


@pytest.mark.parametrize("times", [[300.0], [300.0, 900.0]])
def test_an_interval_takes_scales_with_trailing_axes(times: list[float]) -> None:
    scales = torch.tensor([2.0, 3.0])
    expected = guidance.interval(torch.tensor(times), scale=scales, low=100.0, high=600.0)
    assert expected.tolist() == ([2.0, 3.0] if len(times) == 1 else [2.0, 1.0])
    for shape in ((2, 1), (2, 1, 1, 1)):
        actual = guidance.interval(torch.tensor(times), scale=scales.reshape(shape), low=100.0, high=600.0)
        assert torch.equal(actual, expected)
