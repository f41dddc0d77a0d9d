"""diffusers modules as the tensors of a CompVis single file, by walking the modules: independent of our mapping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def under(prefix: str, module: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of a module under another name."""
    for name, value in module.state_dict().items():
        yield f"{prefix}.{name}", value.detach().clone()


def first_stage(vae: Any) -> Tensors:
    """An AutoencoderKL or VQModel under the names of latent-diffusion's `first_stage_model`."""
    out: Tensors = {}
    for half, ours in ((vae.encoder, "encoder"), (vae.decoder, "decoder")):
        out.update(under(f"{ours}.conv_in", half.conv_in))
        out.update(under(f"{ours}.norm_out", half.conv_norm_out))
        out.update(under(f"{ours}.conv_out", half.conv_out))
        for number, resnet in enumerate(half.mid_block.resnets):
            out.update(_vae_block(f"{ours}.mid.block_{number + 1}", resnet))
        for attention in half.mid_block.attentions:
            out.update(_vae_attention(f"{ours}.mid.attn_1", attention))
        down = ours == "encoder"
        levels = list(half.down_blocks) if down else list(half.up_blocks)[::-1]
        for i, level in enumerate(levels):
            prefix = f"{ours}.{'down' if down else 'up'}.{i}"
            for j, resnet in enumerate(level.resnets):
                out.update(_vae_block(f"{prefix}.block.{j}", resnet))
            for j, attention in enumerate(getattr(level, "attentions", None) or []):
                out.update(_vae_attention(f"{prefix}.attn.{j}", attention))
            samplers = level.downsamplers if down else level.upsamplers
            for sampler in samplers or []:
                out.update(under(f"{prefix}.{'down' if down else 'up'}sample.conv", sampler.conv))
    for name in ("quant_conv", "post_quant_conv"):
        if getattr(vae, name, None) is not None:
            out.update(under(name, getattr(vae, name)))
    if hasattr(vae, "quantize"):
        out["quantize.embedding.weight"] = vae.quantize.embedding.weight.detach().clone()
    return out


def _vae_block(prefix: str, resnet: Any) -> Iterator[tuple[str, Tensor]]:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield from under(f"{prefix}.{name}", getattr(resnet, name))
    if resnet.conv_shortcut is not None:
        yield from under(f"{prefix}.nin_shortcut", resnet.conv_shortcut)


def _vae_attention(prefix: str, attention: Any) -> Iterator[tuple[str, Tensor]]:
    yield from under(f"{prefix}.norm", attention.group_norm)
    layers = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v, "proj_out": attention.to_out[0]}
    for name, layer in layers.items():
        yield f"{prefix}.{name}.weight", layer.weight.detach().clone()[:, :, None, None]
        yield f"{prefix}.{name}.bias", layer.bias.detach().clone()


def unet(model: Any) -> Tensors:
    """A UNet2DConditionModel or UNet2DModel under the names of `model.diffusion_model`."""
    out: Tensors = {}
    out.update(under("time_embed.0", model.time_embedding.linear_1))
    out.update(under("time_embed.2", model.time_embedding.linear_2))
    if getattr(model, "add_embedding", None) is not None:
        out.update(under("label_emb.0.0", model.add_embedding.linear_1))
        out.update(under("label_emb.0.2", model.add_embedding.linear_2))
    out.update(under("input_blocks.0.0", model.conv_in))
    number = 1
    for block in model.down_blocks:
        for j, resnet in enumerate(block.resnets):
            out.update(_unet_stage(f"input_blocks.{number}", resnet, block, j))
            number += 1
        for sampler in block.downsamplers or []:
            out.update(under(f"input_blocks.{number}.0.op", sampler.conv))
            number += 1
    for place, resnet in zip((0, 2), model.mid_block.resnets, strict=True):
        out.update(_resnet(f"middle_block.{place}", resnet))
    out.update(_attention("middle_block.1", model.mid_block.attentions[0]))
    number = 0
    for block in model.up_blocks:
        for j, resnet in enumerate(block.resnets):
            out.update(_unet_stage(f"output_blocks.{number}", resnet, block, j))
            number += 1
        for sampler in block.upsamplers or []:
            place = 2 if getattr(block, "attentions", None) else 1
            out.update(under(f"output_blocks.{number - 1}.{place}.conv", sampler.conv))
    out.update(under("out.0", model.conv_norm_out))
    out.update(under("out.2", model.conv_out))
    return out


def _unet_stage(prefix: str, resnet: Any, block: Any, j: int) -> Iterator[tuple[str, Tensor]]:
    yield from _resnet(f"{prefix}.0", resnet)
    if getattr(block, "attentions", None):
        yield from _attention(f"{prefix}.1", block.attentions[j])


def _resnet(prefix: str, resnet: Any) -> Iterator[tuple[str, Tensor]]:
    yield from under(f"{prefix}.in_layers.0", resnet.norm1)
    yield from under(f"{prefix}.in_layers.2", resnet.conv1)
    yield from under(f"{prefix}.emb_layers.1", resnet.time_emb_proj)
    yield from under(f"{prefix}.out_layers.0", resnet.norm2)
    yield from under(f"{prefix}.out_layers.3", resnet.conv2)
    if resnet.conv_shortcut is not None:
        yield from under(f"{prefix}.skip_connection", resnet.conv_shortcut)


def _attention(prefix: str, attention: Any) -> Iterator[tuple[str, Tensor]]:
    if hasattr(attention, "transformer_blocks"):  # a spatial transformer has the same names in both
        yield from under(prefix, attention)
        return
    yield from under(f"{prefix}.norm", attention.group_norm)
    heads = attention.heads
    parts = [layer.weight.unflatten(0, (heads, -1)) for layer in (attention.to_q, attention.to_k, attention.to_v)]
    biases = [layer.bias.unflatten(0, (heads, -1)) for layer in (attention.to_q, attention.to_k, attention.to_v)]
    yield (
        f"{prefix}.qkv.weight",
        torch.cat(parts, dim=1).flatten(0, 1)[:, :, None].detach(),
    )  # heads first: legacy order
    yield f"{prefix}.qkv.bias", torch.cat(biases, dim=1).flatten(0, 1).detach()
    yield f"{prefix}.proj_out.weight", attention.to_out[0].weight.detach().clone()[:, :, None]
    yield f"{prefix}.proj_out.bias", attention.to_out[0].bias.detach().clone()


def openclip(model: Any, projection: bool) -> Tensors:
    """A CLIP text model of transformers under the names of OpenCLIP."""
    trunk = getattr(model, "text_model", model)
    out: Tensors = {
        "token_embedding.weight": trunk.embeddings.token_embedding.weight,
        "positional_embedding": trunk.embeddings.position_embedding.weight,
    }
    for i, layer in enumerate(trunk.encoder.layers):
        prefix = f"transformer.resblocks.{i}"
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        out[f"{prefix}.attn.in_proj_weight"] = torch.cat([part.weight for part in parts])
        out[f"{prefix}.attn.in_proj_bias"] = torch.cat([part.bias for part in parts])
        out.update(under(f"{prefix}.attn.out_proj", attention.out_proj))
        out.update(under(f"{prefix}.ln_1", layer.layer_norm1))
        out.update(under(f"{prefix}.ln_2", layer.layer_norm2))
        out.update(under(f"{prefix}.mlp.c_fc", layer.mlp.fc1))
        out.update(under(f"{prefix}.mlp.c_proj", layer.mlp.fc2))
    out.update(under("ln_final", trunk.final_layer_norm))
    if projection:
        out["text_projection"] = model.text_projection.weight.T.contiguous()
    out["logit_scale"] = torch.tensor(4.6)
    return {name: value.detach().clone() for name, value in out.items()}
