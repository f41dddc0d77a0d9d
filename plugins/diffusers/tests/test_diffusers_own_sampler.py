"""A flow-matching model with this project's own step takes the Euler steps of a loop that knows only s and u."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.nodes.sampling.noise import gaussian

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from plugins.diffusers.tests.test_diffusers_adapter import own_sampler, run
from tests.plugins import tiny_diffusers as tiny

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

STEPS, SCALE, SHIFT = 4, 5.0, 3.0


def plain_loop(pipeline: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
    """x ← x + (s′ − s) û from s = 1 to 0 (Liu et al. 2023), with s shifted as Esser et al. 2024, eq. 23, have it."""
    cond, uncond, pooled, pooled_uncond = pipeline.encode_prompt("a tiger", None, None)
    even = [1 - i / STEPS for i in range(STEPS + 1)]
    levels = [SHIFT * s / (1 + (SHIFT - 1) * s) for s in even]
    for s, after in pairwise(levels):
        time = torch.full((1,), 1000 * s)
        u, u_uncond = (
            pipeline.transformer(
                x, encoder_hidden_states=tokens, pooled_projections=vector, timestep=time, return_dict=False
            )[0]
            for tokens, vector in ((cond, pooled), (uncond, pooled_uncond))
        )
        x = x + (after - s) * (u_uncond + scale * (u - u_uncond))
    return x


def test_sd3_with_our_ddim_takes_the_steps_of_a_plain_loop(tmp_path: Path) -> None:
    pipeline = tiny.sd3_pipeline(shift=SHIFT)
    path = tiny.save(pipeline, tmp_path / "sd3")
    ddim = "{use: scheduler.ddim, in: {schedule: schedule, steps: params.steps}, with: {spacing: trailing}}"
    file = own_sampler(tmp_path, f"  scheduler: {ddim}\n")
    actual = run(file, path=path, prompt="a tiger", steps=STEPS, shape=[4, 8, 8], scale=SCALE)["latent"]
    start = gaussian(seed=0, shape=[4, 8, 8], batch=1)
    with torch.no_grad():
        expected, unguided = (plain_loop(pipeline, start, scale) for scale in (SCALE, 1.0))
    tolerance = 1e-5 * float(expected.abs().max())
    assert (expected - unguided).abs().max() > 100 * tolerance
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
