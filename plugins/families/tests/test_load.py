"""checkpoint.load of diffusers folders, and of single files with the same weights, against diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import Checkpoint, load_checkpoint
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.models.model_json import MissingPart
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.types import Condition
from plugins.families.tests import difference_bounds, tiny
from plugins.families.tests.diffusers import pipelines
from tests.tolerance import assert_same_up_to_rounding, terms_of

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

PROMPTS = ["a tiger", "b"]


class SavedPipeline:
    """A pipeline of diffusers with its folder and its single file."""

    def __init__(self, family: str, root: Path) -> None:
        self.family, self.root = family, root
        self.pipe = pipelines.pipeline(family, root)
        self.pipe.save_pretrained(root / "folder")
        self.file = pipelines.single_file(self.pipe, family, root / "model.safetensors")

    def load(self, layout: str) -> Checkpoint:
        if layout == "folder":
            return load_checkpoint(path=self.root / "folder")
        prediction = "eps" if self.family == "sd2" else "auto"
        return load_checkpoint(path=self.file, tokenizer=self.root / "eos", prediction=prediction)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=pipelines.FAMILIES)
def tiny_pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SavedPipeline:
    return SavedPipeline(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> SavedPipeline:
    return SavedPipeline("sd1", tmp_path_factory.mktemp("stable"))


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_the_parts_are_those_of_diffusers(tiny_pipeline: SavedPipeline, layout: str) -> None:
    actual, pipe = tiny_pipeline.load(layout), tiny_pipeline.pipe
    torch.manual_seed(0)
    with torch.no_grad():
        embedded = pipe.encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    condition = encode_text(actual.text, PROMPTS)
    assert condition.tokens is not None
    difference_bounds.largest(condition.tokens, embedded[0], 1e-5, "text embeddings")

    x, t = torch.randn(2, 4, 16, 16), torch.tensor([501.0, 3.0])
    arguments: dict[str, Any] = {"encoder_hidden_states": embedded[0]}
    if tiny_pipeline.family == "sdxl":
        numbers = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)  # 16 cells of 2 pixels
        arguments["added_cond_kwargs"] = {"text_embeds": embedded[2], "time_ids": numbers}
    inputs = x
    if tiny_pipeline.family == "inpaint":
        spatial = torch.randn(2, 5, 16, 16)
        condition = Condition(tokens=condition.tokens, spatial=spatial)
        inputs = torch.cat([x, spatial], dim=1)
    with torch.no_grad():
        eps = pipe.unet(inputs, t, **arguments).sample
        picture = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    prediction = predict(actual.denoiser, x, t, condition)
    assert prediction.kind == "eps"
    difference_bounds.largest(prediction.value, eps, 1e-4, "ε")
    difference_bounds.largest(actual.autoencoder.decode(x), picture, 1e-4, "decoded picture")
    expected = pipe.scheduler.alphas_cumprod.double()
    torch.testing.assert_close(actual.schedule.alphas_bar, expected, rtol=1e-4, atol=0)


def test_a_torch_file_gives_the_same_and_weights_are_cast(stable: SavedPipeline, tmp_path: Path) -> None:
    path = pipelines.single_file(stable.pipe, "sd1", tmp_path / "model.ckpt")
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([10.0])
    tokens = Condition(tokens=torch.randn(1, 7, 64))
    actual, other = load_checkpoint(path=path), stable.load("file")
    values = [predict(loaded.denoiser, x, t, tokens).value for loaded in (actual, other)]
    assert_same_up_to_rounding(values[0], values[1], terms_of(stable.pipe.unet))
    with use_device("cpu", "bfloat16"):
        narrow: Any = load_checkpoint(path=path, tokenizer=stable.root / "eos")
    for part in (narrow.denoiser, narrow.autoencoder, narrow.text):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.bfloat16}
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_text_of_a_single_file_without_a_tokenizer_raises_an_error(stable: SavedPipeline) -> None:
    loaded = load_checkpoint(path=stable.file)
    with pytest.raises(MissingPart, match=r"model\.safetensors' holds a text encoder and no vocabulary.*`tokenizer`"):
        encode_text(loaded.text, "a")
    with pytest.raises(ValueError, match="'there' is not a folder"):
        load_checkpoint(path=stable.file, tokenizer=Path("there"))


def test_a_tokenizer_for_a_folder_is_refused(stable: SavedPipeline) -> None:
    with pytest.raises(ValueError, match="holds its tokenizers: leave tokenizer out"):
        load_checkpoint(path=stable.root / "folder", tokenizer=stable.root / "eos")


def test_moving_averages_are_used_if_present(stable: SavedPipeline, tmp_path: Path) -> None:
    path = pipelines.single_file(stable.pipe, "sd1", tmp_path / "model.ckpt")
    content = torch.load(path, weights_only=True)
    tensors = content["state_dict"]
    prefix = "model.diffusion_model."
    for name in [name for name in tensors if name.startswith(prefix)]:
        tensors["model_ema.diffusion_model" + name.removeprefix(prefix).replace(".", "")] = tensors[name] * 0.5
    tensors |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    torch.save(content, path)
    averaged: Any = load_checkpoint(path=path).denoiser
    plain: Any = load_checkpoint(path=path, ema=False).denoiser
    for (name, half), weight in zip(averaged.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(half, weight * 0.5), name
    del tensors["model_ema.diffusion_modelout2bias"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"moving averages do not fit.*diffusion_modelout2bias.*set ema to false"):
        load_checkpoint(path=path)


def test_the_latent_scale_of_the_file_is_used(stable: SavedPipeline, tmp_path: Path) -> None:
    path = pipelines.single_file(stable.pipe, "sd1", tmp_path / "model.ckpt")
    content = torch.load(path, weights_only=True)
    content["state_dict"]["scale_factor"] = torch.tensor(0.5)
    torch.save(content, path)
    actual: Any = load_checkpoint(path=path).autoencoder
    plain: Any = stable.load("file").autoencoder
    assert (actual.scale, plain.scale) == (0.5, 0.18215)
    latent = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(actual.decode(latent), plain.decode(latent * 0.18215 / 0.5))


def test_missing_settings_are_named(tmp_path: Path) -> None:
    tiny_pipeline = SavedPipeline("sd2", tmp_path)
    (tmp_path / "config.yaml").unlink()
    settings: Any = {"head_channels": 64, "scale": 0.18215}
    with pytest.raises(ValueError, match="its tensors do not tell prediction: set"):
        load_checkpoint(path=tiny_pipeline.file, **settings)
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([10.0])
    loaded = load_checkpoint(path=tiny_pipeline.file, prediction="v", **settings)
    assert predict(loaded.denoiser, x, t, Condition(tokens=torch.randn(1, 7, 64))).kind == "v"
    config = tiny_pipeline.root / "folder" / "scheduler" / "scheduler_config.json"
    content = json.loads(config.read_text()) | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config.write_text(json.dumps(content))
    folder = tiny_pipeline.load("folder")
    assert predict(folder.denoiser, x, t, Condition(tokens=torch.randn(1, 7, 64))).kind == "v"
    zero = diffusers.DDIMScheduler.from_config(content).alphas_cumprod.double()
    torch.testing.assert_close(folder.schedule.alphas_bar, zero, rtol=1e-4, atol=1e-7)
    assert folder.schedule.alphas_bar[-1] == 0


def test_fp16_variants_and_shards_are_read(stable: SavedPipeline, tmp_path: Path) -> None:
    stable.pipe.save_pretrained(tmp_path / "half", variant="fp16")
    stable.pipe.save_pretrained(tmp_path / "shards", max_shard_size="300KB")
    stable.pipe.save_pretrained(tmp_path / "bin", safe_serialization=False)
    assert (tmp_path / "half/unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    assert (tmp_path / "shards/unet/diffusion_pytorch_model.safetensors.index.json").is_file()
    assert (tmp_path / "bin/unet/diffusion_pytorch_model.bin").is_file()
    complete: Any = stable.load("folder").denoiser
    for name in ("half", "shards", "bin"):
        actual: Any = load_checkpoint(path=tmp_path / name).denoiser
        assert all(torch.equal(a, b) for a, b in zip(actual.parameters(), complete.parameters(), strict=True))
    shard = next((tmp_path / "shards/unet").glob("*-of-*.safetensors"))
    shard.unlink()
    with pytest.raises(ValueError, match=f"there is no file '.*{shard.name}'"):
        load_checkpoint(path=tmp_path / "shards")


def test_without_ema_a_folder_gives_its_variant_of_that_name_or_an_error(stable: SavedPipeline, tmp_path: Path) -> None:
    stable.pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"unet' holds no weights beside .*non_ema\.safetensors;.*: leave ema out"):
        load_checkpoint(path=tmp_path, ema=False)
    other = tiny.unet("sd1")
    other.conv_out.bias += 1.0
    other.save_pretrained(tmp_path / "unet", variant="non_ema")
    assert (tmp_path / "unet/diffusion_pytorch_model.safetensors").is_file()
    assert (tmp_path / "unet/diffusion_pytorch_model.non_ema.safetensors").is_file()
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([10.0])
    tokens = Condition(tokens=torch.randn(1, 7, 64))
    plain, trained = (load_checkpoint(path=tmp_path, ema=ema).denoiser for ema in (True, False))
    alone = load_checkpoint(path=tmp_path / "unet", ema=False).denoiser
    for actual in (trained, alone):
        difference = predict(actual, x, t, tokens).value - predict(plain, x, t, tokens).value
        torch.testing.assert_close(difference, torch.ones_like(x), rtol=0, atol=1e-5)


def test_networks_alone_load_with_classes_and_as_pipelines_without_text(tmp_path: Path) -> None:
    model = tiny.unet("class")
    model.save_pretrained(tmp_path / "unet")
    loaded = load_checkpoint(path=tmp_path / "unet", noise_schedule="linear")
    x, t, label = torch.randn(2, 3, 16, 16), torch.tensor([7.0]), torch.tensor([4, 1])
    with torch.no_grad():
        expected = model(x, t, class_labels=label).sample
    torch.testing.assert_close(predict(loaded.denoiser, x, t, loaded.label(label)).value, expected, rtol=0, atol=1e-4)
    assert loaded.schedule.train_steps == 1000
    pipelines.vae().save_pretrained(tmp_path / "vae")
    assert load_checkpoint(path=tmp_path / "vae").autoencoder.decode(torch.randn(1, 4, 8, 8)).shape == (1, 3, 16, 16)
    diffusers.DDPMPipeline(tiny.unet("ddpm"), diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    ddpm = load_checkpoint(path=tmp_path / "ddpm")
    with torch.no_grad():
        expected = tiny.unet("ddpm")(x, t).sample
    torch.testing.assert_close(predict(ddpm.denoiser, x, t).value, expected, rtol=0, atol=1e-4)
    with pytest.raises(MissingPart, match="no part 'text'"):
        encode_text(ddpm.text, "a")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("vae", r"the folder 'vae' is missing"),
        ("unet/config.json", r"there is no file '.*unet/config\.json': the folder is incomplete"),
        ("unet/diffusion_pytorch_model.safetensors", r"unet' holds no weights: expected .*; found config\.json"),
        ("text_encoder/model.safetensors", r"text_encoder' holds no weights"),
        ("scheduler/scheduler_config.json", r"'scheduler/scheduler_config\.json' is missing"),
        ("tokenizer", r"the folder 'tokenizer' is missing"),
    ],
)
def test_a_folder_with_a_missing_part_is_one_clear_error(
    stable: SavedPipeline, tmp_path: Path, damage: str, message: str
) -> None:
    stable.pipe.save_pretrained(tmp_path)
    target = tmp_path / damage
    if target.is_dir():
        for entry in target.iterdir():
            entry.unlink()
        target.rmdir()
    else:
        target.unlink()
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path=tmp_path)


def test_unknown_missing_and_misshapen_tensors_of_a_file_are_named(stable: SavedPipeline, tmp_path: Path) -> None:
    path = pipelines.single_file(stable.pipe, "sd1", tmp_path / "model.ckpt")
    content = torch.load(path, weights_only=True)
    complete = content["state_dict"]

    def load(**changed: Any) -> None:
        kept = {name: value for name, value in (complete | changed).items() if value is not None}
        torch.save(kept, path)
        load_checkpoint(path=path, tokenizer=stable.root / "eos")

    unet = "model.diffusion_model."
    with pytest.raises(ValueError, match=r"1 tensors that no known part has: control_model\.x"):
        load(**{"control_model.x": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 left over: surplus\.weight"):
        load(**{f"{unet}surplus.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 missing: output_blocks\.0\.0\.in_layers\.2\.bias"):
        load(**{f"{unet}output_blocks.0.0.in_layers.2.bias": None})
    with pytest.raises(ValueError, match=r"1 of another shape: decoder\.conv_in\.bias \(7,\) for \(64,\)"):
        load(**{"first_stage_model.decoder.conv_in.bias": torch.zeros(7)})
    with pytest.raises(ValueError, match=r"1 left over: .*surplus"):
        load(**{"cond_stage_model.transformer.text_model.surplus": torch.zeros(1)})
    kept = {name: value for name, value in complete.items() if not name.startswith("cond_stage_model.")}
    torch.save(kept | {"cond_stage_model.projector.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="conditioner of an unknown kind"):
        load_checkpoint(path=path)


def test_other_pipelines_are_named(stable: SavedPipeline, tmp_path: Path) -> None:
    stable.pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index |= {
        "transformer": ["diffusers", "AuraFlowTransformer2DModel"],
        "text_encoder": ["transformers", "T5EncoderModel"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"'text_encoder' is a T5EncoderModel.*'transformer' is a AuraFlowTransformer2DModel"
    ):
        load_checkpoint(path=tmp_path)
    with pytest.raises(ValueError, match="leave attention, heads and head_channels out"):
        load_checkpoint(path=stable.root / "folder", heads=4)
