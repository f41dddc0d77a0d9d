"""Flux.1 (Black Forest Labs, 2024): a transformer over packed patches and a text's tokens.

At first picture and text have weights of their own, as in an MMDiT; then they are one sequence. Their paper is about
Kontext, arXiv:2506.15742, section 3; the parameters have the names of the released files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.graph.hardware.policy import CPU_POLICY
from guidegraph.nodes.checkpoints.filling import LayerRows
from guidegraph.nodes.guidance.hooks import Rule, Site, SiteKind
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.embeddings import timestep_embedding
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Attend, AttentionLayer, Hooks
from guidegraph.nodes.models.transformers.denoiser import TransformerDenoiser
from guidegraph.nodes.models.transformers.layers import (
    WAVES,
    axis_angles,
    check_axis_widths,
    modulate,
    normalise_rms,
    patch_places,
    rotate_pairs,
    turns_of,
)
from guidegraph.nodes.shape_checks import expand_to_batch, has_values, is_transformed
from guidegraph.nodes.types import PredictionKind, Scale

SITE_KINDS: tuple[SiteKind, ...] = ("input", "joint", "skip", "feature")
"""The sites of a block."""

PATCH = 2
"""The side of a patch of every release."""

ROTARY_BASE = 10_000.0
GUIDANCE_FACTOR = 1000.0
"""The guidance scale is embedded as times are, on an axis of 0 … 1000."""


@dataclass(frozen=True)
class FluxConfig:
    """Hyper-parameters of a Flux.

    in_channels: of x; spatial_channels: of the spatial condition, concatenated to x (Canny, Depth, Fill).
    patch: side of a patch. width: of a token; depth: blocks with two streams; single_depth: blocks with one; hidden:
    width of the feed-forwards. context_dim: width of the condition's tokens; vector_dim: of its vector. axes: the
    values of a head that turn by the place of a picture, by row and by column. guidance: is told a guidance scale, for
    which it was distilled. kind: the prediction.
    """

    in_channels: int = 16
    spatial_channels: int = 0
    patch: int = 2
    width: int = 3072
    depth: int = 19
    single_depth: int = 38
    heads: int = 24
    hidden: int = 12288
    context_dim: int = 4096
    vector_dim: int = 768
    axes: tuple[int, int, int] = (16, 56, 56)
    guidance: bool = True
    kind: PredictionKind = "flow"

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))
        check_axis_widths("a Flux", self.axes, self.width, self.heads)

    @property
    def out_channels(self) -> int:
        """As many as x has."""
        return self.in_channels

    @property
    def factor(self) -> int:
        """The sides of x are multiples of this."""
        return self.patch


class Flux(nn.Module):
    """The transformer of Flux.1."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config = config
        width, area = config.width, config.patch**2
        self.img_in = nn.Linear(area * (config.in_channels + config.spatial_channels), width)
        self.time_in = NumberEmbedder(width)
        self.vector_in = VectorEmbedder(config.vector_dim, width)
        self.guidance_in = NumberEmbedder(width) if config.guidance else None
        self.txt_in = nn.Linear(config.context_dim, width)
        shape = (width, config.heads, config.hidden)
        self.double_blocks = nn.ModuleList(DoubleBlock(*shape) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(SingleBlock(*shape) for _ in range(config.single_depth))
        self.final_layer = PackedHead(width, area * config.out_channels)
        blocks = range(config.depth + config.single_depth)
        self.sites = tuple(Site(kind, "block", i) for i in blocks for kind in SITE_KINDS)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of the computation."""
        return next(self.parameters()).dtype

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        tokens: Tensor,
        vector: Tensor,
        guidance: Tensor | None = None,
        mask: Tensor | None = None,
        spatial: Tensor | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Tensor:
        """Output (B, C, H, W) for x (B, C, H, W) at times t (B) in 0 … 1000.

        tokens (B, L, D) with mask (B, L), true where a token counts; vector (B, D), the pooled text; guidance (B), the
        scale that a distilled network is told; spatial (B, C′, H, W), concatenated to x along the channels.
        """
        patch, double = self.config.patch, len(self.double_blocks)
        size = (x.shape[2] // patch, x.shape[3] // patch)
        h = self.img_in(pack(x if spatial is None else torch.cat([x, spatial], dim=1), patch))
        text: Tensor = self.txt_in(tokens)
        embedding = self.time_in(t) + self.vector_in(vector)
        if self.guidance_in is not None and guidance is not None:
            embedding = embedding + self.guidance_in(GUIDANCE_FACTOR * guidance)
        places = patch_places(size, x.device)  # those of a text's tokens are zero
        places = torch.cat([places, places.new_zeros(text.shape[1], 3)])
        turns = turns_of(axis_angles(places, self.config.axes, ROTARY_BASE))
        keys = None if mask is None else torch.cat([mask.new_ones(h.shape[:2]), mask], dim=1)
        for index, block in enumerate(self.double_blocks):
            attend = hooks.attend(Site("joint", "block", index), size)
            entered = hooks.input_tokens(Site("input", "block", index), h, size)
            change, text_change = block(entered, text, embedding, turns, keys, attend)
            h, text = hooks.block(index, h, change, size), clip_half(hooks.text_block(index, text, text_change))
        for index, block in enumerate(self.single_blocks, double):
            joined = torch.cat([hooks.input_tokens(Site("input", "block", index), h, size), text], dim=1)
            change = block(joined, embedding, turns, keys, hooks.attend(Site("joint", "block", index), size))
            h = clip_half(hooks.block(index, h, change[:, : h.shape[1]], size))
            if index + 1 < len(self.single_blocks) + double:  # nothing uses the text after the last block
                text = clip_half(hooks.text_block(index, text, change[:, h.shape[1] :]))
        return unpack(self.final_layer(h, embedding), size, patch)

    def list_lora_layers(self) -> dict[str, LayerRows]:
        """Its layers by their names in diffusers, for LoRA files."""
        return flux_layers(self.config)


class FluxDenoiser(TransformerDenoiser):
    """The `NetworkDenoiser` of a Flux; tokens that the mask of a text leaves out do not count.

    guidance: the scale that a distilled network is told, one number or a tensor (1) or (B).
    """

    network: Flux

    def __init__(
        self, network: nn.Module, rules: Mapping[Site, Rule] | None = None, guidance: Scale | None = None
    ) -> None:
        super().__init__(network, rules)
        self.guidance = guidance

    @property
    def config(self) -> FluxConfig:
        return self.network.config

    def with_guidance(self, scale: Scale) -> Self:
        """A denoiser with the same network, told another scale; itself if the network is told none."""
        if not self.config.guidance:
            return self
        copied = self._copy_with(self.hooks.rules)
        copied.guidance = scale
        return copied

    def _copy_with(self, rules: Mapping[Site, Rule]) -> Self:
        copied = super()._copy_with(rules)
        copied.guidance = self.guidance
        return copied

    def extra_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """The guidance scale of each sample. Raises ``ValueError`` if a distilled network is told none."""
        if not self.config.guidance:
            return {}
        if self.guidance is None:
            raise ValueError(
                "this denoiser was distilled from one with guidance and must be told a scale: use "
                "denoiser.predict_distilled, or wire it through denoiser.distilled"
            )
        scale = torch.as_tensor(self.guidance, dtype=torch.float32, device=x.device)
        return {"guidance": expand_to_batch(scale if scale.ndim else scale[None], x.shape[0], "the guidance scale")}


LAYERS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
DOUBLE_LAYERS = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
SINGLE_LAYERS = {"norm.linear": "modulation.lin", "proj_out": "linear2"}


def flux_layers(config: FluxConfig) -> dict[str, LayerRows]:
    """The network's layers by their names in diffusers."""
    layers = {theirs: LayerRows(ours) for theirs, ours in LAYERS.items()}
    layers["norm_out.linear"] = LayerRows("final_layer.adaLN_modulation.1", swapped=True)  # scale before shift
    for index in range(config.depth):
        layers |= dict(_double_layers(f"transformer_blocks.{index}", f"double_blocks.{index}", config.width))
    for index in range(config.single_depth):
        layers |= dict(_single_layers(f"single_transformer_blocks.{index}", f"single_blocks.{index}", config))
    return layers


def _double_layers(theirs: str, ours: str, width: int) -> Iterator[tuple[str, LayerRows]]:
    for name, layer in DOUBLE_LAYERS.items():
        yield f"{theirs}.{name}", LayerRows(f"{ours}.{layer}")
    for number, letter in enumerate("qkv"):
        rows = (number * width, width)
        yield f"{theirs}.attn.to_{letter}", LayerRows(f"{ours}.img_attn.qkv", *rows)
        yield f"{theirs}.attn.add_{letter}_proj", LayerRows(f"{ours}.txt_attn.qkv", *rows)


def _single_layers(theirs: str, ours: str, config: FluxConfig) -> Iterator[tuple[str, LayerRows]]:
    for name, layer in SINGLE_LAYERS.items():
        yield f"{theirs}.{name}", LayerRows(f"{ours}.{layer}")
    for number, letter in enumerate("qkv"):
        yield f"{theirs}.attn.to_{letter}", LayerRows(f"{ours}.linear1", number * config.width, config.width)
    yield f"{theirs}.proj_mlp", LayerRows(f"{ours}.linear1", 3 * config.width, config.hidden)


Projected = tuple[Tensor, Tensor, Tensor]
"""Query, key and value, each (B, heads, N, D)."""


class VectorLinear(nn.Linear):
    """A `Linear` of an embedding (B, C): a product with a vector where the device's policy has it (`policy.py`).

    With gradients, while tracing, under transforms and with autocast it is `Linear`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) to (B, C′), as `Linear`, up to rounding from another order of sums."""
        if not self._multiplies_by_vector(x):
            return super().forward(x)
        return torch.addmv(self.bias, self.weight, x[0])[None]

    def _multiplies_by_vector(self, x: Tensor) -> bool:
        weight = self.weight
        return (
            x.device.type == "cpu"
            and weight.device.type == "cpu"
            and has_values(x)
            and x.ndim == 2
            and type(weight) in (Tensor, nn.Parameter)
            and x.dtype == weight.dtype
            and x.shape[1] == weight.shape[1]
            and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
            and not torch.is_autocast_enabled("cpu")
            and CPU_POLICY.multiplies_by_vector(x.dtype, x.shape[0])
            and not is_transformed()
        )


class VectorEmbedder(nn.Module):
    """Linear, SiLU, linear: a vector (B, D) as an embedding (B, C)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.in_layer = VectorLinear(inputs, width)
        self.out_layer = VectorLinear(width, width)

    def forward(self, vector: Tensor) -> Tensor:
        embedding: Tensor = self.out_layer(F.silu(self.in_layer(vector)))
        return embedding


class NumberEmbedder(VectorEmbedder):
    """The embedding (B, C) of numbers (B) up to about 1000: a time, or 1000 times a guidance scale."""

    def __init__(self, width: int) -> None:
        super().__init__(WAVES, width)

    def forward(self, number: Tensor) -> Tensor:
        return super().forward(timestep_embedding(number, WAVES).to(next(self.parameters()).dtype))


class ScaleNorm(nn.Module):
    """The `HeadNorm` of each head's queries or keys (…, D), whose parameter Flux names `scale`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return normalise_rms(x, self.scale)


class QueryKeyNorm(nn.Module):
    """The norms of the queries and of the keys of an attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm = ScaleNorm(width)
        self.key_norm = ScaleNorm(width)

    def split(self, qkv: Tensor, heads: int) -> Projected:
        """Split projected tokens (B, N, 3C) into heads, and normalise queries and keys."""
        query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
        return self.query_norm(query), self.key_norm(key), value


class EmbeddingModulation(nn.Module):
    """Shifts, scales and gates (B, 1, C) of an embedding (B, C)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.lin = VectorLinear(width, parts * width)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        output: Tensor = self.lin(F.silu(embedding))
        return output[:, None].chunk(self.parts, dim=2)


class StreamAttention(AttentionLayer):
    """The projections of one stream's tokens (B, N, C) for the attention of both streams."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = QueryKeyNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def project(self, h: Tensor) -> Projected:
        return self.norm.split(self.qkv(h), self.heads)

    def merge(self, attended: Tensor) -> Tensor:
        """Attended values (B, heads, N, D) as tokens (B, N, C)."""
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out


class DoubleBlock(nn.Module):
    """Attention over the picture's and the text's tokens together; each stream has its own weights."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.img_mod = EmbeddingModulation(width, 6)
        self.img_attn = StreamAttention(width, heads)
        self.img_mlp = feed_forward(width, hidden)
        self.txt_mod = EmbeddingModulation(width, 6)
        self.txt_attn = StreamAttention(width, heads)
        self.txt_mlp = feed_forward(width, hidden)

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        embedding: Tensor,
        turns: Tensor,
        mask: Tensor | None = None,
        attend: Attend = attention,
    ) -> tuple[Tensor, Tensor]:
        """The changes to add to the picture (B, N, C) and to the text (B, L, C).

        turns: of the N + L queries and keys, from `turns_of`; mask (B, N + L) is true where a key may be attended to.
        """
        img, txt = self.img_mod(embedding), self.txt_mod(embedding)
        of_picture = self.img_attn.project(modulate(x, img[0], img[1]))
        of_text = self.txt_attn.project(modulate(text, txt[0], txt[1]))
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(of_picture, of_text, strict=True))
        attended = attend(rotate_pairs(query, turns), rotate_pairs(key, turns), value, mask)
        count = x.shape[1]
        change = _compute_change(x, self.img_attn.merge(attended[:, :, :count]), img, self.img_mlp)
        return change, _compute_change(text, self.txt_attn.merge(attended[:, :, count:]), txt, self.txt_mlp)


class SingleBlock(AttentionLayer):
    """Attention and feed-forward side by side, over the tokens of picture and text in one sequence."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.widths = heads, (3 * width, hidden)
        self.modulation = EmbeddingModulation(width, 3)
        self.linear1 = nn.Linear(width, 3 * width + hidden)
        self.linear2 = nn.Linear(width + hidden, width)
        self.norm = QueryKeyNorm(width // heads)

    def forward(
        self, h: Tensor, embedding: Tensor, turns: Tensor, mask: Tensor | None = None, attend: Attend = attention
    ) -> Tensor:
        """The change to add to tokens (B, N + L, C)."""
        shift, scale, gate = self.modulation(embedding)
        qkv, fed = self.linear1(modulate(h, shift, scale)).split(self.widths, dim=2)
        query, key, value = self.norm.split(qkv, self.heads)
        attended = attend(rotate_pairs(query, turns), rotate_pairs(key, turns), value, mask)
        joined = torch.cat([attended.transpose(1, 2).flatten(2), F.gelu(fed, approximate="tanh")], dim=2)
        change: Tensor = gate * self.linear2(joined)
        return change


class PackedHead(nn.Module):
    """Tokens (B, N, C) as packed patches (B, N, outputs), after an adaptive norm."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), VectorLinear(width, 2 * width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(embedding)[:, None].chunk(2, dim=2)
        patches: Tensor = self.linear(modulate(h, shift, scale))
        return patches


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    """Build the layers linear, GELU (its tanh form), linear over tokens (B, N, C)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


def pack(x: Tensor, patch: int) -> Tensor:
    """A picture (B, C, H, W) as tokens (B, H W / patch², C · patch²), row by row; channels vary slowest in a token."""
    grid = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, h, p, w, p)
    tokens: Tensor = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return tokens


def unpack(tokens: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """Tokens (B, h · w, C · patch²) as the picture (B, C, h · patch, w · patch) that `pack` took."""
    grid = tokens.unflatten(2, (-1, patch, patch)).unflatten(1, size)  # (B, h, w, C, p, p)
    picture: Tensor = grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return picture


def clip_half(h: Tensor) -> Tensor:
    """Tokens (B, N, C), in float16 without infinities: the released weights exceed its range, mostly in the text."""
    largest = torch.finfo(torch.float16).max
    return h.clamp(-largest, largest) if h.dtype is torch.float16 else h


def _compute_change(h: Tensor, attended: Tensor, parts: tuple[Tensor, ...], mlp: nn.Sequential) -> Tensor:
    """The change (B, N, C) by attended tokens (B, N, C) and the feed-forward after them."""
    change = parts[2] * attended
    return torch.addcmul(change, parts[5], mlp(modulate(h + change, parts[3], parts[4])))
