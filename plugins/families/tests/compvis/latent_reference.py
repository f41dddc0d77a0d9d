"""A plain implementation of latent diffusion's networks (Rombach et al. 2022, appendix E), from its config.yaml files.

Like `guided_reference`, whose primitives it uses: a function computes a network and asks a `Weights` for each tensor
under its published name, with the shape that the parameters of the config.yaml give it. Nothing of guidegraph is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from plugins.families.tests.guided.guided_reference import (
    Weights,
    attend,
    convolution,
    double,
    halve,
    residual,
    small,
    swish,
)

Params = Mapping[str, Any]


def group_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """GroupNorm of 32 groups with ε = 1e-6, as spatial transformers and first stages have it."""
    groups = x.reshape(x.shape[0], 32, -1)
    variance, mean = torch.var_mean(groups, 2, correction=0, keepdim=True)
    whitened = ((groups - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
    scale, shift = (w(f"{name}.{kind}", x.shape[1])[:, None, None] for kind in ("weight", "bias"))
    return whitened * scale + shift


def linear(w: Weights, name: str, tokens: Tensor, out: int) -> Tensor:
    return tokens @ w(f"{name}.weight", out, tokens.shape[-1]).T + w(f"{name}.bias", out)


def layer_norm(w: Weights, name: str, tokens: Tensor) -> Tensor:
    variance, mean = torch.var_mean(tokens, -1, correction=0, keepdim=True)
    width = tokens.shape[-1]
    return (tokens - mean) / (variance + 1e-5).sqrt() * w(f"{name}.weight", width) + w(f"{name}.bias", width)


def heads_at(params: Params, width: int, *, up: bool = False) -> int:
    """The number of attention heads for a number of channels."""
    if params.get("num_head_channels", -1) != -1:
        return int(width // params["num_head_channels"])
    if up and not params.get("use_spatial_transformer"):
        return int(params.get("num_heads_upsample", params["num_heads"]))
    return int(params["num_heads"])


def multi_head(w: Weights, name: str, tokens: Tensor, source: Tensor, heads: int) -> Tensor:
    """Attention (B, N, C) of tokens to a source (B, L, D), head by head."""
    width = tokens.shape[-1]
    query, key, value = (
        of @ w(f"{name}.to_{letter}.weight", width, of.shape[-1]).T
        for letter, of in (("q", tokens), ("k", source), ("v", source))
    )
    each, results = width // heads, []
    for head in range(heads):
        rows = slice(head * each, (head + 1) * each)
        weight = torch.softmax(query[..., rows] @ key[..., rows].transpose(1, 2) / math.sqrt(each), -1)
        results.append(weight @ value[..., rows])
    return linear(w, f"{name}.to_out.0", torch.cat(results, -1), width)


def spatial_transformer(w: Weights, name: str, x: Tensor, context: Tensor, heads: int, depth: int) -> Tensor:
    width = x.shape[1]
    h = convolution(w, f"{name}.proj_in", group_norm(w, f"{name}.norm", x), width, 1).flatten(2).transpose(1, 2)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        normed = layer_norm(w, f"{block}.norm1", h)
        h = h + multi_head(w, f"{block}.attn1", normed, normed, heads)
        h = h + multi_head(w, f"{block}.attn2", layer_norm(w, f"{block}.norm2", h), context, heads)
        value, gate = linear(w, f"{block}.ff.net.0.proj", layer_norm(w, f"{block}.norm3", h), 8 * width).chunk(2, -1)
        h = h + linear(w, f"{block}.ff.net.2", value * gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2))), width)
    return x + convolution(w, f"{name}.proj_out", h.transpose(1, 2).reshape(x.shape), width, 1)


def pixel_attention(w: Weights, name: str, x: Tensor, heads: int, new_order: bool) -> Tensor:
    scale, shift = (w(f"{name}.norm.{kind}", x.shape[1]) for kind in ("weight", "bias"))
    tokens = F.group_norm(x, 32, scale, shift, 1e-5).flatten(2)
    return x + attend(w, f"{name}.qkv", tokens, heads, new_order, f"{name}.proj_out", x.shape[1]).reshape(x.shape)


def unet(w: Weights, x: Tensor, t: Tensor, params: Params, context: Tensor | None = None) -> Tensor:
    """The output (B, out_channels, H, W) of the U-Net for x (B, in_channels, H, W), at t (B), with tokens (B, L, D)."""
    channels, multiples = params["model_channels"], params["channel_mult"]
    blocks, pooling = params["num_res_blocks"], params.get("resblock_updown", False)
    flags = small(num_channels=channels, use_scale_shift_norm=params.get("use_scale_shift_norm", False))
    angles = t.float()[:, None] * torch.exp(
        torch.arange(channels // 2, device=t.device) * (-2 * math.log(1e4) / channels)
    )
    waves = torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype)
    emb = linear(w, "time_embed.2", swish(linear(w, "time_embed.0", waves, 4 * channels)), 4 * channels)

    def attention(name: str, h: Tensor, up: bool = False) -> Tensor:
        heads = heads_at(params, h.shape[1], up=up)
        if params.get("use_spatial_transformer"):
            assert context is not None
            return spatial_transformer(w, name, h, context, heads, params.get("transformer_depth", 1))
        return pixel_attention(w, name, h, heads, params.get("use_new_attention_order", False))

    def resample(name: str, h: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        if pooling:
            return residual(w, name, h, emb, h.shape[1], flags, change)
        if not params.get("conv_resample", True):
            return change(h)
        if change is halve:
            return convolution(w, f"{name}.op", h, h.shape[1], 3, 2)
        return convolution(w, f"{name}.conv", double(h), h.shape[1])

    h = convolution(w, "input_blocks.0.0", x, channels)
    skips = [h]
    for level, multiple in enumerate(multiples):
        for _ in range(blocks):
            name = f"input_blocks.{len(skips)}"
            h = residual(w, f"{name}.0", h, emb, channels * multiple, flags)
            if 2**level in params["attention_resolutions"]:
                h = attention(f"{name}.1", h)
            skips.append(h)
        if level + 1 < len(multiples):
            h = resample(f"input_blocks.{len(skips)}.0", h, halve)
            skips.append(h)
    h = residual(w, "middle_block.0", h, emb, h.shape[1], flags)
    h = residual(w, "middle_block.2", attention("middle_block.1", h), emb, h.shape[1], flags)
    index = 0
    for level in range(len(multiples) - 1, -1, -1):
        for block in range(blocks + 1):
            name, layer = f"output_blocks.{index}", 1
            h = residual(w, f"{name}.0", torch.cat([h, skips.pop()], 1), emb, channels * multiples[level], flags)
            if 2**level in params["attention_resolutions"]:
                h, layer = attention(f"{name}.1", h, up=True), 2
            if level and block == blocks:
                h = resample(f"{name}.{layer}", h, double)
            index += 1
    scale, shift = (w(f"out.0.{kind}", h.shape[1]) for kind in ("weight", "bias"))
    return convolution(w, "out.2", swish(F.group_norm(h, 32, scale, shift, 1e-5)), params["out_channels"])


def resnet(w: Weights, name: str, x: Tensor, out: int) -> Tensor:
    h = convolution(w, f"{name}.conv1", swish(group_norm(w, f"{name}.norm1", x)), out)
    h = convolution(w, f"{name}.conv2", swish(group_norm(w, f"{name}.norm2", h)), out)
    return h + (x if x.shape[1] == out else convolution(w, f"{name}.nin_shortcut", x, out, 1))


def single_head(w: Weights, name: str, x: Tensor) -> Tensor:
    width, h = x.shape[1], group_norm(w, f"{name}.norm", x)
    query, key, value = (convolution(w, f"{name}.{letter}", h, width, 1).flatten(2) for letter in "qkv")
    weight = torch.softmax(torch.einsum("bct,bcs->bts", query, key) / math.sqrt(width), -1)
    h = torch.einsum("bts,bcs->bct", weight, value).reshape(x.shape)
    return x + convolution(w, f"{name}.proj_out", h, width, 1)


def middle(w: Weights, name: str, h: Tensor, dd: Params) -> Tensor:
    h = resnet(w, f"{name}.block_1", h, h.shape[1])
    if dd.get("attn_type") != "none":
        h = single_head(w, f"{name}.attn_1", h)
    return resnet(w, f"{name}.block_2", h, h.shape[1])


def encode(w: Weights, image: Tensor, params: Params) -> Tensor:
    """The output of a first stage's encoder and its 1 × 1 convolution: the latent, or KL's mean and log-variance."""
    dd = params["ddconfig"]
    h = convolution(w, "encoder.conv_in", image, dd["ch"])
    for level, multiple in enumerate(dd["ch_mult"]):
        for block in range(dd["num_res_blocks"]):
            h = resnet(w, f"encoder.down.{level}.block.{block}", h, dd["ch"] * multiple)
            if dd["resolution"] // 2**level in dd["attn_resolutions"]:
                h = single_head(w, f"encoder.down.{level}.attn.{block}", h)
        if level + 1 < len(dd["ch_mult"]):
            name, width = f"encoder.down.{level}.downsample.conv", h.shape[1]
            padded = F.pad(h, (0, 1, 0, 1))
            h = F.conv2d(padded, w(f"{name}.weight", width, width, 3, 3), w(f"{name}.bias", width), 2)
    moments = 2 if dd["double_z"] else 1
    h = swish(group_norm(w, "encoder.norm_out", middle(w, "encoder.mid", h, dd)))
    h = convolution(w, "encoder.conv_out", h, moments * dd["z_channels"])
    return convolution(w, "quant_conv", h, moments * params["embed_dim"], 1)


def decode(w: Weights, z: Tensor, params: Params) -> Tensor:
    """The picture of an unscaled latent (B, embed_dim, h, w); a VQ model takes the nearest code of each vector."""
    dd = params["ddconfig"]
    if "n_embed" in params:
        codes = w("quantize.embedding.weight", params["n_embed"], params["embed_dim"])
        if z.device.type != "meta":
            distance = (z[:, None] - codes[None, :, :, None, None]).square().sum(2)
            z = codes[distance.argmin(1)].permute(0, 3, 1, 2)
    z = convolution(w, "post_quant_conv", z, dd["z_channels"], 1)
    h = convolution(w, "decoder.conv_in", z, dd["ch"] * dd["ch_mult"][-1])
    h = middle(w, "decoder.mid", h, dd)
    for level in range(len(dd["ch_mult"]) - 1, -1, -1):
        for block in range(dd["num_res_blocks"] + 1):
            h = resnet(w, f"decoder.up.{level}.block.{block}", h, dd["ch"] * dd["ch_mult"][level])
            if dd["resolution"] // 2**level in dd["attn_resolutions"]:
                h = single_head(w, f"decoder.up.{level}.attn.{block}", h)
        if level:
            h = convolution(w, f"decoder.up.{level}.upsample.conv", double(h), h.shape[1])
    return convolution(w, "decoder.conv_out", swish(group_norm(w, "decoder.norm_out", h)), dd["out_ch"])


def text(w: Weights, params: Params) -> None:
    """The tensors of `BERTEmbedder`, whose attention has 8 heads of 64 channels; its values are compared elsewhere."""
    width, words = params["n_embed"], params.get("vocab_size", 30522)
    w("transformer.token_emb.weight", words, width)
    w("transformer.pos_emb.emb.weight", params.get("max_seq_len", 77), width)
    sizes: dict[str, tuple[int, ...]] = {}
    for layer in range(params["n_layer"]):
        first, second = (f"attn_layers.layers.{2 * layer + half}" for half in (0, 1))
        sizes |= {f"{first}.1.to_{letter}.weight": (512, width) for letter in "qkv"}
        sizes |= {f"{first}.1.to_out.weight": (width, 512), f"{first}.1.to_out.bias": (width,)}
        sizes |= {f"{second}.1.net.0.0.weight": (4 * width, width), f"{second}.1.net.0.0.bias": (4 * width,)}
        sizes |= {f"{second}.1.net.2.weight": (width, 4 * width), f"{second}.1.net.2.bias": (width,)}
        sizes |= {f"{half}.0.{kind}": (width,) for half in (first, second) for kind in ("weight", "bias")}
    sizes |= {"norm.weight": (width,), "norm.bias": (width,)}
    sizes |= {"to_logits.weight": (words, width), "to_logits.bias": (words,)}
    for name, size in sizes.items():
        w(f"transformer.{name}", *size)


class Recorder:
    """Random weights of the requested shapes, or tensors without values on the meta device."""

    def __init__(self, device: str, seed: int = 0) -> None:
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        self.held: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        if name not in self.held:
            self.held[name] = torch.empty(shape, device="meta") if self.device == "meta" else self.draw(name, shape)
        assert tuple(self.held[name].shape) == shape, name
        return self.held[name]

    def draw(self, name: str, shape: tuple[int, ...]) -> Tensor:
        spread = 1.0 if "embedding" in name else 0.7 / math.sqrt(max(math.prod(shape[1:]), 1))
        weight = spread * torch.randn(shape, generator=self.generator)
        return weight + 1 if name.endswith("weight") and len(shape) == 1 else weight
