"""The shipped models do what their condition says, and with another sample's condition they do not."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

from guidegraph.nodes.conditioning.condition import null_condition, spatial_condition
from guidegraph.nodes.conditioning.mask import apply_mask, random_mask
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.images.image import composite, embed_image
from guidegraph.nodes.models.model_nodes import load_model
from guidegraph.nodes.models.store import load_part
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.denoiser import guide_denoiser
from guidegraph.nodes.sampling.noise import gaussian
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.types import Condition, Denoiser, Schedule
from guidegraph_scenes.batches import SceneBatch
from guidegraph_scenes.datasets import scene
from guidegraph_scenes.scene_sprites import OBJECTS
from tests.paths import ROOT

MODELS = ROOT / "workflows" / "models"
BATCH = 4


@pytest.fixture(scope="module")
def shipped() -> Any:
    return load_model(path=MODELS / "scenes")


@pytest.fixture(scope="module")
def scenes() -> SceneBatch:
    """Scenes whose pairs of objects were held out of every training but the judges'."""
    return scene(seed=11, batch=BATCH)


@pytest.fixture(scope="module")
def segmenter() -> Any:
    return load_model(path=MODELS / "segmenter").segmenter


def another(condition: Condition) -> Condition:
    """Each sample with the condition of the one before it."""
    held = {field.name: getattr(condition, field.name) for field in fields(condition)}
    return Condition(**{name: None if value is None else value.roll(1, 0) for name, value in held.items()})


def draw(denoiser: Denoiser, schedule: Schedule, condition: Condition, steps: int) -> torch.Tensor:
    """Latents (B, 4, 16, 16) drawn under a condition."""
    sampler = samplers.ddim(schedule, steps=steps, spacing="trailing")
    x, state = gaussian(shape=[4, 16, 16], batch=BATCH), sampler.state
    with torch.no_grad():
        for t in sampler.steps:
            x, state = step(sampler.scheduler, x, denoiser(x, t.expand(BATCH), condition), state, t[None])
    return x


def psnr(image: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    weight = torch.ones_like(image) if mask is None else mask.expand_as(image)
    error = (((image - reference) / 2).square() * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    return float((-10 * error.log10()).mean())


def overlap(segmenter: Any, image: torch.Tensor, semantic: torch.Tensor) -> float:
    """The share of pixels whose class the segmenter finds."""
    return float((segmenter(image).argmax(1) == semantic.argmax(1)).float().mean())


def test_the_segmenter_finds_the_maps_of_real_scenes(scenes: SceneBatch, segmenter: Any) -> None:
    assert overlap(segmenter, scenes.image, scenes.semantic) > 0.97


def test_semantic_to_image_draws_the_given_map(shipped: Any, scenes: SceneBatch, segmenter: Any) -> None:
    model = load_model(path=MODELS / "semantic")
    condition = spatial_condition([scenes.semantic], size=16)

    def match_rate(condition: Condition) -> float:
        denoiser = guide_denoiser(model.denoiser, condition, null_condition(condition), scale=1.5)
        image = shipped.autoencoder.decode(draw(denoiser, model.schedule, Condition(), steps=8))
        return overlap(segmenter, image.clamp(-1, 1), scenes.semantic)

    assert match_rate(condition) > 0.85
    assert match_rate(another(condition)) < 0.5


def test_inpainting_changes_nothing_outside_and_goes_on_inside(shipped: Any, scenes: SceneBatch) -> None:
    model = load_model(path=MODELS / "inpaint")
    mask = random_mask(scenes.image, kind="boxes", seed=1)
    kept = shipped.autoencoder.encode(apply_mask(scenes.image, mask))
    condition = spatial_condition([kept, mask], mode="area")

    def fill(condition: Condition) -> torch.Tensor:
        drawn = shipped.autoencoder.decode(draw(model.denoiser, model.schedule, condition, steps=8))
        return composite(drawn.clamp(-1, 1), scenes.image, mask)

    image = fill(condition)
    assert ((image - scenes.image).abs() * (1 - mask)).max() <= 1 / 255
    assert psnr(image, scenes.image, mask) > psnr(fill(another(condition)), scenes.image, mask) + 3


def test_variations_have_the_objects_of_their_picture(shipped: Any, scenes: SceneBatch) -> None:
    embedder = load_model(path=MODELS / "variation").image
    detector: Any = load_part(MODELS / "detector", "detector", device=torch.device("cpu"), dtype=torch.float32)
    objects = slice(0, len(OBJECTS))
    expected = scenes.label[:, objects] > 0

    def match_rate(condition: Condition) -> float:
        denoiser = guide_denoiser(shipped.denoiser, condition, encode_text(shipped.text, ""), scale=3.0)
        image = shipped.autoencoder.decode(draw(denoiser, shipped.schedule, Condition(), steps=10))
        seen = detector(image.clamp(-1, 1))[:, objects] > 0
        return float((seen & expected).sum() / expected.sum())

    condition = embed_image(embedder, scenes.image)
    assert match_rate(condition) >= 0.5
    assert match_rate(another(condition)) <= 0.25
