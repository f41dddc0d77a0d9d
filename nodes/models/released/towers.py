"""Text encoders with their tokenizers, the towers of a prompt: CLIP's, T5's and a chat's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from guidegraph.nodes.models.released.clip_text_model import ClipOutput, ClipTextModel
from guidegraph_runtime.text.chunks import Chunker

Hidden = Literal["last", "penultimate", "penultimate_normed"]


class TowerOutput(NamedTuple):
    """A tower's output: tokens (B, M, D), a pooled vector (B, D) of CLIP, and a mask (B, M) of those that count."""

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


class Tower(nn.Module, ABC):
    """A text model with its tokenizer of transformers; a call takes ids (B, n, length) int64 of n chunks."""

    restores_mean: bool
    """After weights, a prompt's tokens are scaled to the mean that they had."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @property
    @abstractmethod
    def chunker(self) -> Chunker:
        """Splits prompts into chunks."""

    def to_runtime(self) -> dict[str, Any] | None:
        """Settings of the runtime's operation for this tower; None if the tokenizer is written in Python."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        fast = Tokenizer.from_str(backend.to_str())
        fast.no_truncation()
        fast.no_padding()
        chunker = self.chunker
        return {
            "tokenizer": fast.to_str().encode(),
            "length": chunker.length,
            "start": chunker.start,
            "end": chunker.end,
            "pad": chunker.pad,
            "words": {word: list(ids) for word, ids in chunker.words.items()},
            "single": chunker.single,
        }


class ClipTower(Tower):
    """A CLIP text model with its tokenizer.

    hidden: which tokens to use: after the last layer and the final norm (Stable Diffusion 1), after the penultimate
    layer (SDXL), or that with the final norm (OpenCLIP in Stable Diffusion 2). pad: the id that fills a chunk.
    words: words added by `text.embedding`, each with its ids.
    """

    restores_mean = True

    def __init__(self, model: ClipTextModel, tokenizer: Any, hidden: Hidden, pad: int) -> None:
        super().__init__(model, tokenizer)
        self.hidden = hidden
        self.pad = pad
        self.words: dict[str, tuple[int, ...]] = {}

    @property
    def clip(self) -> ClipTextModel:
        """The text model."""
        return cast("ClipTextModel", self.model)

    @property
    def length(self) -> int:
        """Number of tokens of a chunk, including the start and end tokens."""
        return self.clip.config.max_position_embeddings

    @property
    def chunker(self) -> Chunker:
        """Splits prompts into chunks."""
        marks = (int(self.tokenizer.bos_token_id), int(self.tokenizer.eos_token_id))
        return Chunker(partial(tokenize, self.tokenizer), self.length, *marks, self.pad, self.words)

    def forward(self, ids: Tensor) -> TowerOutput:
        """Tokens (B, n · length, D), the pooled vector (B, D) of the first of n chunks, and a mask; ids (B, n, length).

        The mask leaves out the empty chunks that fill up a prompt to the length of the longest. The first chunk counts
        whole, with its padding, as the models were trained.
        """
        batch, count = ids.shape[:2]
        is_text = ids[:, :, 1] != int(self.tokenizer.eos_token_id)
        is_first = torch.arange(count, device=ids.device) == 0
        mask = (is_text | is_first)[:, :, None].expand(-1, -1, ids.shape[2]).flatten(1)
        out: ClipOutput = self.clip(ids.flatten(0, 1))
        tokens = out.tokens if self.hidden == "last" else out.penultimate
        if self.hidden == "penultimate_normed":
            tokens = self.clip.final_layer_norm(tokens)
        tokens = tokens.unflatten(0, (batch, count)).flatten(1, 2)
        return TowerOutput(tokens, out.pooled.unflatten(0, (batch, count))[:, 0], mask)


class T5Tower(Tower):
    """T5's encoder (Raffel et al. 2020, arXiv:1910.10683) with its tokenizer.

    Every prompt has `length` tokens: longer ones are cut, with a warning, shorter ones are padded. attend_padding:
    tokens attend to padding too, as in Stable Diffusion 3 and Flux; otherwise only to the prompt's own and its end.
    """

    restores_mean = False  # the last norm leaves no mean that could be restored

    def __init__(self, model: nn.Module, tokenizer: Any, length: int, *, attend_padding: bool) -> None:
        super().__init__(model, tokenizer)
        self.length = length
        self.attend_padding = attend_padding

    @property
    def width(self) -> int:
        """Width of its tokens."""
        model: Any = self.model
        return int(model.config.d_model)

    @property
    def chunker(self) -> Chunker:
        """Makes one chunk of a prompt: without a start token, and with the end token after the last one that fits."""
        end, pad = int(self.tokenizer.eos_token_id), int(self.tokenizer.pad_token_id)
        return Chunker(partial(tokenize, self.tokenizer), self.length, None, end, pad, single=True)

    def forward(self, ids: Tensor) -> TowerOutput:
        """Tokens (B, length, D) after the final norm, and the mask of the prompt and its end; ids (B, 1, length) int64.

        Without a mask, padding counts.
        """
        mask = None if self.attend_padding else mask_padding(ids[:, 0], int(self.tokenizer.pad_token_id))
        out = self.model(input_ids=ids[:, 0], attention_mask=None if mask is None else mask.long())
        return TowerOutput(out.last_hidden_state, mask=mask)


class ChatTower(Tower):
    """A causal language model of transformers with its tokenizer.

    before, after: what stands around a prompt in a chat. Every prompt has `length` tokens with them: longer ones are
    cut, with a warning, shorter ones are padded at the end, where the prompt's tokens do not see the padding.
    """

    restores_mean = False  # the mean would be that of the padding too

    def __init__(self, model: nn.Module, tokenizer: Any, length: int, before: str, after: str) -> None:
        super().__init__(model, tokenizer)
        self.length = length
        self.before = before
        self.after = after

    @property
    def width(self) -> int:
        """Width of its tokens."""
        model: Any = self.model
        return int(model.config.hidden_size)

    @property
    def chunker(self) -> Chunker:
        """Makes one chunk of a prompt, with the tokens before and after it."""
        start, end = (tokenize(self.tokenizer, text) for text in (self.before, self.after))
        pad = int(self.tokenizer.pad_token_id)
        return Chunker(partial(tokenize, self.tokenizer), self.length, start, end, pad, single=True)

    def forward(self, ids: Tensor) -> TowerOutput:
        """Tokens (B, length, D) before the last layer, and the mask of those but padding; ids (B, 1, length) int64."""
        row = ids[:, 0]
        out = self.model(input_ids=row, output_hidden_states=True, use_cache=False)
        return TowerOutput(out.hidden_states[-2], mask=mask_padding(row, int(self.tokenizer.pad_token_id)))


def mask_padding(ids: Tensor, pad: int) -> Tensor:
    """Whether ids (B, L) int64 are not the padding at the end of their rows: (B, L) bool.

    A prompt can spell out the token of padding, which counts before the prompt's end, as in transformers.
    """
    index = torch.arange(ids.shape[1], device=ids.device)
    last = torch.where(ids != pad, index, -1).amax(1, keepdim=True)
    return index <= last


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text, without marks, by a tokenizer of transformers."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
