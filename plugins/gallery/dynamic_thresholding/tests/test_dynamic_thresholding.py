"""Dynamic thresholding: both methods against other implementations, their limits, the workflows, the bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

import guidegraph_dynamic_thresholding as dynamic_thresholding
from guidegraph import Prediction, StepContext, load_workflow
from tests.graph.export.exporting import LEVEL, WORKFLOWS, difference, made

MIMIC = Path(dynamic_thresholding.__file__).with_name("text_to_image.yaml")
CLIP = MIMIC.with_name("clip.yaml")
PLUGIN = ("guidegraph_dynamic_thresholding",)
KINDS = pytest.mark.parametrize("kind", ["eps", "x0", "v"])


def random(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(rows: slice = slice(None)) -> StepContext:
    row = torch.tensor([0])
    alpha, sigma = (torch.tensor([level], dtype=torch.float64) for level in (0.6, 0.8))
    return StepContext(random(0)[rows], torch.tensor([500.0]), alpha, sigma, row, row + 10)


def predictions(kind: Any) -> tuple[Prediction, Prediction]:
    return Prediction(random(5), kind, variance=random(7)), Prediction(random(6), kind)


@KINDS
@pytest.mark.parametrize(("percentile", "bound"), [(0.9, 1.0), (0.995, 1.0), (0.8, 2.5), (1.0, 0.5)])
def test_clip_is_imagens_thresholding_in_units_of_the_bound(kind: str, percentile: float, bound: float) -> None:
    context, (prediction, _) = at(), predictions(kind)
    other = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=1e9)
    actual = dynamic_thresholding.clip(prediction, context, percentile=percentile, bound=bound)
    assert actual.kind == kind
    assert actual.variance is prediction.variance
    # diffusers takes the quantile in float32
    expected = other._threshold_sample((context.x0(prediction) / bound).float()).double() * bound
    torch.testing.assert_close(context.x0(actual), expected, rtol=1e-5, atol=1e-5)
    assert context.x0(actual).abs().max() <= bound * (1 + 1e-9)


def test_clip_of_a_channel_is_that_of_the_channel_alone() -> None:
    context, (prediction, _) = at(), predictions("x0")
    actual = dynamic_thresholding.clip(prediction, context, percentile=0.9, per_channel=True).value
    for channel in range(4):
        part = slice(channel, channel + 1)
        single = StepContext(context.x[:, part], context.t, context.alpha, context.sigma, context.step, context.steps)
        single_result = dynamic_thresholding.clip(Prediction(prediction.value[:, part], "x0"), single, percentile=0.9)
        torch.testing.assert_close(actual[:, part], single_result.value)


@KINDS
def test_values_within_the_bound_stay(kind: str) -> None:
    context, (prediction, _) = at(), predictions(kind)
    bound = context.x0(prediction).abs().max().item()
    torch.testing.assert_close(
        dynamic_thresholding.clip(prediction, context, percentile=1.0, bound=bound).value, prediction.value
    )


@pytest.mark.parametrize("share", [0.0, 0.37, 0.995, 1.0])
def test_the_quantile_is_that_of_torch(share: float) -> None:
    values = random(1)
    over_all = torch.quantile(values.flatten(1), share, dim=1).reshape(3, 1, 1, 1)
    each = torch.quantile(values.flatten(2), share, dim=2).reshape(3, 4, 1, 1)
    torch.testing.assert_close(dynamic_thresholding._quantile(values, share, False), over_all)
    torch.testing.assert_close(dynamic_thresholding._quantile(values, share, True), each)


def mimic_reference(high: Any, low: Any, percentile: float, per_channel: bool) -> Any:
    """One sample (C, H, W), in NumPy: the values of each channel around their mean, brought to the other's range."""
    mean = high.mean((1, 2), keepdims=True)
    around, other = high - mean, low - low.mean((1, 2), keepdims=True)
    groups = [slice(c, c + 1) for c in range(len(high))] if per_channel else [slice(None)]
    for group in groups:
        spread = np.abs(other[group]).max()
        edge = max(spread, np.quantile(np.abs(around[group]), percentile))
        around[group] = np.clip(around[group], -edge, edge) / edge * spread
    return around + mean


@KINDS
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("percentile", [1.0, 0.9])
def test_mimic_gives_each_sample_the_range_of_the_mimic_scale(kind: str, per_channel: bool, percentile: float) -> None:
    context, (cond, uncond) = at(), predictions(kind)
    x0 = [context.x0(uncond + scale * (cond - uncond)).numpy() for scale in (9.0, 2.0)]
    expected = np.stack([mimic_reference(high, low, percentile, per_channel) for high, low in zip(*x0, strict=True)])
    settings = {"scale": 9.0, "mimic_scale": 2.0, "percentile": percentile, "per_channel": per_channel}
    actual = dynamic_thresholding.mimic(cond, uncond, context, **settings)
    assert actual.kind == kind
    assert actual.variance is cond.variance
    torch.testing.assert_close(context.x0(actual), torch.from_numpy(expected))


@KINDS
def test_at_the_mimic_scale_it_is_classifier_free_guidance(kind: str) -> None:
    context, (cond, uncond) = at(), predictions(kind)
    scales = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    actual = dynamic_thresholding.mimic(cond, uncond, context, scale=scales, mimic_scale=scales)
    torch.testing.assert_close(actual.value, (uncond + scales * (cond - uncond)).value)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_sample_does_not_depend_on_the_others(per_channel: bool) -> None:
    cond, uncond = predictions("v")
    cond_1, uncond_1 = (Prediction(prediction.value[1:2], "v") for prediction in (cond, uncond))
    batch, single_result = (
        dynamic_thresholding.mimic(*arguments, percentile=0.9, per_channel=per_channel)
        for arguments in ((cond, uncond, at()), (cond_1, uncond_1, at(slice(1, 2))))
    )
    torch.testing.assert_close(single_result.value, batch.value[1:2])
    batch, single_result = (
        dynamic_thresholding.clip(*arguments, percentile=0.9, per_channel=per_channel)
        for arguments in ((cond, at()), (cond_1, at(slice(1, 2))))
    )
    torch.testing.assert_close(single_result.value, batch.value[1:2])


def test_the_workflows_draw_and_have_classifier_free_guidance_as_their_limit() -> None:
    params = {"steps": 3, "batch": 2, "scale": 4.0}
    plain = load_workflow(WORKFLOWS / "text_to_image.yaml").run(seed=0, **params)["image"]
    mimic, clip = (load_workflow(path, plugins=PLUGIN) for path in (MIMIC, CLIP))
    assert (mimic.run(**params, mimic_scale=4.0)["image"] - plain).abs().max() < 1e-3
    assert (mimic.run(**params, mimic_scale=2.0)["image"] - plain).abs().max() > 0.05
    assert (clip.run(**params, bound=1e3)["image"] - plain).abs().max() < 1e-3
    assert (clip.run(**params, bound=1.0)["image"] - plain).abs().max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workflow", "settings"),
    [(MIMIC, {"mimic_scale": 3.0, "percentile": 0.99}), (CLIP, {"bound": 2.0, "percentile": 0.9})],
    ids=["mimic", "clip"],
)
def test_the_bundle_draws_what_the_engine_draws(workflow: Path, settings: dict[str, float], tmp_path: Path) -> None:
    exported = made(workflow, tmp_path, PLUGIN, steps=3, batch=2)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, {"steps": 5, "batch": 3, "scale": 8.0, **settings}):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
