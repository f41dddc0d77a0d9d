"""Values in the JSON of a diffusers folder that no tool writes are one error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.diffusers.config import read_json
from guidegraph.nodes.checkpoints.diffusers.schedule import (
    build_noise_schedule,
    read_prediction_kind,
    read_sampler_settings,
)
from guidegraph_families.diffusers.first_stage import load_first_stage
from guidegraph_families.diffusers.folder import load_unet
from guidegraph_families.diffusers.text import load_text
from guidegraph_families.diffusers.unet import read_unet_shape
from plugins.families.tests.diffusers import pipelines

PATH = Path("a.json")
LEVELS = {"block_out_channels": [32, 64], "layers_per_block": 1}
TOKENS = {
    "_class_name": "UNet2DConditionModel",
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    **LEVELS,
}
PIXELS = {
    "_class_name": "UNet2DModel",
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
    **LEVELS,
}


TEXTS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    root = tmp_path_factory.mktemp("sdxl")
    pipelines.pipeline("sdxl", root).save_pretrained(root / "folder")
    return root / "folder"


def test_lists_within_lists_are_no_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"axes_dims": ' + "[" * 200_000)
    with pytest.raises(ValueError, match=r"config\.json' holds lists within lists"):
        read_json(path)


@pytest.mark.parametrize("name", [["FluxTransformer2DModel"], {}, 3])
def test_a_class_that_is_no_name(name: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ValueError, match=r"config\.json' describes a .*; known are"):
        load_checkpoint(path=tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"num_train_timesteps": 10**12},
        {"num_train_timesteps": [1000]},
        {"beta_start": [0.1]},
        {"beta_end": 10**400},
        {"beta_schedule": []},
        {"trained_betas": [], "rescale_betas_zero_snr": True},
        {"trained_betas": 0.1, "rescale_betas_zero_snr": True},
        {"trained_betas": [0.1], "rescale_betas_zero_snr": True},
        {"trained_betas": [0.1, 0], "rescale_betas_zero_snr": True},
        {"trained_betas": [[0.1]]},
        {"trained_betas": {}},
        {"trained_betas": [10**400]},
        {"trained_betas": [0.1, 1.5]},
    ],
)
def test_a_schedule_of_values_that_no_tool_writes(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'a\.json'"):
        build_noise_schedule({"beta_schedule": "linear", **change}, Path("a.json"))


def test_an_offset_that_is_no_number() -> None:
    with pytest.raises(ValueError, match=r"'a\.json': 'steps_offset' is \[1\]"):
        read_sampler_settings({"steps_offset": [1]}, Path("a.json"))


@pytest.mark.parametrize("value", [[], {}, 3])
def test_a_kind_of_prediction_that_is_no_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"'a\.json': 'prediction_type' is .*; supported are epsilon"):
        read_prediction_kind({"prediction_type": value}, PATH)


@pytest.mark.parametrize("config", [TOKENS, PIXELS], ids=["tokens", "pixels"])
@pytest.mark.parametrize(
    "field",
    [
        "_class_name", "block_out_channels", "layers_per_block", "down_block_types", "mid_block_type", "in_channels",
        "out_channels", "norm_num_groups", "norm_eps", "freq_shift", "attention_head_dim", "downsample_padding",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [[], {}, "x", [[2]], [None], 10**12, -1], ids=str)
def test_a_field_of_a_unet_that_no_tool_writes_is_named(config: dict[str, Any], field: str, value: Any) -> None:
    read_unet_shape(config, PATH, "eps")
    with pytest.raises(ValueError, match=rf"'a\.json'.*({field}|blocks)"):
        read_unet_shape({**config, field: value}, PATH, "eps")


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (TOKENS, {"transformer_layers_per_block": 10**12}),
        (TOKENS, {"cross_attention_dim": [[2]]}),
        (PIXELS, {"add_attention": []}),
        (PIXELS, {"attention_head_dim": 0}),
        (PIXELS, {"num_class_embeds": [5]}),
        (TOKENS, {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 10**12}),
    ],
)
def test_a_field_of_one_kind_of_unet_is_named(config: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"'a\.json': '{[*change][-1]}' is "):
        read_unet_shape({**config, **change}, PATH, "eps")


@pytest.mark.parametrize("value", [[], {}, "x", -1, 1.5])
def test_the_groups_of_a_first_stage_are_a_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"'a\.json': 'norm_num_groups' is .*expected a whole number"):
        load_first_stage({"a": torch.zeros(1)}, {"norm_num_groups": value}, PATH)


@pytest.mark.parametrize("value", [[], "x", -1])
def test_the_sizes_of_sdxl_are_numbers(sdxl: Path, value: Any) -> None:
    path = sdxl / "unet" / "config.json"
    config = path.read_text()
    path.write_text(json.dumps(json.loads(config) | {"addition_time_embed_dim": value}))
    message = r"unet/config\.json': 'addition_time_embed_dim' is .*expected a whole number"
    try:
        with pytest.raises(ValueError, match=message):
            load_text(sdxl, TEXTS, {})
        with pytest.raises(ValueError, match=message):
            load_unet(sdxl / "unet", "eps", ema=True)
    finally:
        path.write_text(config)
