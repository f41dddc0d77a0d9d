"""The shape of a U-Net is inferred from its tensors; the number of weights is that of the published models."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph_families.compvis.single_file import load_compvis
from guidegraph_families.networks.config import UNetShape, count_heads
from guidegraph_families.networks.unet import ReleasedUNet
from guidegraph_families.parts.infer_unet import Heads, infer_structure, infer_unet_shape
from plugins.families.tests.diffusers import pipelines

SD1 = UNetShape(4, 4, 320, (320, 640, 1280, 1280), 2, (1, 1, 1, 0), (8,) * 4, context_dim=768)
SD2 = replace(SD1, heads=(5, 10, 20, 20), context_dim=1024, linear_projections=True, kind="v")
SDXL = UNetShape(
    4,
    4,
    320,
    (320, 640, 1280),
    2,
    (0, 2, 10),
    (5, 10, 20),
    middle_depth=10,
    context_dim=2048,
    linear_projections=True,
    adm_channels=2816,
)
REFINER = UNetShape(
    4,
    4,
    384,
    (384, 768, 1536, 1536),
    2,
    (0, 4, 4, 0),
    (6, 12, 24, 24),
    middle_depth=4,
    context_dim=1280,
    linear_projections=True,
    adm_channels=2560,
)
PLAIN = UNetShape(3, 3, 32, (32, 64, 64), 3, (0, 0, 0), (1, 1, 1), middle_depth=0)


def tensors_of(shape: UNetShape) -> dict[str, Tensor]:
    with torch.device("meta"):
        return ReleasedUNet(shape).state_dict()


@pytest.mark.parametrize(
    ("shape", "heads"),
    [
        (SD1, Heads(heads=8)),
        (replace(SD1, spatial_channels=5), Heads(heads=8)),
        (SD2, Heads(head_channels=64)),
        (SDXL, Heads(head_channels=64)),
        (REFINER, Heads(head_channels=64)),
        (PLAIN, Heads(heads=1)),
        (replace(PLAIN, resblock_updown=True, scale_shift=True), Heads(heads=1)),
        (replace(PLAIN, widths=(32,), depths=(1,), heads=(2,), out_channels=6), Heads(heads=2)),
    ],
    ids=["sd1", "sd1-inpainting", "sd2", "sdxl", "sdxl-refiner", "plain", "resblocks", "one-level"],
)
def test_the_shape_is_inferred_from_the_tensors(shape: UNetShape, heads: Heads) -> None:
    actual = infer_unet_shape(tensors_of(shape), "a.pt", samples=shape.in_channels, heads=heads, kind=shape.kind)
    assert actual == shape


@pytest.mark.parametrize(("shape", "count"), [(SD1, 859_520_964), (SD2, 865_910_724), (SDXL, 2_567_463_684)])
def test_the_number_of_weights_is_that_of_the_published_model(shape: UNetShape, count: int) -> None:
    assert sum(tensor.numel() for tensor in tensors_of(shape).values()) == count


def test_levels_that_differ_are_refused() -> None:
    tensors = tensors_of(SD1)
    for name in [name for name in tensors if name.startswith("input_blocks.5.1.")]:
        del tensors[name]
    with pytest.raises(ValueError, match=r"'a\.pt': its 12 input blocks are no levels of 2 residual blocks"):
        infer_structure(tensors, "a.pt")
    with pytest.raises(ValueError, match=r"'a\.pt' holds no whole U-Net: input_blocks\.0\.0\.weight is missing"):
        infer_structure({}, "a.pt")


def test_heads_are_a_number_or_have_a_width() -> None:
    assert count_heads((32, 64, 128), heads=4) == (4, 4, 4)
    assert count_heads((32, 64, 128), head_channels=64) == (1, 1, 2)
    with pytest.raises(ValueError, match="either"):
        count_heads((32,))
    with pytest.raises(ValueError, match="3 heads do not share 32 channels"):
        replace(PLAIN, depths=(1, 0, 0), heads=(3, 1, 1))
    with pytest.raises(ValueError, match="32 groups do not share 48 channels"):
        replace(PLAIN, widths=(48, 64, 64))


@pytest.mark.parametrize("width", [24, 48, 1000])
def test_a_width_of_heads_that_shares_no_level_is_refused(width: int) -> None:
    with pytest.raises(
        ValueError, match=rf"'a\.pt': a level with attention has .*not a multiple of head_channels = {width}"
    ):
        infer_unet_shape(tensors_of(SD1), "a.pt", samples=SD1.in_channels, heads=Heads(head_channels=width))


UNET, FIRST = "model.diffusion_model.", "first_stage_model."


@pytest.mark.parametrize(
    "name",
    [
        f"{UNET}input_blocks.0.0.weight",
        f"{UNET}time_embed.0.weight",
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        f"{UNET}out.2.weight",
        f"{FIRST}encoder.conv_in.weight",
        f"{FIRST}encoder.down.1.block.0.conv1.weight",
        f"{FIRST}quant_conv.weight",
        "alphas_cumprod",
    ],
)
def test_a_tensor_of_another_rank_is_named(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    path = pipelines.single_file(pipelines.pipeline("sd1", tmp_path), "sd1", tmp_path / "model.ckpt")
    tensors = torch.load(path, weights_only=True)["state_dict"]
    short = name.removeprefix(UNET).removeprefix(FIRST)
    for wrong in (torch.tensor(1.0), torch.zeros(0), torch.zeros(2, 2, 2)):
        with pytest.raises(ValueError, match=rf"model\.ckpt' does not fit: {re.escape(short)} has the shape"):
            load_compvis(tensors | {name: wrong}, path, LoadOptions())
    with pytest.raises(ValueError, match="do not fall from 1: set noise_schedule"):
        load_compvis(tensors | {"alphas_cumprod": torch.ones(1000)}, path, LoadOptions())


def test_the_projection_of_another_rank_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    path = pipelines.single_file(pipelines.pipeline("sdxl", tmp_path), "sdxl", tmp_path / "model.ckpt")
    tensors = torch.load(path, weights_only=True)["state_dict"]
    name = "conditioner.embedders.1.model.text_projection"
    with pytest.raises(ValueError, match=rf"{re.escape(name)} has the shape \(\), and 2 axes"):
        load_compvis(tensors | {name: torch.tensor(1.0)}, path, LoadOptions())
