"""Masks of latents, and the noise that blended inpainting adds to the pixels outside the mask."""

from __future__ import annotations

import pytest
import torch

from guidegraph.nodes.conditioning.mask import blend, fit_mask
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.schedule import scaled_linear
from guidegraph.nodes.sampling.scheduler_step import add_noise, step
from guidegraph.nodes.types import Prediction


def test_a_mask_takes_the_nearest_value_at_the_size_of_a_latent() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[:, :, 4:, :4] = 1
    latent_mask = fit_mask(mask, torch.zeros(2, 4, 2, 2))
    assert latent_mask[0, 0].tolist() == [[0, 0], [1, 0]]
    assert fit_mask(mask, torch.zeros(1, 4, 4, 2)).shape == (1, 1, 4, 2)


def test_samples_of_any_channels_are_blended_under_a_mask() -> None:
    inside, outside = torch.randn(2, 5, 4, 4), torch.randn(1, 5, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3] = 1
    blended = blend(inside, outside, mask)
    torch.testing.assert_close(blended[..., 1:3], inside[..., 1:3])
    assert torch.equal(blended[..., [0, 3]], outside.expand(2, -1, -1, -1)[..., [0, 3]])


def test_samples_of_unlike_channels_are_not_blended() -> None:
    with pytest.raises(ValueError, match=r"samples must be of one size.*\(1, 4, 2, 2\) and \(1, 1, 2, 2\)"):
        blend(torch.zeros(1, 4, 2, 2), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))


def test_noise_is_added_at_the_level_of_the_next_call_and_none_after_the_last() -> None:
    schedule = scaled_linear()
    sampler = samplers.ddim(schedule, steps=4)
    x0, noise, state = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), sampler.state
    x = add_noise(sampler.scheduler, x0, noise)
    assert torch.equal(add_noise(sampler.scheduler, x0, noise, state), x)
    for t in (*sampler.steps[1:], None):
        eps = Prediction(torch.zeros_like(x), "eps")
        x, state = step(sampler.scheduler, x, eps, state, torch.zeros(1))
        expected = x0 if t is None else schedule.add_noise(x0, noise, t.reshape(1))
        torch.testing.assert_close(add_noise(sampler.scheduler, x0, noise, state), expected)
