"""Whole pipelines of Stable Diffusion 3, as folder and single file: texts, latents of 20 steps, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.sampling.noise import gaussian
from guidegraph_families.networks.joined_text import SD3Text
from guidegraph_families.sd3 import load_sd3
from guidegraph_runtime.errors import BundleError
from plugins.families.tests import difference_bounds, tiny
from plugins.families.tests.transformers import sd3_pipelines, sd3_writer
from tests.commands.command import Command
from tests.graph.export.exporting import made
from tests.paths import ROOT

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPTS = ["a tiger b", "", "cab"]
WORKFLOW = ROOT / "workflows" / "checkpoints" / "sd3.yaml"
LATENT = (16, 16, 24)


class Saved:
    """A tiny pipeline, its folder and its single file with the settings that this needs."""

    def __init__(self, root: Path, family: str = "3.5 medium", **settings: Any) -> None:
        self.pipe = sd3_pipelines.pipeline(family, root, **settings)
        self.folder, self.file = root / "folder", root / "model.safetensors"
        self.pipe.save_pretrained(self.folder)
        sd3_pipelines.write_file(self.pipe, self.file)
        tokenizers = {"tokenizer": root / "eos", "t5_tokenizer": root / "t5"}
        self.file_settings = {**tokenizers, "scale": 1.5305, "shift": 0.0609}

    def load(self, layout: str, **settings: Any) -> Any:
        path, own = (self.folder, {}) if layout == "folder" else (self.file, self.file_settings)
        return load_checkpoint(path=path, **{**own, **settings})

    def texts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Tokens and vector by diffusers' pipeline."""
        tokens, _, vector, _ = self.pipe.encode_prompt(prompts, None, None, do_classifier_free_guidance=False)
        return tokens, vector


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("sd3"))


def check_texts(text: Any, expected: tuple[Tensor, Tensor]) -> None:
    condition = text(PROMPTS)
    assert expected[0].std() > 0.1
    difference_bounds.largest(condition.tokens, expected[0], 1e-5, "text embeddings")
    difference_bounds.largest(condition.vector, expected[1], 1e-5, "pooled texts")
    assert condition.mask.shape == condition.tokens.shape[:2]
    assert condition.mask.all()


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_texts_are_those_of_the_pipeline(saved: Saved, layout: str) -> None:
    text = saved.load(layout).text
    assert isinstance(text, SD3Text)
    check_texts(text, saved.texts(PROMPTS))
    assert text(PROMPTS).tokens.shape == (3, 77 + 256, 200)


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_without_t5_its_tokens_are_zeros(saved: Saved, layout: str) -> None:
    whole = saved.texts(PROMPTS)
    settings = {} if layout == "folder" else {"t5_tokenizer": None}
    with_t5 = saved.pipe.text_encoder_3
    saved.pipe.text_encoder_3 = None
    try:
        expected = saved.texts(PROMPTS)
    finally:
        saved.pipe.text_encoder_3 = with_t5
    check_texts(saved.load(layout, t5=False, **settings).text, expected)
    assert (whole[0][:, 77:] - expected[0][:, 77:]).abs().max() > 0.1
    assert not expected[0][:, 77:].any()


def test_files_without_t5_load_without_it(tmp_path: Path) -> None:
    without = Saved(tmp_path, "3", t5=False)
    expected = without.texts(PROMPTS)
    check_texts(without.load("folder").text, expected)
    check_texts(without.load("file", t5_tokenizer=None, heads=2).text, expected)
    with pytest.raises(ValueError, match=r"model\.safetensors' holds no T5 text encoder: leave t5_tokenizer out"):
        without.load("file", heads=2)


def test_a_projection_of_clip_l_counts_in_a_folder_and_not_in_a_file(tmp_path: Path) -> None:
    """The pooled vector of single files is CLIP-L's before its projection, whatever projection they hold."""
    plain = Saved(tmp_path / "plain", t5=False)
    expected = plain.texts(PROMPTS)
    torch.manual_seed(5)
    projection = torch.randn(64, 64)
    plain.pipe.text_encoder.text_projection.weight.copy_(projection)
    plain.pipe.save_pretrained(tmp_path / "projected")
    check_texts(load_checkpoint(path=tmp_path / "projected").text, plain.texts(PROMPTS))
    name = "text_encoders.clip_l.transformer.text_projection.weight"
    sd3_pipelines.write_file(plain.pipe, plain.file, **{name: projection})
    check_texts(plain.load("file", t5_tokenizer=None).text, expected)


@pytest.mark.parametrize("layout", ["file", pytest.param("folder", marks=pytest.mark.slow)])
def test_twenty_steps_of_the_workflow_are_those_of_the_pipeline(saved: Saved, layout: str) -> None:
    prompts = PROMPTS[:2]
    expected = saved.pipe(
        prompts,
        negative_prompt=["b", "b"],
        height=LATENT[1] * 2,
        width=LATENT[2] * 2,
        num_inference_steps=20,
        guidance_scale=5.0,
        latents=gaussian(seed=3, shape=LATENT, batch=2),
        output_type="latent",
    ).images
    path, tokenizers = (saved.folder, {}) if layout == "folder" else (saved.file, saved.file_settings)
    workflow = load_workflow(WORKFLOW if layout == "folder" else with_latents(saved.file.parent))
    named = {name: tokenizers[name] for name in ("tokenizer", "t5_tokenizer") if name in tokenizers}
    params = {"prompt": prompts, "negative": "b", "scale": 5.0, "steps": 20, "seed": 3, "batch": 2}
    outputs = workflow.run(checkpoint=path, **named, **params, shape=list(LATENT))
    difference_bounds.relative(outputs["latent"], expected, 1e-3, "latents after 20 steps")
    picture = saved.pipe.vae.decode(expected / 1.5305 + 0.0609).sample
    torch.testing.assert_close(outputs["image"], picture.clamp(-1, 1), rtol=0, atol=2e-3)


def test_a_prompt_draws_the_same_beside_a_longer_one(saved: Saved) -> None:
    """The longer one has two chunks of CLIP; a mask leaves out the chunk that fills up the shorter one."""
    workflow = load_workflow(WORKFLOW)
    settings: dict[str, Any] = {"checkpoint": saved.folder, "steps": 3, "shape": [16, 8, 8], "seed": 3, "t5": False}
    alone = workflow.run(prompt="a b", batch=1, **settings)["latent"]
    beside = workflow.run(prompt=["a b", "a " * 80], batch=2, **settings)["latent"]
    difference_bounds.relative(beside[:1], alone, 1e-4, "latents beside a longer prompt")


def test_a_command_draws_a_picture(saved: Saved, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    settings = {"checkpoint": saved.folder, "steps": 2, "shape": "[16, 8, 8]", "t5": "false"}
    options = [item for name, value in settings.items() for item in ("--set", f"{name}={value}")]
    done = Command(tmp_path, capsys)("run", str(WORKFLOW), *options, "--out", str(tmp_path))
    assert done.code == 0, done.err
    assert (tmp_path / "image.png").is_file()


def with_latents(folder: Path) -> Path:
    """The workflow with the scale and the shift of latents, which a file of another size than the releases needs."""
    text = WORKFLOW.read_text(encoding="utf-8")
    path, model = folder / "sd3.yaml", "    use: checkpoint.load\n"
    assert model in text
    path.write_text(text.replace(model, f"{model}    with: {{scale: 1.5305, shift: 0.0609}}\n"), encoding="utf-8")
    return path


def test_the_schedule_has_the_shift_of_the_scheduler(tmp_path: Path) -> None:
    shifted = Saved(tmp_path, t5=False, shift=2.5)
    schedule = shifted.load("folder").schedule
    assert (schedule.form, schedule.shift, schedule.train_steps) == ("flow", 2.5, 1000)
    assert shifted.load("file", t5_tokenizer=None).schedule.shift == 3.0
    with pytest.raises(ValueError, match="has a schedule of β, and a flow has none"):
        shifted.load("folder", noise_schedule="linear")


@pytest.mark.parametrize("setting", ["use_karras_sigmas", "invert_sigmas", "stochastic_sampling"])
def test_a_scheduler_that_spaces_levels_in_another_way_is_refused(setting: str, tmp_path: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**{setting: True})
    saved = Saved(tmp_path, t5=False)
    scheduler.save_pretrained(saved.folder / "scheduler")
    with pytest.raises(ValueError, match=rf"scheduler_config\.json' .*'{setting}' is True, which is not known"):
        saved.load("folder")


def test_what_a_single_file_does_not_tell_is_asked_for(saved: Saved) -> None:
    with pytest.raises(ValueError, match="does not tell the scale and shift of its latents"):
        saved.load("file", scale=None, shift=None)
    with pytest.raises(ValueError, match="does not tell the shift of its latents"):
        saved.load("file", shift=None)
    text = saved.load("file", tokenizer=None, t5_tokenizer=None).text
    with pytest.raises(ValueError, match=r"holds text encoders and no vocabulary.*: set tokenizer and t5_tokenizer of"):
        text(["a"])
    with pytest.raises(ValueError, match=r"set t5_tokenizer of checkpoint\.load"):
        saved.load("file", t5_tokenizer=None).text(["a"])
    with pytest.raises(ValueError, match="has no use for config: leave these out"):
        saved.load("file", config=Path("config.yaml"))


def test_incomplete_and_foreign_parts_are_refused(saved: Saved, tmp_path: Path) -> None:
    clip, t5 = "text_encoders.clip_g.transformer.", "text_encoders.t5xxl.transformer."
    everything = [name for name in sd3_pipelines.tensors_of(saved.pipe) if name.startswith("text_encoders.clip_g.")]
    cases: list[tuple[dict[str, Tensor | None], str]] = [
        (dict.fromkeys(everything), "one of the first two is missing"),
        ({"text_encoders.qwen.weight": torch.ones(1)}, r"other text encoders than .*: qwen\.weight"),
        ({f"{clip}text_model.final_layer_norm.bias": None}, r"1 missing: final_layer_norm\.bias"),
        ({f"{t5}encoder.block.1.gate": torch.ones(1)}, r"1 left over: encoder\.block\.1\.gate"),
        ({"text_encoders.t5xxl.spiece": torch.ones(1)}, r"1 tensors beside those of its text encoder t5xxl: spiece"),
        ({"first_stage_model.decoder.conv_out.bias": None}, r"1 missing: decoder\.conv_out\.bias"),
    ]
    for changes, match in cases:
        path = sd3_pipelines.write_file(saved.pipe, tmp_path / "model.safetensors", **changes)
        with pytest.raises(ValueError, match=match):
            load_checkpoint(path=path, **saved.file_settings)


def test_text_encoders_of_another_model_are_refused(saved: Saved, tmp_path: Path) -> None:
    pipe = sd3_pipelines.pipeline("3", tmp_path, t5=False)
    pipe.text_encoder_2 = tiny.clip(width=128, projection=48, activation="gelu")
    pipe.save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"takes tokens of width 200 and a vector of 96; found .* with 112 in all"):
        load_checkpoint(path=tmp_path / "folder")


@pytest.mark.parametrize("name", sd3_writer.RELEASED)
def test_a_released_file_has_every_key_and_no_other(name: str, tmp_path: Path) -> None:
    """All parts of a release on the meta device, in one file."""
    pipe = released(name, tmp_path)
    tensors = sd3_pipelines.tensors_of(pipe)
    options = LoadOptions(tokenizer=tmp_path / "eos", t5_tokenizer=tmp_path / "t5")
    with use_device("meta", "float32"):
        parts = load_sd3(tensors, Path("a.safetensors"), options)
    text, autoencoder = parts["text"], parts["autoencoder"]
    assert (autoencoder.scale, autoencoder.shift) == (1.5305, 0.0609)
    networks = [pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3, pipe.vae]
    held = [{name.removeprefix("text_model.") for name in model.state_dict()} for model in text.models]
    expected = [{name.removeprefix("text_model.") for name in model.state_dict()} for model in networks[:3]]
    assert held == [expected[0] - {"text_projection.weight"}, *expected[1:]]
    config = parts["denoiser"].config
    assert (config.context_dim, config.vector_dim) == (4096, 2048)
    counted = sum(tensor.numel() for part in (text, autoencoder) for tensor in part.parameters())
    tied = "encoder.embed_tokens.weight"  # T5's shared embedding, which transformers 5.0 ties after the meta device
    released_ones = [p for network in networks for name, p in network.named_parameters() if name != tied]
    assert counted == sum(p.numel() for p in released_ones) - 768**2


def released(name: str, folder: Path) -> Any:
    """A pipeline of a release, on the meta device; its tokenizers are tiny."""
    tiny.write_tokenizer(folder / "eos")
    tiny.write_t5_tokenizer(folder / "t5")
    sizes = {"vocab_size": 49408, "max_position_embeddings": 77}
    clip_l = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    clip_g = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    xxl = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    with torch.device("meta"):
        clips = [
            transformers.CLIPTextModelWithProjection(
                transformers.CLIPTextConfig(**sizes, **own, projection_dim=own["hidden_size"])
            )
            for own in (clip_l, clip_g)
        ]
        config = transformers.T5Config(vocab_size=32128, **xxl, feed_forward_proj="gated-gelu")
        return diffusers.StableDiffusion3Pipeline(
            transformer=diffusers.SD3Transformer2DModel(**{**sd3_writer.RELEASED_SHAPE, **sd3_writer.RELEASED[name]}),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=diffusers.AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=16,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=clips[0],
            text_encoder_2=clips[1],
            tokenizer=None,
            tokenizer_2=None,
            text_encoder_3=transformers.T5EncoderModel(config),
            tokenizer_3=None,
        )


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws_at_any_size_of_the_table(saved: Saved, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    settings: dict[str, Any] = {
        "checkpoint": str(saved.folder),
        "t5": False,
        "steps": 2,
        "batch": 2,
        "shape": [16, 12, 16],
    }
    exported = made(WORKFLOW, tmp_path, **settings, prompt="a cab")
    (tmp_path / "engine").mkdir()
    changes: dict[str, Any] = {"prompt": ["Bad", "dad cab"], "scale": 2.0}
    latents = exported.run(**changes)["latent"], exported.engine(tmp_path / "engine", **changes)["latent"]
    difference_bounds.relative(*(torch.as_tensor(latent) for latent in latents), 1e-4, "latents of the bundle")
    for size in ([16, 20, 14], [16, 24, 24]):
        actual = exported.run({"noise.shape": size})["latent"]
        expected = exported.engine(tmp_path / "engine", shape=size)["latent"]
        assert actual.shape == (2, *size)
        difference_bounds.relative(torch.as_tensor(actual), torch.as_tensor(expected), 1e-4, "latents of another size")
    with pytest.raises(BundleError, match="invalid index"):  # the table has 12 × 12 patches
        exported.run({"noise.shape": [16, 28, 16]})
