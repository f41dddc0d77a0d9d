"""A plain implementation of guided-diffusion's networks (Dhariwal & Nichol 2021 and that project's README).

One function computes a network and asks a `Weights` for each tensor under its published name, with the shape that the
hyper-parameters give it. It uses nothing of guidegraph, so that names, shapes and outputs are independent of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Callable[..., Tensor]
"""(name, *shape) gives the tensor."""


@dataclass(frozen=True)
class Flags:
    """The flags of that project's README, by the names that they have there."""

    image_size: int
    num_channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    num_heads: int = 4
    num_head_channels: int = -1
    class_cond: bool = False
    learn_sigma: bool = True
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    upsampler: bool = False
    num_classes: int = 1000
    classifier_pool: str = "attention"


MULT = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}
ATTENTION_SIDES = (32, 16, 8)

RELEASED = {
    "64x64_diffusion": Flags(
        64, 192, MULT[64], 3, ATTENTION_SIDES, num_head_channels=64, class_cond=True, use_new_attention_order=True
    ),
    "128x128_diffusion": Flags(128, 256, MULT[128], 2, ATTENTION_SIDES, num_heads=4, class_cond=True),
    "256x256_diffusion": Flags(256, 256, MULT[256], 2, ATTENTION_SIDES, num_head_channels=64, class_cond=True),
    "256x256_diffusion_uncond": Flags(256, 256, MULT[256], 2, ATTENTION_SIDES, num_head_channels=64),
    "512x512_diffusion": Flags(512, 256, MULT[512], 2, ATTENTION_SIDES, num_head_channels=64, class_cond=True),
    "64_256_upsampler": Flags(256, 192, MULT[256], 2, ATTENTION_SIDES, num_heads=4, class_cond=True, upsampler=True),
    "128_512_upsampler": Flags(512, 192, MULT[256], 2, (32, 16), num_head_channels=64, class_cond=True, upsampler=True),
}
CLASSIFIERS = {
    f"{size}x{size}_classifier": Flags(
        size, 128, MULT[size], 4 if size == 64 else 2, ATTENTION_SIDES, num_head_channels=64
    )
    for size in (64, 128, 256, 512)
}


def convolution(w: Weights, name: str, x: Tensor, out: int, size: int = 3, stride: int = 1) -> Tensor:
    weight = w(f"{name}.weight", out, x.shape[1], size, size)
    return F.conv2d(x, weight, w(f"{name}.bias", out), stride, size // 2)


def dense(w: Weights, name: str, x: Tensor, out: int) -> Tensor:
    return F.linear(x, w(f"{name}.weight", out, x.shape[1]), w(f"{name}.bias", out))


def normalise(w: Weights, name: str, x: Tensor) -> Tensor:
    """GroupNorm of 32 groups, written out."""
    batch, channels = x.shape[:2]
    groups = x.reshape(batch, 32, -1)
    centred = groups - groups.mean(2, keepdim=True)
    whitened = (centred / (centred.pow(2).mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    scale, shift = (w(f"{name}.{kind}", channels).reshape(1, -1, *(1,) * (x.ndim - 2)) for kind in ("weight", "bias"))
    return whitened * scale + shift


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def halve(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def residual(
    w: Weights,
    name: str,
    x: Tensor,
    emb: Tensor,
    out: int,
    flags: Flags,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    h = swish(normalise(w, f"{name}.in_layers.0", x))
    if change is not None:
        h, x = change(h), change(x)
    h = convolution(w, f"{name}.in_layers.2", h, out)
    y = dense(w, f"{name}.emb_layers.1", swish(emb), 2 * out if flags.use_scale_shift_norm else out)[:, :, None, None]
    if flags.use_scale_shift_norm:
        h = (1 + y[:, :out]) * normalise(w, f"{name}.out_layers.0", h) + y[:, out:]
    else:
        h = normalise(w, f"{name}.out_layers.0", h + y)
    h = convolution(w, f"{name}.out_layers.3", swish(h), out)
    return h + (x if x.shape[1] == out else convolution(w, f"{name}.skip_connection", x, out, 1))


def attend(w: Weights, name: str, tokens: Tensor, heads: int, new_order: bool, out: str, width: int) -> Tensor:
    """Attention among tokens (B, C, L), head by head, between the layers that `name` and `out` name."""
    channels = tokens.shape[1]
    each = channels // heads
    qkv = torch.einsum("oi,bil->bol", w(f"{name}.weight", 3 * channels, channels, 1)[:, :, 0], tokens)
    qkv = qkv + w(f"{name}.bias", 3 * channels)[:, None]
    results = []
    for head in range(heads):
        starts = [part * channels + head * each for part in range(3)] if new_order else []
        starts = starts or [(3 * head + part) * each for part in range(3)]
        q, k, v = (qkv[:, start : start + each] for start in starts)
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(each), dim=-1)
        results.append(torch.einsum("bts,bcs->bct", weight, v))
    h = torch.einsum("oi,bil->bol", w(f"{out}.weight", width, channels, 1)[:, :, 0], torch.cat(results, 1))
    return h + w(f"{out}.bias", width)[:, None]


def self_attention(w: Weights, name: str, x: Tensor, flags: Flags) -> Tensor:
    channels = x.shape[1]
    heads = flags.num_heads if flags.num_head_channels == -1 else channels // flags.num_head_channels
    tokens = normalise(w, f"{name}.norm", x.flatten(2))
    h = attend(w, f"{name}.qkv", tokens, heads, flags.use_new_attention_order, f"{name}.proj_out", channels)
    return x + h.reshape(x.shape)


def embed_time(w: Weights, t: Tensor, flags: Flags) -> Tensor:
    half = flags.num_channels // 2
    angles = t.float()[:, None] * torch.tensor([10_000 ** (-i / half) for i in range(half)]).to(t.device)
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    width = 4 * flags.num_channels
    return dense(w, "time_embed.2", swish(dense(w, "time_embed.0", waves, width)), width)


def encoder(w: Weights, x: Tensor, emb: Tensor, flags: Flags) -> list[Tensor]:
    """The outputs of all input blocks, and of the middle block last."""
    h = convolution(w, "input_blocks.0.0", x, int(flags.channel_mult[0] * flags.num_channels))
    outputs = [h]
    for level, mult in enumerate(flags.channel_mult):
        for _ in range(flags.num_res_blocks):
            name = f"input_blocks.{len(outputs)}"
            h = residual(w, f"{name}.0", h, emb, int(mult * flags.num_channels), flags)
            if flags.image_size // 2**level in flags.attention_resolutions:
                h = self_attention(w, f"{name}.1", h, flags)
            outputs.append(h)
        if level + 1 < len(flags.channel_mult):
            name = f"input_blocks.{len(outputs)}.0"
            if flags.resblock_updown:
                h = residual(w, name, h, emb, h.shape[1], flags, halve)
            else:
                h = convolution(w, f"{name}.op", h, h.shape[1], 3, 2)
            outputs.append(h)
    h = residual(w, "middle_block.0", h, emb, h.shape[1], flags)
    h = self_attention(w, "middle_block.1", h, flags)
    return [*outputs, residual(w, "middle_block.2", h, emb, h.shape[1], flags)]


def unet(w: Weights, x: Tensor, t: Tensor, flags: Flags, y: Tensor | None = None) -> Tensor:
    """The output (B, 3 or 6, H, W) for x (B, 3, H, W), or with a low-resolution picture beside it (B, 6, H, W)."""
    emb = embed_time(w, t, flags)
    if flags.class_cond:
        assert y is not None
        emb = emb + w("label_emb.weight", flags.num_classes, 4 * flags.num_channels)[y]
    *skips, h = encoder(w, x, emb, flags)
    index = 0
    for level in range(len(flags.channel_mult) - 1, -1, -1):
        for block in range(flags.num_res_blocks + 1):
            name, layer = f"output_blocks.{index}", 1
            joined = torch.cat([h, skips.pop()], 1)
            h = residual(w, f"{name}.0", joined, emb, int(flags.channel_mult[level] * flags.num_channels), flags)
            if flags.image_size // 2**level in flags.attention_resolutions:
                h, layer = self_attention(w, f"{name}.1", h, flags), 2
            if level and block == flags.num_res_blocks:
                if flags.resblock_updown:
                    h = residual(w, f"{name}.{layer}", h, emb, h.shape[1], flags, double)
                else:
                    h = convolution(w, f"{name}.{layer}.conv", double(h), h.shape[1])
            index += 1
    return convolution(w, "out.2", swish(normalise(w, "out.0", h)), 6 if flags.learn_sigma else 3)


def classifier(w: Weights, x: Tensor, t: Tensor, flags: Flags) -> Tensor:
    """The logits (B, num_classes) of x (B, 3, H, W)."""
    outputs = encoder(w, x, embed_time(w, t, flags), flags)
    if flags.classifier_pool.startswith("spatial"):
        means = torch.cat([features.mean((2, 3)) for features in outputs], 1)
        hidden = dense(w, "out.0", means, 2048)
        if flags.classifier_pool == "spatial":
            return dense(w, "out.2", hidden.clamp(min=0), flags.num_classes)
        return dense(w, "out.3", swish(normalise(w, "out.1", hidden)), flags.num_classes)
    h = outputs[-1]
    if flags.classifier_pool == "adaptive":
        pooled = swish(normalise(w, "out.0", h)).mean((2, 3), keepdim=True)
        return convolution(w, "out.3", pooled, flags.num_classes, 1)[:, :, 0, 0]
    tokens = swish(normalise(w, "out.0", h)).flatten(2)
    tokens = torch.cat([tokens.mean(2, keepdim=True), tokens], 2)
    tokens = tokens + w("out.2.positional_embedding", *tokens.shape[1:])
    heads = tokens.shape[1] // flags.num_head_channels
    return attend(w, "out.2.qkv_proj", tokens, heads, True, "out.2.c_proj", flags.num_classes)[:, :, 0]


def state(flags: Flags, *, judge: bool = False, device: str = "meta", seed: int = 0) -> dict[str, Tensor]:
    """A state_dict of random weights with every tensor of a network."""
    generator = torch.Generator().manual_seed(seed)
    held: dict[str, Tensor] = {}

    def make(name: str, *shape: int) -> Tensor:
        if name not in held:
            if device == "meta":
                held[name] = torch.empty(shape, device=device)
            else:
                held[name] = 0.5 * torch.randn(shape, generator=generator) / math.sqrt(max(math.prod(shape[1:]), 1))
                if name.endswith(".weight") and len(shape) == 1:
                    held[name] += 1
        return held[name]

    size = flags.image_size
    x = torch.zeros(1, 6 if flags.upsampler else 3, size, size, device=device)
    t = torch.zeros(1, device=device)
    if judge:
        classifier(make, x, t, flags)
    else:
        unet(make, x, t, flags, torch.zeros(1, dtype=torch.int64, device=device))
    return held


def weights_of(tensors: dict[str, Tensor]) -> Weights:
    """Look up weights by name, and check their shapes."""

    def find(name: str, *shape: int) -> Tensor:
        assert tuple(tensors[name].shape) == shape
        return tensors[name]

    return find


SMALL = Flags(16, 32, (1, 2), 1, (8,), num_heads=4, num_classes=7)


def small(**changes: object) -> Flags:
    return replace(SMALL, **changes)  # type: ignore[arg-type]
