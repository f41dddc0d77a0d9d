"""Models of diffusers in ordinary workflows draw the same as diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.nodes.sampling.noise import gaussian
from tests.paths import ROOT

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from tests.plugins import tiny_diffusers as tiny  # noqa: E402

# diffusers' own, of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

WORKFLOWS = ROOT / "workflows" / "checkpoints"
PLUGIN = "guidegraph_diffusers"
PROMPT = "a tiger"


def run(workflow: Path, **params: Any) -> Any:
    return load_workflow(workflow, plugins=[PLUGIN], cache="off").run(**params)


def silence(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def own_sampler(folder: Path, sampler: str) -> Path:
    """The flow workflow with a sampler of this project instead of diffusers'."""
    text = (WORKFLOWS / "diffusers_flow.yaml").read_text(encoding="utf-8")
    start = text.index("  scheduler:")
    text = text[:start] + sampler + text[text.index("  sample:") :]
    for fragment, replacement in (
        ("carry: {x: start, sampler: scheduler.sampler}", "carry: {x: noise, state: scheduler.state}"),
        ("use: diffusers.step", "use: scheduler.step"),
        ("sampler: carry.sampler,", "scheduler: scheduler.scheduler, state: carry.state,"),
        ("sampler: step.sampler}", "state: step.state}"),
    ):
        assert text.count(fragment) == 1
        text = text.replace(fragment, replacement)
    file = folder / "own.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def noise(seed: int, shape: list[int], batch: int = 1) -> torch.Tensor:
    return gaussian(seed=seed, shape=shape, batch=batch)


def test_dit_with_our_ddim_and_guidance_draws_the_pictures_of_its_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = silence(tiny.dit_pipeline())
    path = tiny.save(pipeline, tmp_path / "dit")
    actual = run(WORKFLOWS / "diffusers_dit.yaml", path=path, label=[7, 999], steps=5, batch=2, shape=[4, 8, 8], seed=3)
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda **_: noise(3, [4, 8, 8], 2))
    expected = pipeline(class_labels=[7, 999], guidance_scale=4.0, num_inference_steps=5, output_type="pt").images
    assert expected.std() > 0.05
    torch.testing.assert_close(actual["image"] / 2 + 0.5, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sample_size", [8, 128])
def test_pixart_draws_the_latents_of_its_pipeline(tmp_path: Path, sample_size: int) -> None:
    """The model with sample_size 128 takes the picture's size as an input."""
    pipeline = silence(tiny.pixart_pipeline(sample_size))
    path = tiny.save(pipeline, tmp_path / "pixart")
    prompts = [PROMPT, "an umbrella on grass"]
    actual = run(
        WORKFLOWS / "diffusers_flow.yaml", path=path, prompt=prompts, steps=5, shape=[4, 8, 4], batch=2, scale=4.5
    )
    expected = pipeline(
        prompt=prompts,
        height=64,
        width=32,
        latents=noise(0, [4, 8, 4], 2),
        num_inference_steps=5,
        guidance_scale=4.5,
        clean_caption=False,
        use_resolution_binning=False,
        output_type="latent",
    ).images
    assert_same(actual["latent"], expected)


@pytest.mark.parametrize("dynamic", [False, True])
def test_sd3_draws_the_pictures_of_its_pipeline(tmp_path: Path, dynamic: bool) -> None:
    pipeline = silence(tiny.sd3_pipeline(use_dynamic_shifting=dynamic, max_shift=3.0))
    path = tiny.save(pipeline, tmp_path / "sd3")
    actual = run(WORKFLOWS / "diffusers_flow.yaml", path=path, prompt=PROMPT, steps=5, shape=[4, 8, 8], scale=5.0)
    arguments = {"prompt": PROMPT, "height": 16, "width": 16, "latents": noise(0, [4, 8, 8]), "num_inference_steps": 5}
    expected = pipeline(**arguments, guidance_scale=5.0, output_type="pt").images
    assert expected.std() > 0.05
    torch.testing.assert_close(actual["image"] / 2 + 0.5, expected, atol=1e-4, rtol=0)


def flux_expected(pipeline: Any, steps: int) -> torch.Tensor:
    packed = pipeline._pack_latents(noise(0, [4, 8, 12]), 1, 4, 8, 12)
    arguments = {"prompt": PROMPT, "height": 16, "width": 24, "latents": packed, "num_inference_steps": steps}
    actual = pipeline(**arguments, guidance_scale=3.5, output_type="latent").images
    latent: torch.Tensor = pipeline._unpack_latents(actual, 16, 24, 2)
    return latent


@pytest.mark.parametrize("guided", [True, False])
def test_flux_draws_the_latents_of_its_pipeline(tmp_path: Path, guided: bool) -> None:
    pipeline = silence(tiny.flux_pipeline(guided=guided))
    path = tiny.save(pipeline, tmp_path / "flux")
    actual = run(WORKFLOWS / "diffusers_flow.yaml", path=path, prompt=PROMPT, steps=4, shape=[4, 8, 12], scale=1.0)
    assert_same(actual["latent"], flux_expected(pipeline, 4))


@pytest.mark.parametrize("guided", [True, False])
def test_flux_with_our_ddim_takes_the_euler_steps_of_its_pipeline(tmp_path: Path, guided: bool) -> None:
    pipeline = silence(tiny.flux_pipeline(guided=guided))
    path = tiny.save(pipeline, tmp_path / "flux")
    ddim = "{use: scheduler.ddim, in: {schedule: schedule, steps: params.steps}, with: {spacing: trailing}}"
    file = own_sampler(tmp_path, f"  scheduler: {ddim}\n")
    actual = run(file, path=path, prompt=PROMPT, steps=5, shape=[4, 8, 12], scale=1.0)
    assert_same(actual["latent"], flux_expected(pipeline, 5))


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "EulerDiscreteScheduler"])
def test_stable_diffusion_draws_the_latents_of_its_pipeline(tmp_path: Path, scheduler: str) -> None:
    """Euler with linspace timesteps starts from σ·noise, where ours starts from unit noise."""
    kind = getattr(diffusers, scheduler)
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    pipeline = silence(tiny.sd_pipeline(kind(**options, prediction_type="v_prediction")))
    path = tiny.save(pipeline, tmp_path / "sd")
    actual = run(WORKFLOWS / "diffusers_flow.yaml", path=path, prompt=PROMPT, steps=6, shape=[4, 8, 8], scale=3.0)
    arguments = {"prompt": PROMPT, "height": 16, "width": 16, "latents": noise(0, [4, 8, 8]), "num_inference_steps": 6}
    assert_same(actual["latent"], pipeline(**arguments, guidance_scale=3.0, output_type="latent").images)


def test_sdxl_draws_the_latents_of_its_pipeline(tmp_path: Path) -> None:
    """Its null condition is zeros, and it is told the size that it draws."""
    pipeline = silence(tiny.sdxl_pipeline())
    path = tiny.save(pipeline, tmp_path / "sdxl")
    actual = run(WORKFLOWS / "diffusers_flow.yaml", path=path, prompt=PROMPT, steps=4, shape=[4, 8, 8], scale=3.0)
    arguments = {"prompt": PROMPT, "height": 16, "width": 16, "latents": noise(0, [4, 8, 8]), "num_inference_steps": 4}
    assert_same(actual["latent"], pipeline(**arguments, guidance_scale=3.0, output_type="latent").images)


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.2
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
