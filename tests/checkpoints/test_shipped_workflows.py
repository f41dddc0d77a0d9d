"""The workflows for released checkpoints, from files on disk, against diffusers' own pipelines where it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.checkpoint import load_checkpoint
from guidegraph.nodes.image import load_image
from guidegraph.nodes.mask import apply_mask, load_mask
from guidegraph.nodes.noise import gaussian
from tests.checkpoints import guided_reference, pipelines

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

WORKFLOWS = Path(__file__).parents[2] / "workflows" / "checkpoints"
PROMPT, SIDE, STEPS, SCALE, SEED = "a tiger b", 32, 6, 7.5, 3
GIVEN = {"prompt": PROMPT, "steps": STEPS, "scale": SCALE, "seed": SEED}
INPAINTING = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint"
VARYING = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    drawn = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    drawn[8:24, 4:20] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def saved(family: str, folder: Path) -> tuple[Any, Path]:
    """A tiny pipeline, silent, and the folder that it wrote."""
    pipe = pipelines.pipeline(family, folder)
    pipe.unet.register_to_config(sample_size=16)  # some pipelines of diffusers read it
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "model")
    return pipe, folder / "model"


def drawn_by(workflow: str, **params: Any) -> Tensor:
    """The latent that a shipped workflow draws."""
    latent: Tensor = load_workflow(WORKFLOWS / f"{workflow}.yaml").run(**params)["latent"]
    return latent


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Within 1e-3 of the norm, and no constant."""
    assert expected.std() > 0.1
    assert torch.dist(found, expected) / expected.norm() < 1e-3


def test_text_to_image_draws_what_the_pipeline_draws(tmp_path: Path) -> None:
    pipe, folder = saved("sd1", tmp_path)
    noise = gaussian(seed=SEED, shape=[4, 16, 16])
    settings = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent"}
    expected = pipe(PROMPT, height=SIDE, width=SIDE, latents=noise.clone(), **settings).images
    assert_same(drawn_by("text_to_image", path=folder, shape=[4, 16, 16], **GIVEN), expected)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_draws_what_the_pipeline_draws(
    tmp_path: Path, picture: Path, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    pipe, folder = saved("sd1", tmp_path)
    noise = gaussian(seed=SEED, shape=[4, 16, 16])
    monkeypatch.setattr(f"{VARYING}.randn_tensor", lambda *_, **__: noise.clone())
    varying = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    varying.set_progress_bar_config(disable=True)
    latent = load_checkpoint(path=folder).autoencoder.encode(load_image(path=picture))
    settings = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent"}
    expected = varying(PROMPT, image=latent, strength=strength, **settings).images
    found = drawn_by("image_to_image", path=folder, image=picture, size=SIDE, strength=strength, **GIVEN)
    assert_same(found, expected)


def test_inpainting_with_nine_channels_draws_what_the_pipeline_draws(tmp_path: Path, picture: Path, mask: Path) -> None:
    pipe, folder = saved("inpaint", tmp_path)
    noise = gaussian(seed=SEED, shape=[4, 16, 16])
    image, hole = load_image(path=picture), load_mask(path=mask)
    kept = load_checkpoint(path=folder).autoencoder.encode(apply_mask(image, hole))
    expected = pipe(
        PROMPT,
        image=image,
        mask_image=hole,
        masked_image_latents=kept,
        height=SIDE,
        width=SIDE,
        latents=noise.clone(),
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        output_type="latent",
    ).images
    found = load_workflow(WORKFLOWS / "inpaint.yaml").run(path=folder, image=picture, mask=mask, size=SIDE, **GIVEN)
    assert_same(found["latent"], expected)
    assert torch.equal(found["image"] * (1 - hole), image * (1 - hole))


def test_inpainting_by_blending_draws_what_the_pipeline_draws(
    tmp_path: Path, picture: Path, mask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    pipe, folder = saved("sd1", tmp_path)
    noise = gaussian(seed=SEED, shape=[4, 16, 16])
    monkeypatch.setattr(f"{INPAINTING}.randn_tensor", lambda *_, **__: noise.clone())
    blending = diffusers.StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    blending.set_progress_bar_config(disable=True)
    image, hole = load_image(path=picture), load_mask(path=mask)
    latent = load_checkpoint(path=folder).autoencoder.encode(image)
    monkeypatch.setattr(blending, "_encode_vae_image", lambda *_, **__: latent.clone())
    expected = blending(
        PROMPT,
        image=image,
        mask_image=hole,
        height=SIDE,
        width=SIDE,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        output_type="latent",
        strength=0.5,
    ).images
    found = drawn_by("inpaint_blend", path=folder, image=picture, mask=mask, size=SIDE, strength=0.5, **GIVEN)
    assert_same(found, expected)


def of_guided_diffusion(workflow: str, folder: Path, **params: Any) -> Tensor:
    """What a shipped workflow draws with tiny networks, whose heads no table knows."""
    text = (WORKFLOWS / f"{workflow}.yaml").read_text(encoding="utf-8")
    told = "with: {attention: new, head_channels: 16, noise_schedule: cosine}"
    text = text.replace("in: {path: params.path}}", f"in: {{path: params.path}}, {told}}}")
    (folder / f"{workflow}.yaml").write_text(text, encoding="utf-8")
    image: Tensor = load_workflow(folder / f"{workflow}.yaml").run(**params)["image"]
    return image


def test_a_class_is_drawn_under_a_classifiers_gradient(tmp_path: Path) -> None:
    flags = guided_reference.small(use_new_attention_order=True, num_head_channels=16, class_cond=True)
    judge_flags = guided_reference.small(num_channels=64, num_head_channels=64)
    torch.save(guided_reference.state(flags, device="cpu"), tmp_path / "model.pt")
    torch.save(guided_reference.state(judge_flags, judge=True, device="cpu", seed=1), tmp_path / "classifier.pt")
    given = {"path": tmp_path / "model.pt", "classifier": tmp_path / "classifier.pt", "shape": [3, 16, 16], "steps": 3}
    drawn = of_guided_diffusion("class_conditional", tmp_path, label=[6, 1], batch=2, scale=300.0, **given)
    other = of_guided_diffusion("class_conditional", tmp_path, label=[6, 1], batch=2, scale=0.0, **given)
    assert drawn.shape == (2, 3, 16, 16)
    assert (drawn - other).abs().max() > 0.01


def test_a_picture_is_enlarged_by_what_is_in_it(tmp_path: Path, picture: Path, mask: Path) -> None:
    flags = guided_reference.small(use_new_attention_order=True, num_head_channels=16, class_cond=True, upsampler=True)
    torch.save(guided_reference.state(flags, device="cpu"), tmp_path / "model.pt")
    given = {"path": tmp_path / "model.pt", "small": 8, "size": 16, "steps": 3, "label": 2, "batch": 2}
    drawn = of_guided_diffusion("upsample", tmp_path, image=picture, **given)
    other = of_guided_diffusion("upsample", tmp_path, image=mask, **given)
    assert drawn.shape == (2, 3, 16, 16)
    assert (drawn - other).abs().max() > 0.01
