"""Stable Diffusion 3's transformer in both layouts: outputs, released sizes, skipped layers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph import Condition, predict, select_sites
from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.models.networks.hooks import Hooks
from guidegraph.nodes.models.transformers.mmdit import sd3_tensors
from guidegraph.nodes.sampling.schedule import flow
from guidegraph_families.diffusers.folder import read_sd3_config
from guidegraph_families.sd3 import build_mmdit, is_sd3, load_sd3
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import sd3_writer

pytest.importorskip("diffusers")

PREFIX = "model.diffusion_model."
BILLIONS = {
    "Stable Diffusion 3 medium": 2.0,
    "Stable Diffusion 3.5 medium": 2.5,
    "Stable Diffusion 3.5 large": 8.1,
}
"""Parameters as announced by Stability AI."""


def inputs(height: int = 16, width: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, t, tokens and a vector."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 4, height, width, generator=generator)
    tokens = torch.randn(2, 7, 24, generator=generator)
    return x, torch.tensor([3.0, 700.0]), tokens, torch.randn(2, 20, generator=generator)


def check(network: Any, model: Any, *size: int) -> None:
    x, t, tokens, vector = inputs(*size)
    expected = model(x, tokens, vector, t).sample
    assert expected.std() > 0.1
    difference_bounds.largest(network(x, t, tokens=tokens, vector=vector), expected, 1e-4, "u")


def write_file(model: Any, path: Path, **changes: Tensor | None) -> Path:
    """Write a single file with names below the usual prefix; changes: tensors by their full names."""
    tensors = {PREFIX + name: tensor for name, tensor in sd3_writer.single_file(model).items()}
    kept = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
    save_file({name: tensor.clone().contiguous() for name, tensor in kept.items()}, path)
    return path


@pytest.mark.parametrize("family", sd3_writer.TINY)
def test_both_layouts_give_the_output_of_diffusers(family: str, tmp_path: Path) -> None:
    model = sd3_writer.network(family)
    model.save_pretrained(tmp_path / "folder")
    path = write_file(model, tmp_path / "file.safetensors")
    for loaded in (load_checkpoint(path=tmp_path / "folder"), load_checkpoint(path=path, head_channels=16)):
        for size in ((16, 16), (8, 24)):
            check(loaded.denoiser.network, model, *size)  # type: ignore[attr-defined]


def test_a_loaded_denoiser_predicts_the_velocity_of_a_flow(tmp_path: Path) -> None:
    sd3_writer.network(next(iter(sd3_writer.TINY))).save_pretrained(tmp_path)
    denoiser = load_checkpoint(path=tmp_path).denoiser
    x, t, tokens, vector = inputs()
    prediction = predict(denoiser, x, t, Condition(tokens=tokens, vector=vector))
    assert prediction.kind == "flow"
    schedule = flow(shift=3.0)
    x0 = schedule.convert(prediction, "x0", x, t).value
    sigma = (t / 1000).reshape(-1, 1, 1, 1)
    assert torch.allclose(x0, x - sigma * prediction.value, atol=1e-5)


def test_leaving_blocks_out_is_skipping_layers_in_diffusers() -> None:
    model = sd3_writer.network("3.5 medium")
    with use_device("cpu", "float32"):
        parts = load_sd3(sd3_writer.single_file(model), Path("a"), LoadOptions())
    denoiser = parts["denoiser"]
    rule = {site: lambda h, skipped: (0 * h, skipped) for site in select_sites(denoiser, "skip.block.1")}
    x, t, tokens, vector = inputs()
    expected = model(x, tokens, vector, t, skip_layers=[1]).sample
    actual = denoiser.network(x, t, tokens=tokens, vector=vector, hooks=Hooks(rule))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    assert (model(x, tokens, vector, t).sample - expected).abs().max() > 0.1


@pytest.mark.parametrize("name", sd3_writer.RELEASED)
def test_a_released_transformer_has_every_key_and_no_other(name: str) -> None:
    import diffusers

    with torch.device("meta"):
        model = diffusers.SD3Transformer2DModel(**{**sd3_writer.RELEASED_SHAPE, **sd3_writer.RELEASED[name]})
    tensors = sd3_writer.single_file(model)
    assert is_sd3(tensors)
    with use_device("meta", "float32"):
        file = load_sd3({PREFIX + key: tensor for key, tensor in tensors.items()}, Path("a.safetensors"), LoadOptions())
        config = read_sd3_config({**model.config, "_class_name": "SD3Transformer2DModel"}, Path("config.json"), "eps")
        folder = build_mmdit(config, sd3_tensors(model.state_dict(), config), "folder")
    held = file["denoiser"].network.state_dict()
    assert held.keys() == folder["denoiser"].network.state_dict().keys() == tensors.keys()
    count = sum(tensor.numel() for tensor in held.values())
    assert count - held["pos_embed"].numel() == sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e9 == pytest.approx(BILLIONS[name], abs=0.1)
    joined = sum(tensor.numel() for key, tensor in held.items() if ".qkv." in key)
    assert 0.16 < joined / count < 0.18  # the memory that docs/do/checkpoints.md states
    measured = file["denoiser"].config
    assert measured.kind == "flow"
    assert {**vars(measured), "kind": "eps"} == vars(config)
    assert (measured.in_channels, measured.heads) == (16, model.config.num_attention_heads)


@pytest.mark.parametrize("name", sd3_writer.RELEASED)
def test_diffusers_own_conversion_reads_the_single_file_of_these_tests(name: str) -> None:
    """The names that these tests write are those that diffusers knows, for every released model."""
    import diffusers
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    with torch.device("meta"):
        model = diffusers.SD3Transformer2DModel(**{**sd3_writer.RELEASED_SHAPE, **sd3_writer.RELEASED[name]})
    tensors = {PREFIX + key: tensor for key, tensor in sd3_writer.single_file(model).items()}
    converted = convert_sd3_transformer_checkpoint_to_diffusers(tensors)
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in converted.items()} == expected


def test_what_a_file_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    path = write_file(sd3_writer.network("3"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"width 32 with 3 blocks, which was not released, .* heads or head_channels"):
        load_checkpoint(path=path)
    assert load_checkpoint(path=path, heads=2).denoiser.config.heads == 2  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"model\.safetensors' has .* width 32, which is not a multiple of heads = 3"):
        load_checkpoint(path=path, heads=3)
    with pytest.raises(ValueError, match="has no use for scale"):
        load_checkpoint(path=path, heads=2, scale=1.5)
    with pytest.raises(ValueError, match="which has no β: leave noise_schedule out"):
        load_checkpoint(path=path, heads=2, noise_schedule="linear")
    with_norms = write_file(sd3_writer.network("3.5 large"), tmp_path / "norms.safetensors")
    assert load_checkpoint(path=with_norms).denoiser.config.heads == 2  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="has 2 heads by its norms: leave heads and head_channels out"):
        load_checkpoint(path=with_norms, heads=4)


def test_incomplete_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model = sd3_writer.network("3.5 medium")
    for changes, match in (
        (
            {f"{PREFIX}joint_blocks.1.x_block.attn2.proj.bias": None},
            r"1 missing: joint_blocks\.1\.x_block\.attn2\.proj",
        ),
        ({f"{PREFIX}joint_blocks.1.x_block.gate": torch.ones(1)}, r"1 left over: joint_blocks\.1\.x_block\.gate"),
        ({f"{PREFIX}pos_embed": torch.zeros(1, 15, 32)}, "15 positions, which are no square"),
        ({f"{PREFIX}y_embedder.mlp.0.weight": None}, r"holds no y_embedder\.mlp\.0\.weight: it is incomplete"),
        (
            {f"{PREFIX}joint_blocks.90000.gate": torch.ones(1)},
            r"has 4 blocks with numbers up to 90000: it is incomplete",
        ),
        (
            {f"{PREFIX}joint_blocks.0.x_block.attn.ln_q.weight": torch.ones(64)},
            r"queries are normalised in 64 channels, and tokens have 32: it is of another architecture",
        ),
        ({"control.proj": torch.ones(1)}, r"holds 1 tensors that no known part has: control\.proj"),
    ):
        path = write_file(model, tmp_path / "model.safetensors", **changes)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=match):
            load_checkpoint(path=path)


def test_a_pipeline_without_text_encoders_loads_what_it_has(tmp_path: Path) -> None:
    sd3_writer.network("3").save_pretrained(tmp_path / "transformer")
    index = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    loaded = load_checkpoint(path=tmp_path)
    assert loaded.denoiser.kind == "flow"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="has no part 'text'; it has denoiser"):
        loaded.text(["a"])


def test_a_config_of_another_network_is_refused() -> None:
    config = {"_class_name": "SD3Transformer2DModel", **sd3_writer.SHAPE}
    path = Path("config.json")
    assert read_sd3_config(config, path, "eps").width == 32
    for change, match in (
        ({"qk_norm": "layer_norm"}, "'qk_norm' is 'layer_norm', and only None or 'rms_norm' is supported"),
        ({"caption_projection_dim": 48}, "'caption_projection_dim' is not the width of the heads, 32"),
        ({"dual_attention_layers": "all"}, "'dual_attention_layers' is 'all'; expected a list of whole numbers"),
        ({"dual_attention_layers": [3]}, "describes no MMDiT that can be built: 'dual' lists blocks of 0 … 2"),
        ({"controlnet": True}, "'controlnet' is True, which is not known"),
    ):
        with pytest.raises(ValueError, match=match):
            read_sd3_config({**config, **change}, path, "eps")
