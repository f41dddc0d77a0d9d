"""FreeU: against diffusers and a Fourier transform, its limits, the workflow, the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import torch_utils

import guidegraph_freeu as freeu
from guidegraph import Condition, load_workflow
from guidegraph_families.networks.denoiser import ReleasedDenoiser
from plugins.families.tests.diffusers.test_unet_names import ours
from plugins.families.tests.tiny import unet
from tests.graph.export.exporting import LEVEL, WORKFLOWS, difference, made

WORKFLOW = Path(freeu.__file__).with_name("text_to_image.yaml")
PLUGIN = ("guidegraph_freeu",)
OTHER: dict[str, Any] = {"steps": 4, "batch": 3, "scale": 6.0}
"""Parameters other than at export."""
theirs: Any = torch_utils.fourier_filter
NOTHING = {"b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}
CASES = [(size, threshold) for size in ((4, 4), (8, 6), (5, 7), (2, 3)) for threshold in (1, 2)]


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "threshold"), [case for case in CASES if min(case[0]) >= 2 * case[1]])
def test_the_filter_is_that_of_diffusers(size: tuple[int, int], threshold: int) -> None:
    skipped = random(0, 2, 3, *size)
    for s in (0.0, 0.3, 1.0, 1.7):
        actual = freeu.filter_skips(skipped, s, threshold)
        torch.testing.assert_close(actual, theirs(skipped, threshold, s), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "threshold"), CASES)
def test_the_filter_scales_the_low_frequencies_of_a_fourier_transform(size: tuple[int, int], threshold: int) -> None:
    skipped = random(0, 2, 3, *size).double()
    frequencies = [np.fft.fftfreq(n, 1 / n) for n in size]
    low = [(f >= -threshold) & (f < threshold) for f in frequencies]
    beta = np.where(low[0][:, None] & low[1][None, :], 0.3, 1.0)
    expected = np.fft.ifft2(np.fft.fft2(skipped.numpy()) * beta).real
    actual = freeu.filter_skips(skipped, 0.3, threshold).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_half_of_the_channels_follow_the_map_of_their_mean() -> None:
    h = random(0, 2, 5, 4, 6)
    actual = freeu.strengthen(h, 1.4).numpy()
    for single, made_of in zip(actual, h.numpy(), strict=True):
        mean = made_of.mean(0)
        alpha = 0.4 * (mean - mean.min()) / (mean.max() - mean.min()) + 1
        np.testing.assert_allclose(single[:2], made_of[:2] * alpha, rtol=1e-5)
        np.testing.assert_array_equal(single[2:], made_of[2:])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        flat = torch.ones(1, 4, 2, 2, dtype=dtype)
        assert torch.equal(freeu.strengthen(flat, 1.4), flat)


def test_the_skips_of_a_denoiser_are_filtered_as_in_diffusers() -> None:
    model = unet("sd1")
    denoiser = ReleasedDenoiser(ours(model))
    x, t, tokens = random(0, 2, 4, 16, 16), torch.tensor([3.0, 700.0]), random(1, 2, 7, 64)
    plain = denoiser(x, t, Condition(tokens=tokens)).value
    model.enable_freeu(s1=0.2, s2=0.6, b1=1.0, b2=1.0)
    expected = model(x, t, encoder_hidden_states=tokens).sample
    first = freeu.apply(denoiser, b=1.0, s=0.2, sites=["skip.up.0", "skip.up.1"])
    filtered = freeu.apply(first, b=1.0, s=0.6, sites=["skip.up.2", "skip.up.3"])
    actual = filtered(x, t, Condition(tokens=tokens)).value
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    assert (actual - plain).abs().max() > 1e-2
    single = filtered(x[1:], t[1:], Condition(tokens=tokens[1:])).value
    torch.testing.assert_close(single, actual[1:], rtol=0, atol=1e-5)
    stronger = freeu.apply(first, b=1.5, s=0.6, sites=["skip.up.2", "skip.up.3"])
    assert (stronger(x, t, Condition(tokens=tokens)).value - actual).abs().max() > 1e-3


def test_sites_that_are_no_skips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not at self\.middle\.0"):
        freeu.apply(ReleasedDenoiser(ours(unet("sd1"))), sites="self.middle")


def test_the_workflow_draws_and_has_the_denoiser_itself_as_its_limit() -> None:
    params: dict[str, Any] = {"steps": 2, "batch": 2, "scale": 4.0}
    workflow = load_workflow(WORKFLOW, plugins=PLUGIN)
    plain = load_workflow(WORKFLOWS / "text_to_image.yaml").run(seed=0, **params)["image"]
    assert (workflow.run(**params, **NOTHING)["image"] - plain).abs().max() < 1e-3
    for settings in ({"b1": 1.3}, {"b2": 1.3}, {"s1": 0.2}, {"s2": 0.2}):
        assert (workflow.run(**params, **{**NOTHING, **settings})["image"] - plain).abs().max() > 0.02, settings


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    exported = made(WORKFLOW, tmp_path, PLUGIN, steps=2, batch=2)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, OTHER):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
