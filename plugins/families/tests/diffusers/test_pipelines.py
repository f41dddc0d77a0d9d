"""From prompt to picture in a workflow, with a folder and with a single file: the latents of diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.nodes.sampling.noise import gaussian
from plugins.families.tests.diffusers import pipelines

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

STEPS, SCALE, SEED = 20, 7.5, 3
PROMPTS = ["a tiger b", "c"]

WORKFLOW = """
guidegraph: 1
params:
  path: {type: Path, help: "the checkpoint"}
  prompt: {type: list}
nodes:
  model:     {use: checkpoint.load, in: {path: params.path}, with: {SETTINGS}}
  positive:  {use: text.encode, in: {embedder: model.text, prompt: params.prompt}}
  negative:  {use: text.encode, in: {embedder: model.text}, with: {prompt: ""}}
  scheduler: {use: scheduler.ddim, in: {schedule: model.schedule}, with: {steps: 20, offset: 1, final: first}}
  noise:     {use: noise.gaussian, with: {seed: 3, shape: [4, 16, 16], batch: 2}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      cond:   {use: denoiser.predict, in: {denoiser: model.denoiser, x: carry.x, t: loop.t, condition: positive}}
      uncond: {use: denoiser.predict, in: {denoiser: model.denoiser, x: carry.x, t: loop.t, condition: negative}}
      guided: {use: guidance.cfg, in: {cond: cond, uncond: uncond}, with: {scale: 7.5}}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
  image: {use: autoencoder.decode, in: {autoencoder: model.autoencoder, latent: sample.x}}
outputs: {latent: sample.x, image: image}
"""


def run(path: Path, settings: str, folder: Path) -> Any:
    """The workflow's outputs for the checkpoint at `path`."""
    workflow_path = folder / "sample.yaml"
    workflow_path.write_text(WORKFLOW.replace("SETTINGS", settings), encoding="utf-8")
    return load_workflow(workflow_path).run(path=path, prompt=PROMPTS)


@pytest.mark.parametrize("layout", ["file", pytest.param("folder", marks=pytest.mark.slow)])
def test_twenty_steps_of_ddim_are_those_of_the_pipeline(tmp_path: Path, layout: str) -> None:
    """Of Stable Diffusion 1, two prompts at once, to the picture; test_released_workflows.py has the other families."""
    pipe = pipelines.pipeline("sd1", tmp_path)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "folder")
    file = pipelines.single_file(pipe, "sd1", tmp_path / "model.safetensors")
    expected = pipe(
        PROMPTS,
        height=32,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=gaussian(seed=SEED, shape=(4, 16, 16), batch=2),
        output_type="latent",
    ).images
    path, settings = tmp_path / "folder", ""
    if layout == "file":
        path, settings = file, f"prediction: eps, tokenizer: {tmp_path / 'eos'}"
    actual = run(path, settings, tmp_path)
    with torch.no_grad():
        picture = pipe.vae.decode(expected / pipe.vae.config.scaling_factor).sample
    distance = torch.linalg.vector_norm(actual["latent"] - expected) / torch.linalg.vector_norm(expected)
    assert distance < 1e-3
    assert expected.std() > 0.1
    torch.testing.assert_close(actual["image"], picture.clamp(-1, 1), rtol=0, atol=2e-3)
