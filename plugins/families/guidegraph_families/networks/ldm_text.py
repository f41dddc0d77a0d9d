"""The text encoder that latent diffusion trained for its text-to-image model, under its released names."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.released.pretrained_text import PretrainedText
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition
from guidegraph_families.networks.layers import attend_heads


class SelfAttention(nn.Module):
    """Multi-head self-attention over (B, L, C); `inner` is the total width of all heads."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.Linear(inner, width)

    def forward(self, h: Tensor) -> Tensor:
        parts = (layer(h).unflatten(-1, (self.heads, -1)) for layer in (self.to_q, self.to_k, self.to_v))
        out: Tensor = self.to_out(attend_heads(*parts))
        return out


class LDMFeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(width, inner), nn.GELU()), nn.Identity(), nn.Linear(inner, width)
        )

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.net(h)
        return out


class PositionEmbedding(nn.Module):
    """A learned vector (L, C) for each position."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(length, width)


class Layers(nn.Module):
    """Alternating attention and feed-forward layers, each with a norm before it and a skip."""

    def __init__(self, count: int, width: int, attention: int, feed_forward: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(count):
            self.layers.append(nn.ModuleList([nn.LayerNorm(width), SelfAttention(width, attention, heads)]))
            self.layers.append(nn.ModuleList([nn.LayerNorm(width), LDMFeedForward(width, feed_forward)]))

    def forward(self, h: Tensor) -> Tensor:
        for pair in self.layers:
            norm, layer = list(pair)  # type: ignore[call-overload]
            h = h + layer(norm(h))
        return h


class LDMTransformer(nn.Module):
    """Token ids (B, L) int64 to features (B, L, C): a transformer in pre-norm form without a mask."""

    def __init__(
        self, vocabulary: int, length: int, count: int, width: int, attention: int, feed_forward: int, heads: int
    ) -> None:
        super().__init__()
        self.token_emb = nn.Embedding(vocabulary, width)
        self.pos_emb = PositionEmbedding(length, width)
        self.attn_layers = Layers(count, width, attention, feed_forward, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.token_emb(ids) + self.pos_emb.emb.weight[: ids.shape[1]]
        out: Tensor = self.norm(self.attn_layers(h))
        return out


class LDMText(PretrainedText):
    """A `TextEmbedder`: BERT's word pieces through the transformer; padding is attended to as well."""

    def __init__(self, model: LDMTransformer, tokenizer: Any) -> None:
        super().__init__(model, tokenizer, model.pos_emb.emb.num_embeddings)

    def embed(self, ids: Tensor, mask: Tensor) -> Condition:
        """tokens (B, length, C) of ids (B, length) int64; the mask is ignored."""
        return Condition(tokens=self.model(ids))


class ClassTokens(nn.Module):
    """A `LabelEmbedder` of a latent diffusion model with classes: each label as one token of cross-attention.

    null_class: the last label means none; otherwise no label does.
    """

    def __init__(self, count: int, width: int, null_class: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, width)
        self.null_class = null_class

    @property
    def classes(self) -> int:
        return self.embedding.num_embeddings - self.null_class

    def forward(self, labels: Tensor) -> Condition:
        """The condition of labels (B), int64: tokens (B, 1, C); the label `classes` means none.

        Raises ``ValueError`` for the label `classes` unless the model is known to have a null class.
        """
        count = self.embedding.num_embeddings
        if has_values(labels) and labels.numel() and int(labels.max()) >= count:
            raise ValueError(
                f"this model knows {count} classes, and which of them means none, if any, is not known: give labels of "
                f"0 … {count - 1}"
            )
        tokens = F.embedding(labels.to(self.embedding.weight.device), self.embedding.weight)
        return Condition(tokens=tokens[:, None])
