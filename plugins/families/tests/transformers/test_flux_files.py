"""Flux.1's transformer in both layouts: outputs, released sizes, guidance, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph import Condition, predict
from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.sampling.denoiser import predict_distilled, set_distilled_guidance
from guidegraph_families.flux.folder import flux_tensors, read_flux_config
from guidegraph_families.flux.single_file import build_flux, is_flux, load_flux
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import flux_writer

pytest.importorskip("diffusers")

PREFIX = "model.diffusion_model."
BILLIONS = {"FLUX.1-dev": 11.90, "FLUX.1-schnell": 11.89, "FLUX.1-Depth-dev": 11.90, "FLUX.1-Fill-dev": 11.90}
SCALES = torch.tensor([2.0, 5.5])


def inputs(height: int = 16, width: int = 16, channels: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, t, tokens and a vector."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, channels, height, width, generator=generator)
    tokens = torch.randn(2, 7, 24, generator=generator)
    return x, torch.tensor([3.0, 700.0]), tokens, torch.randn(2, 20, generator=generator)


def expect(model: Any, x: Tensor, t: Tensor, tokens: Tensor, vector: Tensor, guidance: Tensor = SCALES) -> Tensor:
    """The output of diffusers, packed and unpacked by its pipeline. x: with the channels of a spatial condition."""
    from diffusers import FluxPipeline

    batch, channels, height, width = x.shape
    packed = model(
        hidden_states=FluxPipeline._pack_latents(x, batch, channels, height, width),
        timestep=t / 1000,
        guidance=guidance if model.config.guidance_embeds else None,
        encoder_hidden_states=tokens,
        pooled_projections=vector,
        txt_ids=torch.zeros(tokens.shape[1], 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32),
    ).sample
    return FluxPipeline._unpack_latents(packed, height, width, 1)


def check(loaded: Any, model: Any, *size: int) -> None:
    x, t, tokens, vector = inputs(*size, channels=model.config.in_channels // 4)
    expected = expect(model, x, t, tokens, vector)
    assert expected.std() > 0.1
    spatial = x[:, 4:] if x.shape[1] > 4 else None
    denoiser = set_distilled_guidance(loaded.denoiser, scale=SCALES)
    prediction = predict(denoiser, x[:, :4], t, Condition(tokens=tokens, vector=vector, spatial=spatial))
    assert prediction.kind == "flow"
    difference_bounds.largest(prediction.value, expected, 1e-4, "u")


def write_file(model: Any, path: Path, prefix: str = PREFIX, **changes: Tensor | None) -> Path:
    """Write a single file; changes: tensors by their full names."""
    tensors = {prefix + name: tensor for name, tensor in flux_writer.single_file(model).items()}
    kept = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
    save_file({name: tensor.clone().contiguous() for name, tensor in kept.items()}, path)
    return path


@pytest.mark.parametrize("family", flux_writer.TINY)
def test_both_layouts_give_the_output_of_diffusers(family: str, tmp_path: Path) -> None:
    model = flux_writer.network(family)
    model.save_pretrained(tmp_path / "folder")
    alone = write_file(model, tmp_path / "alone.safetensors", prefix="")
    path = write_file(model, tmp_path / "file.safetensors", **{"vae.decoder.x": torch.zeros(1)})
    for loaded in (load_checkpoint(path=source) for source in (tmp_path / "folder", alone, path)):
        for size in ((16, 16), (8, 20)):
            check(loaded, model, *size)


def test_heads_of_another_width_come_from_a_folder(tmp_path: Path) -> None:
    model = flux_writer.network("dev", attention_head_dim=16, axes_dims_rope=(4, 6, 6))
    model.save_pretrained(tmp_path)
    check(load_checkpoint(path=tmp_path), model, 8, 16)
    path = write_file(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"heads of width 16, which was not released.* give it as a diffusers folder"):
        load_checkpoint(path=path)


def test_a_distilled_network_is_told_its_scale(tmp_path: Path) -> None:
    model = flux_writer.network("dev")
    model.save_pretrained(tmp_path)
    denoiser = load_checkpoint(path=tmp_path).denoiser
    x, t, tokens, vector = inputs()
    condition = Condition(tokens=tokens, vector=vector)
    with pytest.raises(ValueError, match=r"must be told a scale: use denoiser\.predict_distilled"):
        predict(denoiser, x, t, condition)
    for scale in (4.0, torch.tensor([4.0]), torch.tensor(4.0)):
        actual = predict(set_distilled_guidance(denoiser, scale=scale), x, t, condition).value
        expected = expect(model, x, t, tokens, vector, torch.full((2,), 4.0))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    direct = predict_distilled(denoiser, x, t, condition, scale=4.0).value  # type: ignore[arg-type]
    assert torch.equal(direct, actual)
    assert (actual - expect(model, x, t, tokens, vector, torch.full((2,), 1.0))).abs().max() > 0.05
    told = set_distilled_guidance(denoiser, scale=4.0)
    ruled = told.with_rules({site: lambda h: 0 * h for site in told.sites() if site.kind == "feature"})  # type: ignore[attr-defined]
    assert ruled.guidance == 4.0
    assert not torch.allclose(predict(ruled, x, t, condition).value, actual)
    with pytest.raises(ValueError, match=r"the guidance scale has shape \(3,\) and x has 2 samples"):
        predict(set_distilled_guidance(denoiser, scale=torch.ones(3)), x, t, condition)


@pytest.mark.parametrize("blocks", ["double", "single"])
def test_tokens_beyond_the_range_of_float16_are_cut_as_in_diffusers(blocks: str, tmp_path: Path) -> None:
    model = flux_writer.network("schnell")
    if blocks == "double":
        block, last = model.transformer_blocks[0], model.transformer_blocks[0].ff_context.net[2]
        gates = block.norm1_context.linear.bias[5 * 256 :]
    else:
        block, last = model.single_transformer_blocks[0], model.single_transformer_blocks[0].proj_out
        gates = block.norm.linear.bias[2 * 256 :]
    last.bias[:2], gates[:2] = 60_000.0, 2.0
    model.save_pretrained(tmp_path)
    with use_device("cpu", "float16"):
        denoiser = load_checkpoint(path=tmp_path).denoiser
    x, t, tokens, vector = (tensor.half() for tensor in inputs())
    actual = predict(denoiser, x, t.float(), Condition(tokens=tokens, vector=vector)).value
    expected = expect(model.half(), x, t.half(), tokens, vector)
    assert expected.isfinite().all()
    torch.testing.assert_close(actual.float(), expected.float(), rtol=0.02, atol=0.02)


def test_a_network_that_takes_no_scale_stays_as_it_is(tmp_path: Path) -> None:
    flux_writer.network("schnell").save_pretrained(tmp_path)
    denoiser = load_checkpoint(path=tmp_path).denoiser
    assert set_distilled_guidance(denoiser, scale=4.0) is denoiser


@pytest.mark.parametrize("name", flux_writer.RELEASED)
def test_a_released_transformer_has_every_key_and_no_other(name: str) -> None:
    import diffusers

    with torch.device("meta"):
        model = diffusers.FluxTransformer2DModel(**flux_writer.RELEASED[name])
    tensors = flux_writer.single_file(model)
    assert is_flux(tensors)
    with use_device("meta", "float32"):
        file = load_flux(tensors, Path("a.safetensors"), LoadOptions())
        config = read_flux_config({**model.config, "_class_name": "FluxTransformer2DModel"}, Path("a"), "flow")
        folder = build_flux(config, flux_tensors(model.state_dict(), config), "folder")
    held = file["denoiser"].network.state_dict()
    assert held.keys() == folder["denoiser"].network.state_dict().keys() == tensors.keys()
    count = sum(tensor.numel() for tensor in held.values())
    assert count == sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e9, 2) == BILLIONS[name]
    joined = sum(tensor.numel() for key, tensor in held.items() if ".qkv." in key or ".linear1." in key)
    assert 0.29 < joined / count < 0.31  # the memory that docs/do/flux.md states
    assert file["denoiser"].config == folder["denoiser"].config == config
    assert (config.in_channels, config.heads, config.depth, config.single_depth) == (16, 24, 19, 38)
    assert config.guidance is (name != "FLUX.1-schnell")


@pytest.mark.parametrize("name", ["FLUX.1-dev", "FLUX.1-schnell"])
def test_diffusers_own_conversion_reads_the_single_file_of_these_tests(name: str) -> None:
    """The names that these tests write are those that diffusers knows, for the released models."""
    import diffusers
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    with torch.device("meta"):
        model = diffusers.FluxTransformer2DModel(**flux_writer.RELEASED[name])
    converted = convert_flux_transformer_checkpoint_to_diffusers(flux_writer.single_file(model))
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in converted.items()} == expected


def test_settings_without_use_are_refused(tmp_path: Path) -> None:
    path = write_file(flux_writer.network("schnell"), tmp_path / "model.safetensors")
    for settings, match in (
        ({"heads": 2}, "whose norms tell its heads: leave heads and head_channels out"),
        ({"noise_schedule": "linear"}, "which has no β: leave noise_schedule out"),
        ({"scale": 1.5}, "has no use for scale"),
    ):
        with pytest.raises(ValueError, match=match):
            load_checkpoint(path=path, **settings)  # type: ignore[arg-type]


def test_incomplete_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model = flux_writer.network("dev")
    for changes, match in (
        ({f"{PREFIX}double_blocks.1.txt_attn.proj.bias": None}, r"1 missing: double_blocks\.1\.txt_attn\.proj\.bias"),
        ({f"{PREFIX}single_blocks.1.gate": torch.ones(1)}, r"1 left over: single_blocks\.1\.gate"),
        ({f"{PREFIX}guidance_in.in_layer.weight": None}, r"3 left over: guidance_in\.in_layer\.bias"),
        ({f"{PREFIX}txt_in.weight": None}, r"holds no txt_in\.weight: it is incomplete"),
        ({"control.proj": torch.ones(1)}, r"holds 1 tensors that no known part has: control\.proj"),
    ):
        path = write_file(model, tmp_path / "model.safetensors", **changes)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=match):
            load_checkpoint(path=path)


def test_an_incomplete_folder_names_its_own_keys() -> None:
    model = flux_writer.network("dev")
    config = read_flux_config(model.config, Path("config.json"), "flow")
    state = model.state_dict()
    del state["single_transformer_blocks.1.attn.to_k.weight"]
    match = (
        r"1 missing: single_blocks\.1\.linear1\.weight; 3 left over: single_transformer_blocks\.1\.attn\.to_q\.weight"
    )
    with pytest.raises(ValueError, match=match), use_device("cpu", "float32"):
        build_flux(config, flux_tensors(state, config), "folder")


def test_a_config_of_another_network_is_refused() -> None:
    config = {"_class_name": "FluxTransformer2DModel", **flux_writer.SHAPE}
    path = Path("config.json")
    assert read_flux_config(config, path, "flow").width == 256
    for change, match in (
        ({"patch_size": 2}, "'patch_size' is 2, and only 1 is supported"),
        ({"axes_dims_rope": [16, 56]}, r"describes no Flux that can be built: .* found \(16, 56\) for a width of 256"),
        ({"axes_dims_rope": "all"}, "'axes_dims_rope' is 'all'; expected a list of whole numbers above 0"),
        ({"in_channels": 18}, "18 channels in and 18 out are not those of packed patches of 2 × 2"),
        ({"guidance_embeds": "yes"}, "'guidance_embeds' is 'yes'"),
        ({"controlnet": True}, "'controlnet' is True, which is not known"),
    ):
        with pytest.raises(ValueError, match=match):
            read_flux_config({**config, **change}, path, "flow")
