"""Flux.1's text embedder: the pooled vector of CLIP, and the tokens of T5."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from guidegraph.nodes.models.released.prompt_embedder import TowerText
from guidegraph.nodes.models.released.towers import ClipTower, T5Tower, TowerOutput
from guidegraph.nodes.types import Condition


class FluxText(TowerText):
    """A `TextEmbedder` of two encoders: the vector of CLIP, and the tokens of T5."""

    def __init__(self, clip: ClipTower, t5: T5Tower) -> None:
        super().__init__([clip, t5])

    def join(self, outputs: Sequence[TowerOutput], has_text: Tensor) -> Condition:
        """Tokens (B, length, D) of T5, and the vector (B, D′) of CLIP."""
        return Condition(vector=outputs[0].pooled, tokens=outputs[1].tokens)
