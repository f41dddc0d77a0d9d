"""Layers of Flux; their parameters have the names of the released files of Black Forest Labs.

Token sequences are (B, N, C). An embedding (B, C) holds what all tokens are told: t, the pooled text and the guidance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.graph.hardware.policy import CPU_POLICY
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.embeddings import timestep_embedding
from guidegraph.nodes.models.networks.hooks import Attend, AttentionLayer
from guidegraph.nodes.models.transformers.layers import WAVES, modulate, normalise_rms, rotate_pairs
from guidegraph.nodes.shape_checks import has_values, is_transformed

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
