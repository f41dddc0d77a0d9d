"""Samplers that we share with diffusers, each through the whole of a pipeline at guidance 7.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.nodes.noise import gaussian
from tests.checkpoints import pipelines

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

WORKFLOW = Path(__file__).parents[2] / "workflows" / "checkpoints" / "text_to_image.yaml"
SHAPE = [4, 16, 16]
LAST = {"final_sigmas_type": "sigma_min"}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False}),
    "pndm": ("PNDMScheduler", {"set_alpha_to_one": False, "skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", LAST),
    "unipc": ("UniPCMultistepScheduler", LAST),
}
"""Ours, and theirs with what it takes to end where ours does: on ᾱ_0 for those whose config says so."""


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = pipelines.pipeline("sd1", tmp_path_factory.mktemp("words"))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_what_the_pipeline_draws(pipe: Any, tmp_path: Path, name: str) -> None:
    reference, settings = SAMPLERS[name]
    stable = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    pipe.scheduler = getattr(diffusers, reference)(**stable, timestep_spacing="leading", **settings)
    pipe.save_pretrained(tmp_path / "folder")
    written = tmp_path / "drawn.yaml"
    final = "first" if settings else "one"
    text = WORKFLOW.read_text(encoding="utf-8").replace("use: scheduler.ddim", f"use: scheduler.{name}")
    written.write_text(
        text.replace("final: sampling.final", "final: params.final").replace(
            "nodes:\n", f"  final: {final}\nnodes:\n", 1
        )
    )
    expected = pipe(
        "a tiger",
        negative_prompt="b",
        num_inference_steps=20,
        guidance_scale=7.5,
        latents=gaussian(seed=2, shape=SHAPE),
        height=32,
        width=32,
        output_type="latent",
    ).images
    found = load_workflow(written).run(
        checkpoint=str(tmp_path / "folder"), prompt="a tiger", negative="b", steps=20, seed=2, shape=SHAPE
    )["latent"]
    assert expected.std() > 0.1
    distance = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
    assert distance < 1e-3
