"""Text embedders of flows and of PixArt: T5 alone, and CLIP's two encoders with T5 as Stable Diffusion 3 joins them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from guidegraph.nodes.models.released.prompt_embedder import TowerText
from guidegraph.nodes.models.released.towers import ChatTower, ClipTower, T5Tower, TowerOutput
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition


class T5Text(TowerText):
    """A `TextEmbedder` of T5 alone: tokens (B, length, D), with their mask (B, length) if padding does not count."""

    def __init__(self, tower: T5Tower) -> None:
        super().__init__([tower])

    def join(self, outputs: Sequence[TowerOutput], has_text: Tensor) -> Condition:
        return Condition(tokens=outputs[0].tokens, mask=outputs[0].mask)


class SD3Text(TowerText):
    """Stable Diffusion 3's `TextEmbedder` (Esser et al. 2024, arXiv:2403.03206, appendix B.3): CLIP twice, and T5.

    The tokens of both CLIP towers stand side by side, padded with zeros to the width of T5's; T5's follow them. The
    vector is both pooled vectors. width: of T5's tokens; length: their number. Without T5 they are zeros, as in the
    model's training, which left out each encoder at random.
    """

    def __init__(self, towers: Sequence[ClipTower], t5: T5Tower | None, *, width: int, length: int) -> None:
        super().__init__([*towers, *([] if t5 is None else [t5])])
        self.clip_count = len(towers)
        self.width = width
        self.length = length

    def join(self, outputs: Sequence[TowerOutput], has_text: Tensor) -> Condition:
        """Tokens (B, n · 77 + length, width), the mask of the chunks of CLIP that count, and the vector (B, D)."""
        clip = outputs[: self.clip_count]
        tokens = torch.cat([out.tokens for out in clip], dim=2)
        tokens = F.pad(tokens, (0, self.width - tokens.shape[2]))
        if len(outputs) > self.clip_count:
            t5_tokens = outputs[-1].tokens
        else:
            t5_tokens = tokens.new_zeros(tokens.shape[0], self.length, self.width)
        vector = torch.cat([out.pooled for out in clip if out.pooled is not None], dim=1)
        clip_mask = torch.stack([out.mask for out in clip if out.mask is not None]).any(0)
        mask = torch.cat([clip_mask, clip_mask.new_ones(t5_tokens.shape[:2])], dim=1)
        return Condition(vector=vector, tokens=torch.cat([tokens, t5_tokens], dim=1), mask=mask)


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


class FluxText(TowerText):
    """A `TextEmbedder` of two encoders: the vector of CLIP, and the tokens of T5."""

    def __init__(self, clip: ClipTower, t5: T5Tower) -> None:
        super().__init__([clip, t5])

    def join(self, outputs: Sequence[TowerOutput], has_text: Tensor) -> Condition:
        """Tokens (B, length, D) of T5, and the vector (B, D′) of CLIP."""
        return Condition(vector=outputs[0].pooled, tokens=outputs[1].tokens)
