"""Bounds of x̂0 in narrow dtypes."""

from __future__ import annotations

import math

import pytest
import torch

from guidegraph.nodes.sampling.scheduler_step import clip_each, clip_x0
from tests.nodes.sampling.closed_form import normal


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_threshold_of_a_narrow_x0_is_that_of_its_values_in_float32(dtype: torch.dtype) -> None:
    x0 = (3 * normal(2, 1, 8, 8)).to(dtype)
    clipped = clip_x0(x0, 1.0, 0.8, 1.5)
    assert clipped.dtype == dtype
    assert torch.equal(clipped, clip_x0(x0.float(), 1.0, 0.8, 1.5).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bounds_for_each_sample_of_a_narrow_x0_are_those_of_the_sample_alone(dtype: torch.dtype) -> None:
    x0 = (3 * normal(3, 1, 8, 8)).to(dtype)
    settings = torch.tensor([[1.0, 0.8, 1.5], [0.5, math.nan, math.nan], [math.nan] * 3])
    clipped, is_bounded = clip_each(x0, *settings.unbind(1))
    assert clipped.dtype == dtype
    assert is_bounded.tolist() == [True, True, False]
    alone = [clip_x0(x0[:1], 1.0, 0.8, 1.5), clip_x0(x0[1:2], 0.5, None), x0[2:]]
    assert torch.equal(clipped, torch.cat(alone))
