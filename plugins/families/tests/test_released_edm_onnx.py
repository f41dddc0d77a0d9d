"""A released EDM denoiser in a foreign ONNX file, against the sampling of its own package."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.paths import ROOT

pytest.importorskip("onnxruntime")

from guidegraph import load_workflow
from guidegraph.nodes.models.onnx.onnx import onnx_denoiser
from guidegraph.nodes.sampling.noise import gaussian
from guidegraph.nodes.sampling.schedule import edm
from guidegraph.nodes.sampling.scheduler import Sampler, euler, heun
from guidegraph.nodes.sampling.scheduler_step import add_noise, step
from guidegraph.nodes.types import Condition, Schedule

pytestmark = pytest.mark.slow

WORKFLOW = ROOT / "workflows" / "checkpoints" / "onnx_terrain.yaml"
TOLERANCE = 2e-5
"""Of a range of 2: the package's σ is a float32, and x is multiplied by it; ours is divided by α."""
DIFFICULTY = np.array([0.1, 0.9], np.float32)


@pytest.fixture(scope="module")
def package() -> Any:
    reason = "needs the model of a package: pip install --no-deps adaptive-terrain-diffusion (45 MB)"
    return pytest.importorskip("terrain_diffusion", reason=reason).TerrainGenerator(device="cpu")


def draw(package: Any, schedule: Schedule, sampler: Sampler, x0: Tensor, noise: Tensor) -> np.ndarray:
    """x0 of our sampler, from x0 at its first level."""
    denoiser = onnx_denoiser(
        schedule,
        path=Path(package.model_path),
        inputs={"x": "noisy", "t": "sigma", "vector": "difficulty"},
        kind="x0",
        edm="preconditioned",
        provider="cpu",
        threads=1,
    )
    condition = Condition(vector=torch.from_numpy(DIFFICULTY)[: len(x0), None])
    x, state = add_noise(sampler.scheduler, x0, noise), sampler.state
    for t in sampler.steps:
        x, state = step(sampler.scheduler, x, denoiser(x, t.expand(len(x)), condition), state, t[None])
    return x.numpy()


def noise_of(seed: int, count: int = 2) -> Tensor:
    """The noise that the package draws."""
    shape = (count, 1, 128, 128)
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def test_one_step_draws_the_terrains_of_the_package(package: Any) -> None:
    noise = noise_of(7)
    expected = package._sample_native(DIFFICULTY, generator=np.random.default_rng(7))
    actual = draw(package, edm(), euler(edm(), steps=1), torch.zeros_like(noise), noise)
    assert expected.std() > 0.1
    assert np.abs(actual - expected).max() < TOLERANCE


def test_a_variation_starts_from_the_level_of_its_strength(package: Any) -> None:
    noise, source = noise_of(8), np.tanh(noise_of(9).numpy())
    expected = package._sample_native(DIFFICULTY, generator=np.random.default_rng(8), sources=source, strength=0.5)
    schedule = edm(sigma_max=0.4)  # 0.002 (80/0.002)^0.5
    actual = draw(package, schedule, euler(schedule, steps=1), torch.from_numpy(source), noise)
    assert np.abs(actual - expected).max() < TOLERANCE


def test_samplers_of_several_steps_are_those_of_the_paper(package: Any) -> None:
    """Heun's method with levels of eq. 5, written out in x̃ (Karras et al. 2022, algorithm 1)."""
    ramp, ends = np.linspace(0, 1, 3), (80 ** (1 / 7), 0.002 ** (1 / 7))
    levels = [*(ends[0] + ramp * (ends[1] - ends[0])) ** 7, 0.0]
    noise = noise_of(10, 1)
    x = levels[0] * noise.numpy().astype(np.float64)

    def slope(x: np.ndarray, sigma: float) -> np.ndarray:
        denoised = package._denoise(x, np.full(len(x), sigma), DIFFICULTY[:1])
        return np.asarray((x - denoised) / sigma, np.float64)

    for sigma, after in pairwise(levels):
        d = slope(x, sigma)
        euler_step = x + (after - sigma) * d
        x = x + (after - sigma) * (d + slope(euler_step, after)) / 2 if after else euler_step
    actual = draw(
        package, edm(), heun(edm(), steps=3, sigmas="karras"), torch.zeros_like(noise).double(), noise.double()
    )
    assert np.abs(actual - x).max() < 2e-4


def test_the_workflow_that_ships_draws_them(package: Any) -> None:
    outputs = load_workflow(WORKFLOW, cache=None).run(path=Path(package.model_path), difficulty=0.9, seed=3, threads=1)
    noise = gaussian(seed=3, shape=[1, 128, 128]).numpy()
    expected = package._denoise(noise * np.sqrt(80.0**2 + 1), np.array([80.0]), DIFFICULTY[1:])
    assert outputs["image"].shape == (1, 3, 128, 128)
    assert np.abs(outputs["terrain"].numpy() - expected).max() < TOLERANCE
