"""The workflows of workflows/checkpoints against diffusers' own pipelines: the same latents after all steps."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.conditioning.mask import load_mask
from guidegraph.nodes.images.image import load_image
from guidegraph.nodes.sampling.noise import gaussian
from guidegraph_families.networks.denoiser import ReleasedDenoiser
from plugins.families.tests import difference_bounds
from plugins.families.tests.diffusers import pipelines
from tests.graph.export.exporting import made
from tests.paths import ROOT
from tests.slow_cases import mark_slow

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

WORKFLOWS = ROOT / "workflows" / "checkpoints"
PROMPT, NEGATIVE, SIDE, SEED = "a tiger on grass", "b", 32, 5
SHAPE = [4, SIDE // 2, SIDE // 2]
TOLERANCE = 1e-3
FEW = 6
"""Steps where the networks or what they are given are the point; other tests hold the sampler over twenty."""
LAYOUTS = ["folder", "file"]
FOLDER_OR_SLOW_FILE = mark_slow(LAYOUTS, ["folder"])
"""Where other tests draw from the file too."""
THEIRS = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"
"""Where diffusers draws by itself, in ways that no argument of a pipeline changes: the noise, and a latent's sample."""


class SavedPipeline:
    """A pipeline of diffusers, its folder and its single file, a picture and a mask."""

    def __init__(self, family: str, root: Path, **scheduling: Any) -> None:
        self.root, self.family = root, family
        self.pipe = pipelines.pipeline(family, root, **scheduling)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.save_pretrained(root / "folder")
        self.file = pipelines.single_file(self.pipe, family, root / "model.safetensors")
        rng = np.random.default_rng(0)
        PIL.Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(root / "picture.png")
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[8:24, 4:20] = 255
        PIL.Image.fromarray(mask).save(root / "mask.png")

    def checkpoint(self, layout: str, prediction: str = "auto") -> dict[str, Any]:
        if layout == "folder":
            return {"checkpoint": str(self.root / "folder")}
        arguments = {"checkpoint": str(self.file), "tokenizer": str(self.root / "eos")}
        return arguments | ({"prediction": prediction} if self.family == "sd2" else {})

    def run(self, name: str, layout: str, prediction: str = "auto", **params: Any) -> Tensor:
        chosen = {"prompt": PROMPT, "negative": NEGATIVE, "seed": SEED, **params}
        outputs = load_workflow(WORKFLOWS / name).run(**self.checkpoint(layout, prediction), **chosen)
        latent: Tensor = outputs["latent"]
        assert outputs["image"].shape == (1, 3, *(2 * side for side in latent.shape[2:]))
        return latent

    def theirs(self, kind: Any = None, **arguments: Any) -> Tensor:
        pipe = self.pipe if kind is None else kind(**self.pipe.components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        chosen = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 7.5, "output_type": "latent"}
        latents: Tensor = pipe(**{**chosen, **arguments}).images
        return latents


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> SavedPipeline:
    return SavedPipeline("sd1", tmp_path_factory.mktemp("stable"))


def check(actual: Tensor, expected: Tensor) -> None:
    """Assert that latents are equal, relative to their size."""
    difference_bounds.relative(actual, expected, TOLERANCE, "latents after all steps")


def noise() -> Tensor:
    return gaussian(seed=SEED, shape=SHAPE)


@pytest.mark.parametrize("layout", FOLDER_OR_SLOW_FILE)
def test_twenty_steps_at_guidance_seven_and_a_half(stable: SavedPipeline, layout: str) -> None:
    expected = stable.theirs(num_inference_steps=20, latents=noise(), height=SIDE, width=SIDE)
    check(stable.run("text_to_image.yaml", layout, steps=20, shape=SHAPE), expected)
    other = stable.run("text_to_image.yaml", layout, steps=20, shape=SHAPE, scale=1.0)
    assert (other - expected).norm() / expected.norm() > 10 * TOLERANCE


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> SavedPipeline:
    return SavedPipeline("sdxl", tmp_path_factory.mktemp("large"))


@pytest.mark.parametrize(
    ("layout", "negative", "height"),
    [
        ("folder", NEGATIVE, SIDE),
        ("file", "", 3 * SIDE // 2),
        *mark_slow([("file", NEGATIVE, 2 * SIDE), ("folder", "", 3 * SIDE)], []),
    ],
)
def test_sdxl_draws_the_same_at_every_size(large: SavedPipeline, layout: str, negative: str, height: int) -> None:
    """It is told the size of the picture that it draws, as by diffusers' pipeline."""
    shape = [4, height // 2, SIDE // 2]
    latents = gaussian(seed=SEED, shape=shape)
    arguments: dict[str, Any] = {"num_inference_steps": FEW, "latents": latents, "height": height, "width": SIDE}
    expected = large.theirs(**arguments, negative_prompt=negative or None)  # an empty one is none: zeros
    check(large.run("text_to_image.yaml", layout, steps=FEW, shape=shape, negative=negative), expected)


def test_sdxl_is_told_another_size_by_its_text_encoder(large: SavedPipeline) -> None:
    sizes: dict[str, Any] = {"original_size": (48, 64), "crops_coords_top_left": (4, 8), "target_size": (24, 16)}
    expected = large.theirs(num_inference_steps=FEW, latents=noise(), height=SIDE, width=SIDE, **sizes)
    sized = "  sized:\n    use: text.picture_size\n    in: {embedder: model.text}\n"
    sized += "    with: {original: [48, 64], crop: [4, 8], target: [24, 16]}\n"
    text = (WORKFLOWS / "text_to_image.yaml").read_text(encoding="utf-8").replace("model.text", "sized.text")
    path = large.root / "sized.yaml"
    path.write_text(text.replace("sized.text", "sized").replace("nodes:\n", f"nodes:\n{sized}", 1), encoding="utf-8")
    check(large.run(str(path), "folder", steps=FEW, shape=SHAPE), expected)


@pytest.mark.slow
def test_the_bundle_of_sdxl_is_told_the_size_that_it_draws(large: SavedPipeline, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    checkpoint = {"checkpoint": str(large.root / "folder")}
    exported = made(WORKFLOWS / "text_to_image.yaml", tmp_path, **checkpoint, steps=2, shape=[4, 16, 24], prompt="a")
    (tmp_path / "engine").mkdir()
    for shape, prompt in (([4, 16, 24], "a"), ([4, 24, 32], "a"), ([4, 16, 24], "a " * 80)):
        latent = exported.run({"noise.shape": shape}, prompt=prompt)["latent"]
        expected = exported.engine(tmp_path / "engine", shape=shape, prompt=prompt)["latent"]
        difference_bounds.relative(torch.as_tensor(latent), torch.as_tensor(expected), 1e-4, "latents of the bundle")


@pytest.mark.parametrize("prompt", ["a b", "(a:1.5) b"])
def test_a_prompt_draws_the_same_beside_a_longer_one(stable: SavedPipeline, prompt: str) -> None:
    """The longer one has two chunks; the shorter one is not filled up with tokens that count."""
    workflow = load_workflow(WORKFLOWS / "text_to_image.yaml")
    settings: dict[str, Any] = {"steps": 3, "shape": SHAPE, "seed": SEED, **stable.checkpoint("folder")}
    alone = workflow.run(prompt=prompt, batch=1, **settings)["latent"]
    beside = workflow.run(prompt=[prompt, "a " * 80], batch=2, **settings)["latent"]
    difference_bounds.relative(beside[:1], alone, 1e-4, "latents beside a longer prompt")


def test_stable_diffusion_2_draws_the_same(tmp_path: Path) -> None:
    tiny_pipeline = SavedPipeline("sd2", tmp_path)
    expected = tiny_pipeline.theirs(num_inference_steps=FEW, latents=noise(), height=SIDE, width=SIDE)
    for layout in LAYOUTS:
        check(tiny_pipeline.run("text_to_image.yaml", layout, "eps", steps=FEW, shape=SHAPE), expected)


def test_v_prediction_with_guidance_rescaled(tmp_path: Path) -> None:
    tiny_pipeline = SavedPipeline("sd2", tmp_path, prediction_type="v_prediction")
    arguments = {"num_inference_steps": FEW, "latents": noise(), "height": SIDE, "width": SIDE}
    expected = tiny_pipeline.theirs(**arguments, guidance_rescale=0.7)
    for layout in LAYOUTS:
        check(tiny_pipeline.run("text_to_image.yaml", layout, "v", steps=FEW, shape=SHAPE, rescale=0.7), expected)


def test_zero_terminal_snr_with_trailing_steps(tmp_path: Path) -> None:
    tiny_pipeline = SavedPipeline(
        "sd2", tmp_path, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    config = json.loads((tmp_path / "folder/scheduler/scheduler_config.json").read_text())
    assert config["rescale_betas_zero_snr"]
    expected = tiny_pipeline.theirs(num_inference_steps=10, latents=noise(), height=SIDE, width=SIDE)
    check(tiny_pipeline.run("text_to_image.yaml", "folder", steps=10, shape=SHAPE), expected)


@pytest.mark.parametrize(
    ("layout", "strength"), mark_slow(product(LAYOUTS, (0.4, 0.75)), [("folder", 0.4), ("file", 0.75)])
)
def test_image_to_image(stable: SavedPipeline, layout: str, strength: float) -> None:
    actual = stable.run(
        "image_to_image.yaml", layout, steps=20, strength=strength, image=str(stable.root / "picture.png"), size=SIDE
    )
    clean = encode(stable, load_image(path=stable.root / "picture.png"))
    with patch(f"{THEIRS}_img2img.randn_tensor", lambda shape, **_: noise().expand(shape)):
        expected = stable.theirs(
            diffusers.StableDiffusionImg2ImgPipeline, image=clean, strength=strength, num_inference_steps=20
        )
    check(actual, expected)


def test_inpainting_by_nine_channels(tmp_path: Path) -> None:
    tiny_pipeline = SavedPipeline("inpaint", tmp_path)
    picture, mask = load_image(path=tmp_path / "picture.png"), load_mask(path=tmp_path / "mask.png")
    files = {"image": str(tmp_path / "picture.png"), "mask": str(tmp_path / "mask.png"), "size": SIDE}
    expected = tiny_pipeline.theirs(
        image=(picture + 1) / 2,
        mask_image=mask,
        masked_image_latents=encode(tiny_pipeline, picture * (1 - mask)),
        latents=noise(),
        height=SIDE,
        width=SIDE,
        num_inference_steps=FEW,
        strength=1.0,
    )
    for layout in LAYOUTS:
        check(tiny_pipeline.run("inpaint.yaml", layout, steps=FEW, **files), expected)


@pytest.mark.parametrize("layout", FOLDER_OR_SLOW_FILE)
def test_inpainting_by_blending(stable: SavedPipeline, layout: str) -> None:
    picture, mask = (stable.root / name for name in ("picture.png", "mask.png"))
    actual = stable.run("inpaint_blend.yaml", layout, steps=20, image=str(picture), mask=str(mask), size=SIDE)
    clean = encode(stable, load_image(path=picture))
    with patch(f"{THEIRS}_inpaint.retrieve_latents", lambda output, **_: output.latent_dist.mean):
        expected = stable.theirs(
            diffusers.StableDiffusionInpaintPipeline,
            image=(load_image(path=picture) + 1) / 2,
            mask_image=load_mask(path=mask),
            latents=noise(),
            height=SIDE,
            width=SIDE,
            num_inference_steps=20,
            strength=1.0,
        )
    check(actual, expected)
    outside = torch.nn.functional.interpolate(load_mask(path=mask), SHAPE[1:]) == 0
    assert torch.equal(actual[outside.expand_as(actual)], clean[outside.expand_as(clean)])


@pytest.mark.parametrize("name", ["text_to_image", "image_to_image", "inpaint", "inpaint_blend"])
def test_the_state_is_float32_where_the_networks_compute_in_bfloat16(
    stable: SavedPipeline, tmp_path: Path, name: str
) -> None:
    tiny_pipeline = SavedPipeline("inpaint", tmp_path) if name == "inpaint" else stable
    params = (
        {"shape": SHAPE} if name == "text_to_image" else {"image": tiny_pipeline.root / "picture.png", "size": SIDE}
    )
    if name.startswith("inpaint"):
        params["mask"] = tiny_pipeline.root / "mask.png"
    states: list[Tensor] = []
    forward = ReleasedDenoiser.forward

    def watch(self: ReleasedDenoiser, x: Tensor, *arguments: Any) -> Any:
        assert self.network.dtype == torch.bfloat16
        states.append(x)
        return forward(self, x, *arguments)

    with patch.object(ReleasedDenoiser, "forward", watch):
        workflow = load_workflow(WORKFLOWS / f"{name}.yaml", dtype="bfloat16", cache="off")
        actual = workflow.run(**tiny_pipeline.checkpoint("folder"), prompt=PROMPT, steps=4, **params)["latent"]
    assert {x.dtype for x in [*states, actual]} == {torch.float32}
    assert len(states) >= 3
    assert all(not torch.equal(x, x.bfloat16().float()) for x in states)  # nor was it ever rounded


def encode(tiny_pipeline: SavedPipeline, image: Tensor) -> Tensor:
    """The latent of a picture, the mean of its distribution, by our autoencoder, which is tested against theirs."""
    return load_checkpoint(path=tiny_pipeline.root / "folder").autoencoder.encode(image)
