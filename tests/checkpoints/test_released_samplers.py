"""The samplers that we share with diffusers, in a workflow with a checkpoint and guidance, against its pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.noise import gaussian
from tests.checkpoints import figures, pipelines

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

WORKFLOW = Path(__file__).parents[2] / "workflows" / "checkpoints" / "text_to_image.yaml"
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


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny pipeline with the topology of Stable Diffusion 1, and its folder."""
    folder = tmp_path_factory.mktemp("stable")
    pipe = pipelines.pipeline("sd1", folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "model")
    return pipe, folder


def both(sampler: str, pipe: Any, folder: Path) -> tuple[Tensor, Tensor]:
    """The latents that the shipped workflow with another sampler draws, and the pipeline's."""
    name, settings, final = SAMPLERS[sampler]
    stable = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    pipe.scheduler = getattr(diffusers, name)(**stable, timestep_spacing="leading", steps_offset=1, **settings)
    start = gaussian(seed=SEED, shape=SHAPE)
    expected: Tensor = pipe(
        PROMPT,
        height=32,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        latents=start.clone(),
        output_type="latent",
    ).images
    text = WORKFLOW.read_text(encoding="utf-8")
    text = text.replace("use: scheduler.ddim", f"use: scheduler.{sampler}").replace("      final: sampling.final\n", "")
    text = text.replace(
        "      spacing: sampling.spacing\n", f"      spacing: sampling.spacing\n    with: {{final: {final}}}\n"
    )
    written = folder / f"{sampler}.yaml"
    written.write_text(text, encoding="utf-8")
    given = {"checkpoint": folder / "model", "prompt": PROMPT, "steps": STEPS, "seed": SEED, "shape": SHAPE}
    found: Tensor = load_workflow(written).run(**given)["latent"]
    return found, expected


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_twenty_steps_of_every_shared_sampler(stable: tuple[Any, Path], sampler: str) -> None:
    found, expected = both(sampler, *stable)
    figures.relative(found, expected, TOLERANCE, "latents after all steps")
