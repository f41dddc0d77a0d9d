"""Pretrained text encoders from transformers: MiniLM sentence embeddings and CLIP's text model."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.graph.frozen_models import ExportRecipe
from guidegraph.graph.trust.file_checks import require_regular_files
from guidegraph.nodes.types import Condition

Hidden = Literal["last", "penultimate"]


def from_folder(kind: Any, folder: Path) -> Any:
    """Load a model or tokenizer of transformers from a folder, never from the network. Raises ``ValueError``."""
    if not folder.is_dir():
        raise ValueError(f"'{folder}' is not a folder: give one that transformers' save_pretrained wrote")
    require_regular_files(folder)
    try:
        with hide_progress_bar():
            return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"'{folder}' holds no {kind.__name__} that transformers can read: {error}") from error


def tokenizer_from_folder(kind: Any, folder: Path, count: int) -> Any:
    """Load a tokenizer of transformers from a folder, for a text encoder with `count` tokens. Raises ``ValueError``.

    Without a vocabulary in the folder, transformers would make a tokenizer that maps every word to one token.
    """
    file_names: dict[str, str] = getattr(kind, "vocab_files_names", {})
    single_file = file_names.get("tokenizer_file", "tokenizer.json")
    parts = [name for role, name in file_names.items() if role != "tokenizer_file"]
    missing = [] if (folder / single_file).is_file() else [name for name in parts if not (folder / name).is_file()]
    if missing and folder.is_dir():
        raise ValueError(f"'{folder}' holds no whole tokenizer: it needs {' and '.join(parts)}, or {single_file}")
    tokenizer = from_folder(kind, folder)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if not set(vocabulary) - set(tokenizer.all_special_tokens):
        raise ValueError(f"the tokenizer in '{folder}' knows no words: give the one that the text encoder came with")
    if max(vocabulary.values()) >= count:
        raise ValueError(
            f"the tokenizer in '{folder}' is for another text encoder: its tokens go up to "
            f"{max(vocabulary.values())}, and this one knows {count}"
        )
    return tokenizer


@contextmanager
def hide_progress_bar() -> Iterator[None]:
    """Hide the progress bar of transformers, which would overwrite ours."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


class PretrainedText(nn.Module, ABC):
    """Base of both encoders: pads texts to `length` tokens, and truncates longer ones with a warning."""

    def __init__(self, model: nn.Module, tokenizer: Any, length: int) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.length = length

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids (B, length) int64 and a mask (B, length) bool, true for tokens, on the model's device."""
        encoded = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        uncut = self.tokenizer(list(texts))["input_ids"]
        for text, ids in zip(texts, uncut, strict=True):
            if len(ids) > self.length:
                warnings.warn(f"{len(ids)} tokens, cut to {self.length}: '{text:.60}…'", stacklevel=3)
        device = next(self.model.parameters()).device
        return encoded["input_ids"].to(device), encoded["attention_mask"].bool().to(device)

    def forward(self, texts: Sequence[str]) -> Condition:
        """The condition of B texts, as `embed` gives it."""
        return self.embed(*self.tokenize(texts))

    @abstractmethod
    def embed(self, ids: Tensor, mask: Tensor) -> Condition:
        """The condition of tokens (B, length) int64 that count where the mask (B, length) bool is true."""

    def split(self) -> ExportRecipe | None:
        """How the runtime embeds texts: from their tokens. None if the tokenizer is written in Python."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        fast = Tokenizer.from_str(backend.to_str())
        fast.enable_truncation(self.length)
        fast.enable_padding(
            length=self.length, pad_id=int(self.tokenizer.pad_token_id), pad_token=str(self.tokenizer.pad_token)
        )
        axes = {"ids": ("B", self.length), "mask": ("B", self.length)}
        return ExportRecipe(
            "text.tokenize", {"prompt": "texts"}, axes, self.embed, {"tokenizer": fast.to_str().encode()}
        )


class SentenceText(PretrainedText):
    """A `TextEmbedder` of the sentence-transformers kind (Reimers & Gurevych 2019): mean pooling, unit length."""

    def embed(self, ids: Tensor, mask: Tensor) -> Condition:
        """tokens (B, length, D), their mask, and the sentence's vector (B, D) of unit length."""
        tokens = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        counted = mask[..., None].to(tokens.dtype)
        mean = (tokens * counted).sum(1) / counted.sum(1)
        return Condition(vector=F.normalize(mean, dim=1), tokens=tokens, mask=mask)


class ClipText(PretrainedText):
    """A `TextEmbedder` of CLIP's text model (Radford et al. 2021, section 2.4)."""

    def __init__(self, model: nn.Module, tokenizer: Any, length: int, hidden: Hidden, attend_padding: bool) -> None:
        super().__init__(model, tokenizer, length)
        self.hidden = hidden
        self.attend_padding = attend_padding

    def embed(self, ids: Tensor, mask: Tensor) -> Condition:
        """tokens (B, length, D) of the chosen layer after the final norm, their mask, and the pooled vector (B, D)."""
        out = self.model(
            input_ids=ids, output_hidden_states=True
        )  # causal: the padding does not change the tokens before it
        tokens: Tensor = out.last_hidden_state
        if self.hidden == "penultimate":
            trunk: Any = getattr(self.model, "text_model", self.model)  # one level deeper in transformers 4
            tokens = trunk.final_layer_norm(out.hidden_states[-2])
        if self.attend_padding:
            mask = torch.ones_like(mask)
        return Condition(vector=out.pooler_output, tokens=tokens, mask=mask)
