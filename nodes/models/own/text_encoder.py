"""The text encoder: a word-level tokenizer and a small transformer, trained together with the denoiser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from guidegraph.graph.export_recipe import ExportRecipe
from guidegraph.nodes.models.own.layers import Attention, FeedForward
from guidegraph.nodes.types import Condition
from guidegraph_runtime.text.tokenizer import encode
from guidegraph_runtime.text.unknown_words import UNKNOWN, warn_of_unknown_words

PAD, START = "[PAD]", "[START]"


@dataclass(frozen=True)
class TextConfig:
    """Hyper-parameters of a TextEncoder. `length` counts the start token."""

    vocabulary: int
    width: int = 128
    layers: int = 3
    heads: int = 4
    length: int = 24


def build_tokenizer(words: Iterable[str], length: int = 24) -> Tokenizer:
    """Build a lower-case word-level tokenizer that starts every text with [START] and pads to `length`.

    The empty prompt is [START] alone: the learned null condition. "[UNK]" in a text stands for a word of no vocabulary.
    """
    vocabulary = {word: index for index, word in enumerate((PAD, START, UNKNOWN, *sorted(set(words))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.add_special_tokens([UNKNOWN])
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, vocabulary[START])]
    )
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=vocabulary[PAD], pad_token=PAD, length=length)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) int64 and the mask (B, L) bool, true where a token counts."""
    ids, mask = encode(tokenizer, texts)
    return torch.from_numpy(ids), torch.from_numpy(mask)


class TextLayer(nn.Module):
    """Pre-norm self-attention and feed-forward over (B, L, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, expansion=4)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm1(h)
        h = h + self.attention(normed, normed, mask)
        out: Tensor = h + self.feed_forward(self.norm2(h))
        return out


class TextEncoder(nn.Module):
    """Token ids to token features (B, L, C) and one vector (B, C), the start token's."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(config.length, config.width))
        self.layers = nn.ModuleList(TextLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h = self.token_embedding(ids) + self.position_embedding[: ids.shape[1]]
        for layer in self.layers:
            h = layer(h, mask)
        tokens = self.norm(h)
        return tokens, tokens[:, 0]


class TextModel(nn.Module):
    """A `TextEmbedder`: texts to a Condition with tokens, their mask and a vector."""

    def __init__(self, encoder: TextEncoder, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        if tokenizer.token_to_id(UNKNOWN) is None:
            raise ValueError(f"the tokenizer has no {UNKNOWN} token")

    def forward(self, texts: Sequence[str]) -> Condition:
        """The condition of B texts; an unknown word is embedded as [UNK], with a warning that names it."""
        ids, mask = tokenize(self.tokenizer, texts)
        warn_of_unknown_words(self.tokenizer, texts, ids.numpy())
        device = self.encoder.position_embedding.device
        return self.embed(ids.to(device), mask.to(device))

    def embed(self, ids: Tensor, mask: Tensor) -> Condition:
        """The condition of tokens (B, L) int64 that count where the mask (B, L) bool is true."""
        features, vector = self.encoder(ids, mask)
        return Condition(vector=vector, tokens=features, mask=mask)

    def split(self) -> ExportRecipe:
        """How the runtime embeds texts: from their tokens."""
        length = self.encoder.config.length
        axes = {"ids": ("B", length), "mask": ("B", length)}
        settings = {"tokenizer": self.tokenizer.to_str().encode()}
        return ExportRecipe("text.tokenize", {"prompt": "texts"}, axes, self.embed, settings)
