"""dit.yaml against diffusers' DiTPipeline, with a folder and with a file of the authors: the latents of 20 steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.sampling.noise import gaussian
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import dit_writer
from tests.graph.export.exporting import made
from tests.paths import ROOT

diffusers = pytest.importorskip("diffusers")

WORKFLOW = ROOT / "workflows" / "checkpoints" / "dit.yaml"
LABELS, SCALE, STEPS, SHAPE = [3, 207], 4.0, 20, (4, 8, 8)


def pipeline(model: Any) -> Any:
    torch.manual_seed(3)
    vae: Any = diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4).eval().requires_grad_(False)
    pipe: Any = diffusers.DiTPipeline(model, vae, diffusers.DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_theirs(pipe: Any) -> tuple[Tensor, Tensor]:
    """The latents and the pictures of diffusers' pipeline, which takes no noise as an argument."""
    noise = gaussian(seed=3, shape=SHAPE, batch=2)
    with (
        patch("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda **_: noise),
        patch.object(pipe.vae, "decode", wraps=pipe.vae.decode) as decode,
    ):
        pictures = pipe(LABELS, guidance_scale=SCALE, num_inference_steps=STEPS, output_type="pt").images
    return decode.call_args.args[0] * pipe.vae.config.scaling_factor, pictures


@pytest.mark.parametrize("layout", ["folder", "authors"])
def test_twenty_steps_of_the_workflow_are_those_of_the_pipeline(layout: str, tmp_path: Path) -> None:
    model = dit_writer.network(num_embeds_ada_norm=1000)
    pipe = pipeline(model if layout == "folder" else dit_writer.follow_authors(model))
    pipe.save_pretrained(tmp_path / "folder")
    checkpoint, text = tmp_path / "folder", WORKFLOW.read_text(encoding="utf-8")
    if layout == "authors":
        checkpoint, load = tmp_path / "model.pt", "in: {path: params.checkpoint}}\n  first:"
        torch.save(dit_writer.authors_tensors(model), checkpoint)
        assert load in text
        text = text.replace(load, load.replace("}}", "}, with: {heads: 2, noise_schedule: linear}}"))
    (tmp_path / "dit.yaml").write_text(text, encoding="utf-8")
    latents, pictures = run_theirs(pipe)
    outputs = load_workflow(tmp_path / "dit.yaml").run(
        checkpoint=checkpoint,
        autoencoder=tmp_path / "folder" / "vae",
        label=LABELS,
        scale=SCALE,
        steps=STEPS,
        seed=3,
        batch=2,
        shape=list(SHAPE),
    )
    difference_bounds.relative(outputs["latent"], latents, 1e-3, "latents after 20 steps")
    torch.testing.assert_close(outputs["image"] / 2 + 0.5, pictures, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws_at_any_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pipeline(dit_writer.network(num_embeds_ada_norm=1000)).save_pretrained(tmp_path / "folder")
    folder = tmp_path / "folder"
    settings = {"checkpoint": str(folder), "autoencoder": str(folder / "vae"), "steps": 2, "batch": 2}
    exported = made(WORKFLOW, tmp_path, **settings, shape=list(SHAPE), label=LABELS)
    (tmp_path / "engine").mkdir()
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"label": [5, 999], "scale": 2.0, "steps": 3}),
        ({"noise.shape": [4, 12, 16]}, {"shape": [4, 12, 16]}),
    ]
    for nodes, params in changes:
        latent = exported.run(nodes, **({} if nodes else params))["latent"]
        expected = exported.engine(tmp_path / "engine", **params)["latent"]
        difference_bounds.relative(torch.as_tensor(latent), torch.as_tensor(expected), 1e-4, "latents of the bundle")
