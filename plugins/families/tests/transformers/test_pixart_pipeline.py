"""Whole PixArt-Σ pipelines: texts, the shipped workflow against diffusers' pipeline, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.sampling.noise import gaussian
from plugins.families.tests import difference_bounds, tiny
from plugins.families.tests.diffusers import pipelines
from plugins.families.tests.transformers import pixart_writer
from tests.graph.export.exporting import made
from tests.paths import ROOT

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

WORKFLOW = ROOT / "workflows" / "checkpoints" / "pixart.yaml"
PROMPTS = ["Cab dab", "b"]
STEPS, SEED, SHAPE = 20, 5, [4, 16, 24]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny pipeline and its folder."""
    import transformers

    folder = tmp_path_factory.mktemp("pixart")
    tiny.write_t5_tokenizer(folder / "words")
    pipe = diffusers.PixArtSigmaPipeline(
        tokenizer=transformers.T5TokenizerFast.from_pretrained(str(folder / "words")),
        text_encoder=tiny.t5(width=24),
        vae=pipelines.vae(0.13025),
        transformer=pixart_writer.network(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "model")
    return pipe, folder / "model"


def test_texts_are_those_of_diffusers(pipeline: tuple[Any, Path]) -> None:
    pipe, folder = pipeline
    with torch.no_grad():
        tokens, mask, _, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False, clean_caption=False)
    condition = encode_text(load_checkpoint(path=folder).text, PROMPTS)
    assert condition.tokens is not None
    assert condition.mask is not None
    assert condition.tokens.shape == (2, 300, 24)
    assert torch.equal(condition.mask, mask.bool())
    difference_bounds.largest(condition.tokens[condition.mask], tokens[mask.bool()], 1e-5, "text embeddings")


def test_twenty_steps_of_the_workflow_are_those_of_the_pipeline(pipeline: tuple[Any, Path]) -> None:
    pipe, folder = pipeline
    expected = pipe(
        PROMPTS,
        height=2 * SHAPE[1],
        width=2 * SHAPE[2],
        num_inference_steps=STEPS,
        latents=gaussian(seed=SEED, shape=SHAPE, batch=2),
        output_type="latent",
        clean_caption=False,
        use_resolution_binning=False,
    ).images
    run = load_workflow(WORKFLOW).run(checkpoint=folder, prompt=PROMPTS, steps=STEPS, seed=SEED, batch=2, shape=SHAPE)
    difference_bounds.relative(run["latent"], expected, 1e-3, "latents after all steps")
    picture = pipe.vae.decode(expected / 0.13025).sample
    difference_bounds.largest(run["image"], picture.clamp(-1, 1), 1e-3, "pictures")


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(pipeline: tuple[Any, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    params = {"checkpoint": str(pipeline[1]), "steps": 2, "batch": 2, "shape": SHAPE, "prompt": "a cab"}
    exported = made(WORKFLOW, tmp_path, **params)
    (tmp_path / "engine").mkdir()
    for changes in ({}, {"prompt": ["Bad", "dad cab"], "scale": 2.0, "steps": 3}):
        latents = exported.run(**changes)["latent"], exported.engine(tmp_path / "engine", **changes)["latent"]
        difference_bounds.relative(*(torch.as_tensor(latent) for latent in latents), 1e-4, "latents of the bundle")


def test_prompts_of_pixart_alpha_are_shorter(pipeline: tuple[Any, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline[1], tmp_path / "model")
    change_index(folder, _class_name="PixArtAlphaPipeline")
    condition = encode_text(load_checkpoint(path=folder).text, "a")
    assert condition.tokens is not None
    assert condition.tokens.shape == (1, 120, 24)


def test_parts_that_do_not_belong_together_are_refused(pipeline: tuple[Any, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline[1], tmp_path / "model")
    tiny.t5(width=32).save_pretrained(folder / "text_encoder")
    with pytest.raises(ValueError, match="takes tokens of width 24, and 'text_encoder' has 32: it belongs to another"):
        load_checkpoint(path=folder)
    change_index(folder, text_encoder=["transformers", "CLIPTextModel"])
    with pytest.raises(ValueError, match=r"'text_encoder' is a CLIPTextModel \(supported are T5EncoderModel\)"):
        load_checkpoint(path=folder)
    with pytest.raises(ValueError, match="takes its tokens from T5 alone: leave t5 out"):
        load_checkpoint(path=pipeline[1], t5=False)


def change_index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
