"""The released sizes on the meta device, under diffusers' and CompVis' names: no key is missing or left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph_families.diffusers.first_stage import to_compvis
from guidegraph_families.diffusers.unet import read_unet_shape, unet_tensors
from guidegraph_families.networks.autoencoder import ReleasedKL
from guidegraph_families.networks.unet import ReleasedUNet
from guidegraph_families.parts.first_stage import infer_first_stage_shape
from guidegraph_families.parts.infer_unet import Heads
from guidegraph_families.parts.infer_unet import infer_unet_shape as shape_of_tensors

diffusers = pytest.importorskip("diffusers")

SD2 = {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True}
UNETS: dict[str, tuple[dict[str, Any], Heads, int]] = {
    "Stable Diffusion 1.5": ({"cross_attention_dim": 768}, Heads(heads=8), 859_520_964),
    "Stable Diffusion 1.5 inpainting": ({"cross_attention_dim": 768, "in_channels": 9}, Heads(heads=8), 859_535_364),
    "Stable Diffusion 2.1": (SD2, Heads(head_channels=64), 865_910_724),
    "SDXL": (
        {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (320, 640, 1280),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        Heads(head_channels=64),
        2_567_463_684,
    ),
}


@pytest.mark.parametrize("name", UNETS)
def test_a_released_unet_has_every_key_and_no_other(name: str) -> None:
    config, heads, parameters = UNETS[name]
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(**config)
        shape = read_unet_shape({**model.config, "_class_name": "UNet2DConditionModel"}, Path("unet"), "eps")
        expected = ReleasedUNet(shape).state_dict()
        tensors = unet_tensors(model.state_dict(), shape)
    assert {key: value.shape for key, value in tensors.items()} == {key: value.shape for key, value in expected.items()}
    assert sum(value.numel() for value in tensors.values()) == parameters
    inferred = shape_of_tensors(tensors, "file", samples=4, heads=heads)
    attended = [level for level, depth in enumerate(shape.depths) if depth]
    assert [inferred.heads[level] for level in attended] == [shape.heads[level] for level in attended]
    for field in ("widths", "depths", "middle_depth", "blocks", "context_dim", "adm_channels", "spatial_channels"):
        assert getattr(inferred, field) == getattr(shape, field), field


def test_the_released_autoencoder_has_every_key_and_no_other() -> None:
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        tensors = to_compvis(model.state_dict())
        shape = infer_first_stage_shape(tensors, "vae")
        expected = ReleasedKL(shape, 1.0).state_dict()
    assert {key: value.shape for key, value in tensors.items()} == {key: value.shape for key, value in expected.items()}
    assert sum(value.numel() for value in tensors.values()) == 83_653_863
    assert shape.factor == 8
