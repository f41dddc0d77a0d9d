"""The text encoder: a word-level tokenizer and a small transformer, trained together with the denoiser."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.graph.frozen_models import ExportRecipe
from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
from guidegraph.nodes.models.own.layers import Attention, Downsample, FeedForward, ResidualBlock, group_norm
from guidegraph.nodes.shape_checks import check_sides
from guidegraph.nodes.types import Condition
from guidegraph_runtime.text.chunks import UNKNOWN, encode, warn_of_unknown_words

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


@dataclass(frozen=True)
class LabelConfig:
    """The number of classes, and the width of each vector."""

    classes: int = 10
    width: int = 128


class LabelModel(nn.Module):
    """A `LabelEmbedder`: class indices to a Condition with a vector; the index `classes` is the null condition."""

    def __init__(self, config: LabelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.classes + 1, config.width)

    @property
    def classes(self) -> int:
        return self.config.classes

    def forward(self, labels: Tensor) -> Condition:
        """The condition of labels (B), int64 in 0 … classes; a vector (B, width)."""
        return Condition(vector=self.embedding(labels.to(self.embedding.weight.device)))


@dataclass(frozen=True)
class VisionConfig:
    """Hyper-parameters of an ImageModel.

    width: of the vector and of each token. tokens: number of tokens made from the pooled features; 0 for a vector only.
    multipliers: width of each resolution in units of `channels`, finest first. patch: patch × patch pixels are folded
    into channels before the first convolution.
    """

    width: int = 128
    tokens: int = 0
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 3)
    patch: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))


class ImageModel(nn.Module):
    """An `ImageEmbedder`: convolutions, the mean over all positions, and linear maps to a vector and to tokens.

    The tokens are linear in the pooled features, as in IP-Adapter (Ye et al. 2023, section 3.2.1), so they hold no
    further information. All are normalised like a text encoder's; the vector of no picture is zero.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(3 * config.patch**2, width, 3, padding=1),
        ]
        for multiplier in config.multipliers:
            layers += [ResidualBlock(width, multiplier * config.channels), Downsample(multiplier * config.channels)]
            width = multiplier * config.channels
        layers += [ResidualBlock(width, width), ResidualBlock(width, width), group_norm(width), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width, (1 + config.tokens) * config.width)

    def forward(self, image: Tensor) -> Condition:
        """A condition with a vector (B, width) and, where the model has them, tokens (B, tokens, width).

        Pictures (B, 3, H, W) are in [-1, 1]; their sides are multiples of `patch`.
        """
        check_sides(image, self.config.patch, "the image embedder")
        pooled = self.features(image.to(self.head.weight.dtype)).mean((2, 3))
        outputs = self.head(pooled).unflatten(1, (-1, self.config.width))
        outputs = F.layer_norm(outputs, (self.config.width,)).to(image.dtype)
        return Condition(vector=outputs[:, 0], tokens=outputs[:, 1:] if self.config.tokens else None)


class ExtendedEmbedding(nn.Module):
    """An `nn.Embedding` whose table is `known` (N, C) above `added` (M, C), two parameters.

    Its state is the same as for an `nn.Embedding` of N + M rows: one tensor, `weight`.
    """

    def __init__(self, known: Tensor, added: Tensor) -> None:
        super().__init__()
        self.known = nn.Parameter(known, requires_grad=False)
        self.added = nn.Parameter(added, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The table (N + M, C)."""
        return torch.cat([self.known, self.added])

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight if keep_vars else self.weight.detach()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        _, _, missing, _, errors = arguments
        name = f"{prefix}weight"
        table = state_dict.get(name)
        if table is None:
            missing.append(name)
        elif table.shape != self.weight.shape:
            errors.append(f"size mismatch for {name}: {tuple(table.shape)}, expected {tuple(self.weight.shape)}")
        else:
            with torch.no_grad():
                for rows, saved in ((self.known, table[: len(self.known)]), (self.added, table[len(self.known) :])):
                    if not torch.equal(rows, saved):  # unchanged rows may be shared with another model
                        rows.copy_(saved)


class ExtendedTextModel(TextModel):
    """A `TextModel` with new words. frozen: training changes only their embeddings."""

    frozen = False

    def trainable_names(self) -> list[str]:
        """Names of the trainable parameters."""
        names = [name for name, _ in self.named_parameters()]
        return [name for name in names if name.endswith("token_embedding.added")] if self.frozen else names


def unknown_words(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """The words of texts that a tokenizer does not know, without duplicates, sorted."""
    vocabulary = tokenizer.get_vocab()
    words: set[str] = set()
    for text in texts:
        text = text.replace(UNKNOWN, " ")
        plain = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain))
    return sorted(word for word in words if word not in vocabulary)


def add_words(text: TextModel, words: list[str], *, seed: int, frozen: bool) -> ExtendedTextModel:
    """A copy of a text encoder with more words; it shares everything else.

    The new rows are drawn from a normal distribution with the mean and standard deviation of the existing words' rows.
    frozen: see `ExtendedTextModel`. Raises ``ValueError`` for a tokenizer that is not word-level.
    """
    settings = json.loads(text.tokenizer.to_str())
    if settings["model"]["type"] != "WordLevel":
        raise ValueError(
            f"words can be added to a tokenizer of whole words; this one is of kind {settings['model']['type']}, which "
            "spells any word out of pieces"
        )
    vocabulary = settings["model"]["vocab"]
    first = max(vocabulary.values()) + 1
    vocabulary.update({word: first + i for i, word in enumerate(words)})
    tokenizer = Tokenizer.from_str(json.dumps(settings))
    table = text.encoder.token_embedding.weight
    special = {text.tokenizer.token_to_id(token) for token in (PAD, START, UNKNOWN)}
    rows = table[[index for index in range(len(table)) if index not in special]].float()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(words), table.shape[1], generator=generator).to(table.device)
    added = (rows.mean(0) + noise * rows.std(0)).to(table.dtype)

    encoder = copy_sharing_tensors(text.encoder)
    encoder.config = replace(encoder.config, vocabulary=len(table) + len(words))
    encoder.token_embedding = ExtendedEmbedding(table.detach(), added)  # type: ignore[assignment]
    extended = ExtendedTextModel(encoder, tokenizer).eval()
    extended.frozen = frozen
    return extended
