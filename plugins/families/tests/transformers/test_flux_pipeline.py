"""Whole pipelines of Flux.1 by the shipped workflow against diffusers, and what is refused."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.sampler_settings import checkpoint_flow_shift
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.sampling.noise import gaussian
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import flux_pipelines
from plugins.families.tests.transformers.test_flux_files import write_file
from tests.commands.command import Command
from tests.graph.export.exporting import made
from tests.paths import ROOT
from tests.slow_cases import mark_slow

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

WORKFLOW = ROOT / "workflows" / "checkpoints" / "flux.yaml"
PROMPTS, STEPS, SEED, GUIDANCE = ["a cab on ice", "b"], 20, 5, 4.5


class Saved:
    """A pipeline of diffusers, its folder, a folder without its transformer, and the transformer as a single file."""

    def __init__(self, family: str, root: Path) -> None:
        self.pipe = flux_pipelines.pipeline(family, root)
        self.folder, self.rest = root / "folder", root / "rest"
        self.pipe.save_pretrained(self.folder)
        shutil.copytree(self.folder, self.rest, ignore=shutil.ignore_patterns("transformer"))
        self.file = write_file(self.pipe.transformer, root / "flux1.safetensors", prefix="")


@pytest.fixture(scope="module", params=["dev", "schnell"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(request.param, tmp_path_factory.mktemp("flux"))


def test_the_texts_are_those_of_diffusers(saved: Saved) -> None:
    text = load_checkpoint(path=saved.folder).text
    length = 512 if saved.pipe.transformer.config.guidance_embeds else 256
    tokens, vector, _ = saved.pipe.encode_prompt(PROMPTS, PROMPTS, max_sequence_length=length)
    condition = encode_text(text, PROMPTS)
    assert condition.mask is None
    assert condition.tokens is not None
    assert condition.vector is not None
    difference_bounds.largest(condition.tokens, tokens, 1e-5, "tokens")
    difference_bounds.largest(condition.vector, vector, 1e-5, "pooled text")


@pytest.mark.parametrize(
    ("saved", "layout"),
    mark_slow(product(("dev", "schnell"), ("folder", "single file")), [("dev", "single file"), ("schnell", "folder")]),
    indirect=["saved"],
)
def test_the_workflow_draws_what_diffusers_draws(layout: str, saved: Saved) -> None:
    noise = gaussian(seed=SEED, shape=list(flux_pipelines.LATENT), batch=2)
    latents, pictures = flux_pipelines.draw(saved.pipe, PROMPTS, noise, STEPS, GUIDANCE)
    files = (
        {"checkpoint": saved.folder} if layout == "folder" else {"checkpoint": saved.rest, "transformer": saved.file}
    )
    outputs: dict[str, Any] = load_workflow(WORKFLOW, cache="off").run(
        **files, prompt=PROMPTS, guidance=GUIDANCE, steps=STEPS, seed=SEED, batch=2, shape=list(flux_pipelines.LATENT)
    )
    difference_bounds.relative(outputs["latent"], latents, 1e-3, f"latents after {STEPS} steps")
    difference_bounds.largest(outputs["image"], pictures.clamp(-1, 1), 1e-4, "pictures")


def test_the_scale_changes_what_dev_draws_and_not_what_schnell_draws(saved: Saved) -> None:
    def draw(guidance: float) -> Any:
        settings = {"prompt": "a", "guidance": guidance, "steps": 2, "shape": [4, 8, 8]}
        return load_workflow(WORKFLOW, cache="off").run(checkpoint=saved.folder, **settings)["latent"]

    same = torch.equal(draw(1.0), draw(8.0))
    assert same is not saved.pipe.transformer.config.guidance_embeds


def test_the_shift_is_that_of_the_folder(saved: Saved) -> None:
    settings = checkpoint_flow_shift(path=saved.folder)
    dynamic = saved.pipe.scheduler.config.use_dynamic_shifting
    assert settings == ((0.5, 1.15, 256, 4096) if dynamic else (0.0, 0.0, 256, 4096))
    assert load_checkpoint(path=saved.folder).schedule.shift == 1.0


def test_a_scheduler_of_another_kind_is_refused(saved: Saved, tmp_path: Path) -> None:
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.parent.mkdir()
    content = json.loads((saved.folder / "scheduler" / "scheduler_config.json").read_text())
    for change, match in (
        ({"_class_name": "DDIMScheduler"}, "is of DDIMScheduler; a flow's is FlowMatchEulerDiscreteScheduler or"),
        ({"use_karras_sigmas": True}, "'use_karras_sigmas' is True, which is not known"),
        ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, "'time_shift_type' is 'linear'"),
    ):
        config.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=match):
            checkpoint_flow_shift(path=tmp_path)


def test_a_folder_without_a_transformer_needs_another(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is FluxPipeline that cannot be loaded: the folder 'transformer' is"):
        load_checkpoint(path=saved.rest)
    alone = saved.folder / "transformer"
    assert load_checkpoint(path=saved.rest, transformer=alone).denoiser.config.heads == 1  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"is not a transformer of Flux\.1: found \d+ tensors"):
        load_checkpoint(path=saved.rest, transformer=saved.folder / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"is not a diffusers folder of a pipeline, .*: leave transformer out"):
        load_checkpoint(path=saved.file, transformer=saved.file)
    with pytest.raises(ValueError, match="has a schedule of β, and a flow has none"):
        load_checkpoint(path=saved.folder, noise_schedule="linear")
    with pytest.raises(ValueError, match="takes its tokens from T5 alone: leave t5 out"):
        load_checkpoint(path=saved.folder, t5=False)
    broken = tmp_path / "broken"
    shutil.copytree(saved.folder, broken, ignore=shutil.ignore_patterns("vae", "tokenizer_2"))
    index = json.loads((broken / "model_index.json").read_text())
    index["text_encoder_2"] = ["transformers", "UMT5EncoderModel"]
    (broken / "model_index.json").write_text(json.dumps(index))
    problems = r"'text_encoder_2' is a UMT5EncoderModel .*; the folder 'tokenizer_2' is missing; the folder 'vae' is"
    with pytest.raises(ValueError, match=problems):
        load_checkpoint(path=broken)


def test_a_command_draws_a_picture(saved: Saved, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    settings = {"checkpoint": saved.rest, "transformer": saved.file, "steps": 2, "shape": "[4, 8, 8]"}
    options = [item for name, value in settings.items() for item in ("--set", f"{name}={value}")]
    done = Command(tmp_path, capsys)("run", str(WORKFLOW), *options, "--out", str(tmp_path))
    assert done.code == 0, done.err
    assert (tmp_path / "image.png").is_file()


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws_at_any_size(saved: Saved, tmp_path: Path) -> None:
    """Also where the levels depend on the size, as those of dev."""
    pytest.importorskip("onnxscript")
    shape = list(flux_pipelines.LATENT)
    exported = made(WORKFLOW, tmp_path, checkpoint=str(saved.folder), steps=2, batch=2, shape=shape, prompt="a cab")
    (tmp_path / "engine").mkdir()
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"prompt": ["Bad", "dad cab"], "guidance": 2.0, "steps": 3}),
        ({"noise.shape": [4, 8, 20]}, {"shape": [4, 8, 20]}),
    ]
    for nodes, params in changes:
        latent = exported.run(nodes, **({} if nodes else params))["latent"]
        expected = exported.engine(tmp_path / "engine", **params)["latent"]
        difference_bounds.relative(torch.as_tensor(latent), torch.as_tensor(expected), 1e-4, "latents of the bundle")
