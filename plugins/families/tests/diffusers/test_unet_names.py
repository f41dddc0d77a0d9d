"""diffusers' names and the canonical ones: mapped both ways, with the same ε from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.nodes.checkpoints.filling import fill
from guidegraph_families.diffusers.unet import (
    read_unet_shape,
    to_canonical,
    to_diffusers,
    unet_layout,
    unet_tensors,
)
from guidegraph_families.networks.unet import ReleasedUNet
from plugins.families.tests.compvis import compvis_writer
from plugins.families.tests.tiny import TOKENS, UNETS, unet

pytest.importorskip("diffusers")


def ours(model: Any, tensors: dict[str, torch.Tensor] | None = None) -> ReleasedUNet:
    shape = read_unet_shape({**model.config, "_class_name": type(model).__name__}, Path("unet"), "eps")
    with torch.device("meta"):
        network = ReleasedUNet(shape)
    canonical = unet_tensors(tensors or model.state_dict(), shape)
    fill(network, {name: value for name, value in canonical.items() if name != "label_emb.weight"}, "unet")
    return network


@pytest.mark.parametrize("family", UNETS)
def test_a_unet_of_diffusers_gives_its_own_output(family: str) -> None:
    model = unet(family)
    network = ours(model)
    torch.manual_seed(0)
    x, t = torch.randn(2, model.config.in_channels, 16, 16), torch.tensor([3.0, 700.0])
    arguments: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    if network.shape.context_dim:
        arguments["tokens"] = theirs["encoder_hidden_states"] = torch.randn(2, TOKENS, network.shape.context_dim)
    if family == "sdxl":
        pooled, numbers = torch.randn(2, 32), torch.tensor([[64.0, 64, 0, 8, 32, 32]] * 2)
        theirs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": numbers}
        sizes = model.add_time_proj(numbers.flatten()).reshape(2, -1)
        arguments["vector"] = torch.cat([pooled, sizes], dim=1)
    if family == "class":
        theirs["class_labels"] = torch.tensor([1, 4])
        arguments["vector"] = model.class_embedding.weight.detach()[theirs["class_labels"]]
    with torch.no_grad():
        expected = model(x, t, **theirs).sample
        actual = network(x, t, **arguments)
    assert expected.std() > 0.05
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", UNETS)
def test_names_map_both_ways(family: str) -> None:
    model = unet(family)
    shape = read_unet_shape({**model.config, "_class_name": type(model).__name__}, Path("unet"), "eps")
    layout = unet_layout(shape)
    for name in model.state_dict():
        if "class_embedding" not in name:
            canonical = to_canonical(name, layout)
            assert canonical != name
            assert to_diffusers(canonical, layout) == name


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "inpaint"])
def test_the_mapping_is_that_of_a_single_file_written_by_walking_the_model(family: str) -> None:
    model = unet(family)
    canonical = unet_tensors(model.state_dict(), ours(model).shape)
    expected = compvis_writer.unet(model)
    assert canonical.keys() == expected.keys()
    assert all(torch.equal(canonical[name], expected[name]) for name in canonical)


def test_old_attention_names_are_the_same_network() -> None:
    model = unet("pixels")
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old_names = {}
    for name, value in model.state_dict().items():
        for new_name, word in words.items():
            name = name.replace(f".{new_name}.", f".{word}.")
        old_names[name] = value
    assert any("proj_attn" in name for name in old_names)
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([10.0])
    assert torch.equal(ours(model, old_names)(x, t), ours(model)(x, t))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("time_cond_proj_dim", 16, "'time_cond_proj_dim' is 16, which is not known"),
        ("act_fn", "gelu", "'act_fn' is 'gelu', and only 'silu' or 'swish' is supported"),
        ("mid_block_type", None, "'mid_block_type' is None"),
        ("down_block_types", ["KDownBlock2D", "DownBlock2D"], "blocks of type KDownBlock2D are not supported"),
        ("up_block_types", ["CrossAttnUpBlock2D", "UpBlock2D"], "do not mirror"),
        ("block_out_channels", None, "'block_out_channels' is None; expected a list"),
        ("attention_head_dim", [5, 8], "5 heads do not share 32 channels"),
        ("addition_embed_type", "image", "'addition_embed_type' is 'image'"),
        ("layers_per_block", [1, 2], r"'layers_per_block' is \[1, 2\], and only one whole number"),
    ],
)
def test_a_config_that_is_not_supported_is_named(field: str, value: Any, message: str) -> None:
    config = {**unet("sd1").config, "_class_name": "UNet2DConditionModel", field: value}
    with pytest.raises(ValueError, match=f"'unet/config.json'.*{message}"):
        read_unet_shape(config, Path("unet/config.json"), "eps")
