"""Z-Image against diffusers: the transformer in both layouts, texts, whole pipelines, LoRAs, and what is refused."""

from __future__ import annotations

import copy
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph import Condition, load_workflow, predict
from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.sampling.noise import gaussian
from guidegraph.nodes.training.lora import apply_lora, merge_lora, save_lora
from guidegraph_families.z_image.folder import read_z_image_config, z_image_tensors
from guidegraph_families.z_image.single_file import build_z_image, is_z_image, load_z_image
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import flux_pipelines, z_image_writer
from plugins.families.tests.transformers.lora_factors import adapt_by_diffusers, randomise_lora
from tests.graph.export.exporting import made
from tests.paths import ROOT
from tests.slow_cases import mark_slow

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

WORKFLOW = ROOT / "workflows" / "checkpoints" / "z_image.yaml"
PREFIX = "model.diffusion_model."
PROMPTS, NEGATIVE, STEPS, SEED = ["a tiger on ice", "bus"], "dull", 20, 5
LENGTHS = [(7, 7), (7, 40), (32, 33)]
"""Tokens of two samples: equal, filled up to other multiples of 32, and at the edge of one."""


def inputs(lengths: tuple[int, int], height: int = 16, width: int = 16) -> tuple[Tensor, Tensor, list[Tensor]]:
    """x, t and the tokens of each sample."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 4, height, width, generator=generator)
    return x, torch.tensor([3.0, 700.0]), [torch.randn(count, 32, generator=generator) for count in lengths]


def expect(model: Any, x: Tensor, t: Tensor, tokens: list[Tensor]) -> Tensor:
    """u as the pipeline of diffusers makes it of its network's output."""
    return -torch.stack(model([row[:, None] for row in x], (1000 - t) / 1000, tokens).sample)[:, :, 0]


def condition_of(tokens: list[Tensor]) -> Condition:
    """The tokens of samples, padded with noise that the mask leaves out."""
    longest = max(map(len, tokens))
    padded = torch.randn(len(tokens), longest, tokens[0].shape[1])
    mask = torch.arange(longest)[None] < torch.tensor([[len(row)] for row in tokens])
    for padded_row, row in zip(padded, tokens, strict=True):
        padded_row[: len(row)] = row
    return Condition(tokens=padded, mask=mask)


def check(loaded: Any, model: Any) -> None:
    for lengths in LENGTHS:
        for size in ((16, 16), (8, 20)):
            x, t, tokens = inputs(lengths, *size)
            expected = expect(model, x, t, tokens)
            assert expected.std() > 0.1
            prediction = predict(loaded.denoiser, x, t, condition_of(tokens))
            assert prediction.kind == "flow"
            difference_bounds.largest(prediction.value, expected, 1e-4, "u")


def write_file(model: Any, path: Path, prefix: str = PREFIX, **changes: Tensor | None) -> Path:
    """Write a single file; changes: tensors by their full names."""
    tensors = {prefix + name: tensor for name, tensor in z_image_writer.single_file(model).items()}
    kept = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
    save_file({name: tensor.clone().contiguous() for name, tensor in kept.items()}, path)
    return path


def test_a_folder_gives_the_output_of_diffusers(tmp_path: Path) -> None:
    model = z_image_writer.network()
    model.save_pretrained(tmp_path)
    check(load_checkpoint(path=tmp_path), model)


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_single_file_gives_the_output_of_diffusers(prefix: str, tmp_path: Path) -> None:
    model = z_image_writer.network(**z_image_writer.RELEASED_HEADS)
    unused = {f"{prefix}norm_final.weight": torch.ones(256)}
    loaded = load_checkpoint(path=write_file(model, tmp_path / "model.safetensors", prefix, **unused))
    check(loaded, model)
    assert loaded.schedule.shift == 3.0


def test_without_a_mask_all_tokens_count(tmp_path: Path) -> None:
    model = z_image_writer.network()
    model.save_pretrained(tmp_path)
    denoiser = load_checkpoint(path=tmp_path).denoiser
    for count in (7, 32):
        x, t, tokens = inputs((count, count))
        actual = predict(denoiser, x, t, Condition(tokens=torch.stack(tokens))).value
        torch.testing.assert_close(actual, expect(model, x, t, tokens), rtol=0, atol=1e-4)


def test_the_released_transformer_has_every_key_and_no_other() -> None:
    import diffusers
    from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers

    with torch.device("meta"):
        model = diffusers.ZImageTransformer2DModel()
    tensors = z_image_writer.single_file(model)
    assert is_z_image(tensors)
    with use_device("meta", "float32"):
        file = load_z_image(tensors, Path("a.safetensors"), LoadOptions())
        config = read_z_image_config({**model.config, "_class_name": "ZImageTransformer2DModel"}, Path("a"), "flow")
        folder = build_z_image(config, z_image_tensors(model.state_dict(), config), "folder")
    held = file["denoiser"].network.state_dict()
    assert held.keys() == folder["denoiser"].network.state_dict().keys() == tensors.keys()
    count = sum(tensor.numel() for tensor in held.values())
    assert count == sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e9, 2) == 6.15
    assert file["denoiser"].config == config
    converted = convert_z_image_transformer_checkpoint_to_diffusers(dict(tensors))
    assert {key: tensor.shape for key, tensor in converted.items()} == {
        key: tensor.shape for key, tensor in model.state_dict().items()
    }


class Saved:
    """A pipeline of diffusers, its folder, a folder without its transformer, and the transformer as a single file."""

    def __init__(self, root: Path) -> None:
        self.pipe = z_image_writer.pipeline(root)
        self.folder, self.rest = root / "folder", root / "rest"
        self.pipe.save_pretrained(self.folder)
        shutil.copytree(self.folder, self.rest, ignore=shutil.ignore_patterns("transformer"))
        self.file = write_file(self.pipe.transformer, root / "z_image.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("z_image"))


def test_the_texts_are_those_of_diffusers(saved: Saved) -> None:
    prompts = [*PROMPTS, "", "a us\nbus  <b>", f"a {saved.pipe.tokenizer.pad_token} b"]
    expected, _ = saved.pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
    condition = encode_text(load_checkpoint(path=saved.folder).text, prompts)
    assert condition.tokens is not None
    assert condition.mask is not None
    assert condition.mask.sum(1).tolist() == [len(row) for row in expected]
    for actual, mask, row in zip(condition.tokens, condition.mask, expected, strict=True):
        difference_bounds.largest(actual[mask], row, 1e-5, "tokens")


@pytest.mark.parametrize(
    ("layout", "guidance"),
    mark_slow(product(("folder", "single file"), (0.0, 2.0)), [("folder", 2.0), ("single file", 0.0)]),
)
def test_the_workflow_draws_what_diffusers_draws(layout: str, guidance: float, saved: Saved) -> None:
    """diffusers adds its scale times the difference to the conditional prediction: it is ours minus 1."""
    noise = gaussian(seed=SEED, shape=list(flux_pipelines.LATENT), batch=2)
    common = {"height": 2 * noise.shape[2], "width": 2 * noise.shape[3], "num_inference_steps": STEPS}
    negative = {"negative_prompt": [NEGATIVE] * 2, "guidance_scale": guidance}
    latents = saved.pipe(list(PROMPTS), **common, **negative, latents=noise, output_type="latent").images
    vae = saved.pipe.vae
    pictures = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    files = (
        {"checkpoint": saved.folder} if layout == "folder" else {"checkpoint": saved.rest, "transformer": saved.file}
    )
    settings = {"prompt": PROMPTS, "negative": NEGATIVE, "scale": guidance + 1, "steps": STEPS, "seed": SEED}
    outputs: dict[str, Any] = load_workflow(WORKFLOW, cache="off").run(
        **files, **settings, batch=2, shape=list(flux_pipelines.LATENT)
    )
    difference_bounds.relative(outputs["latent"], latents, 1e-3, f"latents after {STEPS} steps")
    difference_bounds.largest(outputs["image"], pictures.clamp(-1, 1), 1e-4, "pictures")


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws_at_any_size(saved: Saved, tmp_path: Path) -> None:
    """With texts of other lengths too, which are filled up to other multiples of 32."""
    pytest.importorskip("onnxscript")
    shape = list(flux_pipelines.LATENT)
    settings: dict[str, Any] = {"checkpoint": str(saved.folder), "steps": 2, "batch": 2, "shape": shape, "scale": 3.0}
    exported = made(WORKFLOW, tmp_path, **settings, prompt="a cab")
    (tmp_path / "engine").mkdir()
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"prompt": PROMPTS, "negative": NEGATIVE, "scale": 2.0, "steps": 3}),
        ({}, {"prompt": [20 * "a cab ", "b"]}),
        ({"noise.shape": [4, 8, 20]}, {"shape": [4, 8, 20]}),
    ]
    for nodes, params in changes:
        latent = exported.run(nodes, **({} if nodes else params))["latent"]
        expected = exported.engine(tmp_path / "engine", **params)["latent"]
        difference_bounds.relative(torch.as_tensor(latent), torch.as_tensor(expected), 1e-4, "latents of the bundle")


@pytest.mark.parametrize("prefix", ["transformer.", "diffusion_model."])
def test_a_lora_of_diffusers_computes_what_diffusers_does(prefix: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(7)
    model = z_image_writer.network()
    model.save_pretrained(tmp_path)
    adapted = copy.deepcopy(model)
    targets = [
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "w1",
        "w2",
        "w3",
        "layers.1.adaLN_modulation.0",
        "all_x_embedder.2-1",
    ]
    adapted.add_adapter(peft.LoraConfig(r=3, lora_alpha=3, target_modules=targets, init_lora_weights=False))
    tensors = {f"{prefix}{name}": tensor for name, tensor in peft.get_peft_model_state_dict(adapted).items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "lora.safetensors")
    x, t, tokens = inputs((7, 40))
    denoiser = load_checkpoint(path=tmp_path).denoiser
    actual = predict(apply_lora(denoiser, path=tmp_path / "lora.safetensors").denoiser, x, t, condition_of(tokens))
    expected = expect(adapted, x, t, tokens).detach()
    assert (expected - expect(model, x, t, tokens)).abs().max() > 0.05
    difference_bounds.largest(actual.value, expected, 1e-4, "u with a LoRA")


def test_diffusers_reads_a_lora_that_was_trained_here(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    torch.manual_seed(7)
    model = z_image_writer.network()
    model.save_pretrained(tmp_path)
    denoiser = load_checkpoint(path=tmp_path).denoiser
    trained = randomise_lora(denoiser)
    path = Path(save_lora(trained, path=tmp_path / "lora.safetensors", layout="peft"))
    x, t, tokens = inputs((7, 40))
    plain, expected, own = (
        predict(one, x, t, condition_of(tokens)).value
        for one in (denoiser, merge_lora(trained), apply_lora(denoiser, path=path).denoiser)
    )
    assert (expected - plain).abs().max() > 0.05
    difference_bounds.largest(own, expected, 1e-4, "u with our LoRA")
    adapted = adapt_by_diffusers(model, diffusers.ZImagePipeline, path)
    difference_bounds.largest(expect(adapted, x, t, tokens).detach(), expected, 1e-4, "u of diffusers with our LoRA")


def test_incomplete_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model = z_image_writer.network(**z_image_writer.RELEASED_HEADS)
    for changes, match in (
        ({f"{PREFIX}layers.1.attention.out.weight": None}, r"1 missing: layers\.1\.attention\.out\.weight"),
        ({f"{PREFIX}siglip_embedder.1.bias": torch.ones(1)}, r"1 left over: siglip_embedder\.1\.bias"),
        ({f"{PREFIX}x_embedder.weight": None}, r"holds no x_embedder\.weight: it is incomplete"),
        ({"control.proj": torch.ones(1)}, r"holds 1 tensors that no known part has: control\.proj"),
    ):
        path = write_file(model, tmp_path / "model.safetensors", **changes)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=match):
            load_checkpoint(path=path)
    path = write_file(z_image_writer.network(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"heads of width 16, which was not released.* give it as a diffusers folder"):
        load_checkpoint(path=path)
    path = write_file(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="which has no β: leave noise_schedule out"):
        load_checkpoint(path=path, noise_schedule="linear")
    with pytest.raises(ValueError, match="whose norms tell its heads"):
        load_checkpoint(path=path, heads=2)


def test_a_config_of_another_network_is_refused() -> None:
    config = {"_class_name": "ZImageTransformer2DModel", **z_image_writer.SHAPE}
    path = Path("config.json")
    assert read_z_image_config(config, path, "flow").hidden == 256
    for change, match in (
        ({"n_kv_heads": 2}, "'n_kv_heads' is not 'n_heads', 6"),
        ({"axes_dims": [4, 6]}, r"describes no Z-Image that can be built: .* found \(4, 6\) for a width of 96"),
        ({"axes_dims": "all"}, "'axes_dims' is 'all'; expected a list of whole numbers above 0"),
        ({"siglip_feat_dim": 1152}, "'siglip_feat_dim' is 1152, and only None is supported"),
        ({"all_patch_size": [2, 4]}, r"'all_patch_size' is \[2, 4\], and only"),
    ):
        with pytest.raises(ValueError, match=match):
            read_z_image_config({**config, **change}, path, "flow")
