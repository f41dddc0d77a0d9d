"""Prompts as the message of a chat through a language model, whose hidden states are the tokens: Z-Image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from guidegraph.nodes.models.released.prompt_embedder import TowerText
from guidegraph.nodes.models.released.towers import ChatTower, TowerOutput
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition


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
