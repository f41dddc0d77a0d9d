"""Flow transformers at other tasks than text to picture, by edited workflows, against pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.sampling.noise import gaussian
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import flux_pipelines, sd3_pipelines, z_image_writer
from tests.graph.export.exporting import changed
from tests.paths import ROOT

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Passing `image` as torch tensor:FutureWarning")]

WORKFLOWS = ROOT / "workflows" / "checkpoints"
HEIGHT, WIDTH, STEPS, SEED, SCALE = 32, 48, 10, 3, 5.0
NOISE = "{use: noise.gaussian, in: {seed: params.seed, batch: params.batch, shape: params.shape}}"
FROM_PICTURE = [
    ("params:\n", "params:\n  picture: {type: Image}\n  strength: 0.7\n"),
    (
        f"  noise:     {NOISE}\n",
        "  latent:    {use: autoencoder.encode, in: {autoencoder: model.autoencoder, image: params.picture}}\n"
        "  noise:     {use: noise.gaussian, in: {like: latent, seed: params.seed}}\n"
        "  start:     {use: scheduler.add_noise, in: {scheduler: scheduler.scheduler, x0: latent, noise: noise}}\n",
    ),
    (
        "  levels:    {use:",
        "  levels:    {use: levels.start, in: {levels: all, strength: params.strength}}\n  all: {use:",
    ),
    ("carry: {x: noise,", "carry: {x: start,"),
]
"""What makes a workflow of text to picture one of picture to picture."""


class Family:
    """A tiny pipeline of diffusers, its folder, its workflow, and what both are told beside the prompt."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.settings: dict[str, Any] = {"negative": "b", "scale": SCALE}
        self.theirs: dict[str, Any] = {"negative_prompt": "b", "guidance_scale": SCALE}
        if name == "sd3":
            self.pipe = sd3_pipelines.pipeline("3.5 medium", root)
        elif name == "flux":
            self.pipe = flux_pipelines.pipeline("dev", root)
            self.settings, self.theirs = {"guidance": 4.5}, {"guidance_scale": 4.5}
        else:
            self.pipe = z_image_writer.pipeline(root)
            self.theirs["guidance_scale"] = SCALE - 1
        self.folder, self.workflow = root / "folder", WORKFLOWS / f"{name}.yaml"
        self.channels = self.pipe.vae.config.latent_channels
        self.pipe.save_pretrained(self.folder)

    def other_pipeline(self, task: str) -> Any:
        """The pipeline of diffusers for a task, of the same parts."""
        family = {"sd3": "StableDiffusion3", "flux": "Flux", "z_image": "ZImage"}[self.name]
        pipe = getattr(diffusers, f"{family}{task}Pipeline")(**self.pipe.components)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def unpack(self, latents: Tensor) -> Tensor:
        return self.pipe._unpack_latents(latents, HEIGHT, WIDTH, 2) if self.name == "flux" else latents  # type: ignore[no-any-return]

    def run(self, workflow: Path, **settings: Any) -> Tensor:
        outputs = load_workflow(workflow, cache="off", plugins=["guidegraph_slg"]).run(
            checkpoint=self.folder, steps=STEPS, seed=SEED, **{**self.settings, **settings}
        )
        latent: Tensor = outputs["latent"]
        return latent


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    return {name: Family(name, tmp_path_factory.mktemp(name)) for name in ("sd3", "flux", "z_image")}


def picture() -> Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1


@contextmanager
def known_noise(pipe: Any, channels: int) -> Iterator[None]:
    """The noise of the seed in a pipeline of diffusers, and the mean of the encoder's distribution."""
    noise = gaussian(seed=SEED, shape=[channels, HEIGHT // 2, WIDTH // 2])
    module = type(pipe).__module__
    with ExitStack() as stack:
        stack.enter_context(patch(f"{module}.randn_tensor", lambda *_, **__: noise))
        stack.enter_context(patch(f"{module}.retrieve_latents", lambda encoded, **_: encoded.latent_dist.mode()))
        yield


@pytest.mark.parametrize("strength", [0.7, 0.3])
@pytest.mark.parametrize("name", ["sd3", "flux", "z_image"])
def test_a_start_from_a_picture_is_that_of_diffusers(
    name: str, strength: float, families: dict[str, Family], tmp_path: Path
) -> None:
    family = families[name]
    pipe = family.other_pipeline("Img2Img")
    size = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": STEPS, "output_type": "latent"}
    with known_noise(pipe, family.channels):
        latents = pipe("a cab", image=picture(), strength=strength, **size, **family.theirs).images
    workflow = changed(family.workflow, edits_of(family.workflow), tmp_path)
    actual = family.run(workflow, prompt="a cab", picture=picture(), strength=strength)
    difference_bounds.relative(actual, family.unpack(latents), 1e-3, "latents from a picture")


def edits_of(workflow: Path) -> list[tuple[str, str]]:
    """`FROM_PICTURE`, with the spaces of a workflow."""
    text = workflow.read_text(encoding="utf-8")
    return [(old if old in text else old.replace("noise:     ", "noise:    "), new) for old, new in FROM_PICTURE]


def test_a_filled_mask_is_that_of_diffusers(families: dict[str, Family], tmp_path: Path) -> None:
    family = families["sd3"]
    pipe = family.other_pipeline("Inpaint")
    mask = torch.zeros(1, 1, HEIGHT, WIDTH)
    mask[..., 8:24, 16:40] = 1
    size = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": STEPS, "output_type": "latent"}
    with known_noise(pipe, family.channels):
        expected = pipe("a cab", image=picture(), mask_image=mask, strength=0.7, **size, **family.theirs).images
    blend = (
        "      known:\n        use: scheduler.add_noise\n"
        "        in: {scheduler: scheduler.scheduler, x0: latent, noise: noise, state: step.state}\n"
        "      blended: {use: mask.blend, in: {inside: step.x, outside: known, mask: cells}}\n"
        "    next: {x: blended,"
    )
    changes = [
        *edits_of(family.workflow),
        ("params:\n  picture", "params:\n  mask: {type: Mask}\n  picture"),
        ("  start: ", "  cells:     {use: mask.fit, in: {mask: params.mask, like: latent}}\n  start: "),
        ("    next: {x: step.x,", blend),
    ]
    workflow = changed(family.workflow, changes, tmp_path)
    actual = family.run(workflow, prompt="a cab", picture=picture(), mask=mask)
    difference_bounds.relative(actual, expected, 1e-3, "latents inside a mask")


def test_guidance_on_top_of_a_distilled_scale_is_the_true_one_of_diffusers(
    families: dict[str, Family], tmp_path: Path
) -> None:
    family = families["flux"]
    shape = [family.channels, HEIGHT // 2, WIDTH // 2]
    noise = gaussian(seed=SEED, shape=shape, batch=2)
    packed = family.pipe._pack_latents(noise, *noise.shape)
    latents = family.pipe(
        ["a cab", "b"],
        negative_prompt=["b a", "cab"],
        true_cfg_scale=3.0,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        latents=packed,
        output_type="latent",
        **family.theirs,
    ).images
    call = "denoiser: model.denoiser, x: carry.x, t: loop.t, condition: negative, scale: params.guidance"
    changes = [
        (
            "  noise:    {",
            "  negative: {use: text.encode, in: {embedder: model.text}, with: {prompt: [b a, cab]}}\n  noise:    {",
        ),
        ("      prediction:\n", f"      uncond: {{use: denoiser.predict_distilled, in: {{{call}}}}}\n      cond:\n"),
        (
            "      fresh:",
            "      prediction: {use: guidance.cfg, in: {cond: cond, uncond: uncond}, with: {scale: 3}}\n      fresh:",
        ),
    ]
    workflow = changed(family.workflow, changes, tmp_path)
    actual = family.run(workflow, prompt=["a cab", "b"], batch=2, shape=shape)
    difference_bounds.relative(actual, family.unpack(latents), 1e-3, "latents with a negative prompt")


def test_skipped_layers_are_those_of_the_pipeline(families: dict[str, Family], tmp_path: Path) -> None:
    """The plugin `slg` in the workflow of Stable Diffusion 3.5."""
    family = families["sd3"]
    shape = [family.channels, HEIGHT // 2, WIDTH // 2]

    def draw(**skipping: Any) -> Tensor:
        latents: Tensor = family.pipe(
            ["a tiger", "cab"],
            negative_prompt=["b", "b"],
            guidance_scale=SCALE,
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=STEPS,
            latents=gaussian(seed=SEED, shape=shape, batch=2),
            output_type="latent",
            **skipping,
        ).images
        return latents

    expected = draw(skip_guidance_layers=[1], skip_layer_guidance_scale=2.8, skip_layer_guidance_stop=0.5)
    changes = [
        (
            "  sample:\n",
            "  worse: {use: slg.skip, in: {denoiser: model.denoiser}, with: {sites: skip.block.1}}\n  sample:\n",
        ),
        (
            "      guided: {",
            "      window: {use: slg.window, in: {index: loop.index, steps: params.steps}, with: {stop: 0.5}}\n"
            "      skipped:\n        use: denoiser.predict\n"
            "        in: {denoiser: worse, x: carry.x, t: loop.t, condition: positive}\n"
            "      guided: {use: slg.guide, in: {guided: cfg, cond: cond, skipped: skipped, scale: window}}\n"
            "      cfg: {",
        ),
    ]
    workflow = changed(family.workflow, changes, tmp_path)
    actual = family.run(workflow, prompt=["a tiger", "cab"], batch=2, shape=shape)
    difference_bounds.relative(actual, expected, 1e-3, "latents with skipped layers")
    assert (draw() - expected).norm() > 0.05 * expected.norm()
