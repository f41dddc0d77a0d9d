"""New words of a text encoder: rows added to its embedding table, trained with or without the existing rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
from guidegraph.nodes.models.own.text_encoder import PAD, START, TextModel
from guidegraph_runtime.text.unknown_words import UNKNOWN


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
