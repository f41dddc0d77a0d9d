"""Samplers that diffusers has too, in a workflow with a checkpoint and guidance, against its pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.sampling.noise import gaussian
from plugins.families.tests import difference_bounds
from plugins.families.tests.diffusers import pipelines
from tests.paths import ROOT
from tests.slow_cases import mark_slow

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

WORKFLOW = ROOT / "workflows" / "checkpoints" / "text_to_image.yaml"
PROMPT, STEPS, SEED, SHAPE = "a tiger on grass", 20, 5, [4, 16, 16]
TOLERANCE = 1e-3

SAMPLERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}, "first"),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}, "first"),
    "euler": ("EulerDiscreteScheduler", {}, "one"),
    "heun": ("HeunDiscreteScheduler", {}, "one"),
    "dpm2": ("KDPM2DiscreteScheduler", {}, "one"),
    "lms": ("LMSDiscreteScheduler", {}, "one"),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}, "one"),
    "unipc": ("UniPCMultistepScheduler", {}, "one"),
}
"""Ours: diffusers' class, its settings beside Stable Diffusion's, and our setting `final`."""

NOISY: dict[str, tuple[str, dict[str, Any], str]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}, "first"),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}, "one"),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}, "one"),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "one"),
}
"""Those that draw noise at their steps, ddim with eta 1."""

QUICK = {"ddim", "heun", "dpmpp_2m", "euler_ancestral"}
"""A step of its own kind each; tests/nodes/sampling compares every sampler with diffusers' without a network."""


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny pipeline with the topology of Stable Diffusion 1, and its folder."""
    folder = tmp_path_factory.mktemp("stable")
    pipe = pipelines.pipeline("sd1", folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "model")
    return pipe, folder


def theirs(pipe: Any, name: str, settings: dict[str, Any], **arguments: Any) -> Tensor:
    """The latents that the pipeline draws with a scheduler of its own."""
    stable = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    pipe.scheduler = getattr(diffusers, name)(**stable, timestep_spacing="leading", steps_offset=1, **settings)
    size = {"height": 32, "width": 32, "num_inference_steps": STEPS, "guidance_scale": 7.5}
    latents: Tensor = pipe(PROMPT, output_type="latent", **size, **arguments).images
    return latents


def ours(folder: Path, sampler: str, settings: str, changes: dict[str, str]) -> Tensor:
    """The latents that the shipped workflow draws with another sampler of these settings, and other changes."""
    text = WORKFLOW.read_text(encoding="utf-8")
    changes = {
        "use: scheduler.ddim": f"use: scheduler.{sampler}",
        "      final: sampling.final\n": "",
        "      spacing: sampling.spacing\n": f"      spacing: sampling.spacing\n    with: {{{settings}}}\n",
        **changes,
    }
    for key, value in changes.items():
        assert key in text
        text = text.replace(key, value)
    path = folder / f"{sampler}.yaml"
    path.write_text(text, encoding="utf-8")
    arguments = {"checkpoint": folder / "model", "prompt": PROMPT, "steps": STEPS, "seed": SEED, "shape": SHAPE}
    actual: Tensor = load_workflow(path).run(**arguments)["latent"]
    return actual


@pytest.mark.parametrize("sampler", mark_slow(SAMPLERS, QUICK & SAMPLERS.keys()))
def test_twenty_steps_of_every_shared_sampler(stable: tuple[Any, Path], sampler: str) -> None:
    pipe, folder = stable
    name, settings, final = SAMPLERS[sampler]
    expected = theirs(pipe, name, settings, latents=gaussian(seed=SEED, shape=SHAPE))
    difference_bounds.relative(
        ours(folder, sampler, f"final: {final}", {}), expected, TOLERANCE, "latents after all steps"
    )


@pytest.mark.parametrize("sampler", mark_slow(NOISY, QUICK & NOISY.keys()))
def test_twenty_steps_with_the_same_noise_at_each(stable: tuple[Any, Path], sampler: str) -> None:
    pipe, folder = stable
    name, settings, final = NOISY[sampler]
    eta = {"eta": 1.0} if sampler == "ddim" else {}
    expected = theirs(pipe, name, settings, generator=torch.Generator().manual_seed(SEED), **eta)
    torchs = {
        "shape: params.shape}}": "shape: params.shape}, with: {rng: torch}}",
        "index: loop.index, seed: params.seed}}": "index: loop.index, seed: params.seed}, with: {rng: torch}}",
    }
    chosen = f"final: {final}" + (", eta: 1" if eta else "")
    difference_bounds.relative(ours(folder, sampler, chosen, torchs), expected, TOLERANCE, "latents after all steps")
