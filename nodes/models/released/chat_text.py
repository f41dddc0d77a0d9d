"""Prompts as the message of a chat through a language model, whose hidden states are the tokens: Z-Image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from guidegraph.nodes.models.released.prompt_embedder import TowerText
from guidegraph.nodes.models.released.towers import TowerOutput, chunk_settings, tokenize
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition
from guidegraph_runtime.text.chunks import Chunker


class ChatTower(nn.Module):
    """A causal language model of transformers with its tokenizer.

    before, after: what stands around a prompt in a chat. Every prompt has `length` tokens with them: longer ones are
    cut, with a warning, shorter ones are padded at the end, where the prompt's tokens do not see the padding.
    """

    restores_mean = False
    """The mean would be that of the padding too."""

    def __init__(self, model: nn.Module, tokenizer: Any, length: int, before: str, after: str) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
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
        """Makes one chunk of a prompt, with what stands around it."""
        start, end = (tokenize(self.tokenizer, text) for text in (self.before, self.after))
        pad = int(self.tokenizer.pad_token_id)
        return Chunker(partial(tokenize, self.tokenizer), self.length, start, end, pad, single=True)

    def to_runtime(self) -> dict[str, Any] | None:
        """Settings of the runtime's operation for this tower; None if the tokenizer is written in Python."""
        return chunk_settings(self.tokenizer, self.chunker)

    def forward(self, ids: Tensor) -> TowerOutput:
        """Tokens (B, length, D) before the last layer, and the mask of those but padding; ids (B, 1, length) int64."""
        row = ids[:, 0]
        out = self.model(input_ids=row, output_hidden_states=True, use_cache=False)
        return TowerOutput(out.hidden_states[-2], mask=row != int(self.tokenizer.pad_token_id))


class ChatText(TowerText):
    """A `TextEmbedder` of a language model alone: tokens (B, L, D) with their mask, L of the longest prompt."""

    def __init__(self, tower: ChatTower) -> None:
        super().__init__([tower])

    def join(self, outputs: Sequence[TowerOutput], has_text: Tensor) -> Condition:
        tokens, mask = outputs[0].tokens, outputs[0].mask
        assert mask is not None
        if has_values(mask):
            longest = int(mask.sum(1).max())
            tokens, mask = tokens[:, :longest], mask[:, :longest]
        return Condition(tokens=tokens, mask=mask)
