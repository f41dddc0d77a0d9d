"""Prompts through the text encoders of released models: CLIP and OpenCLIP in chunks, and T5, one or more, weighted.

A `Fragment` is a piece of a prompt and its weight; the plain prompt is one fragment of weight 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from guidegraph.graph.frozen_models import ExportRecipe
from guidegraph.nodes.checkpoints.lora_layers import text_layers
from guidegraph.nodes.models.released.layers import embed_sizes
from guidegraph.nodes.models.released.towers import ClipTower, Tower, TowerOutput
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition
from guidegraph_runtime.text.chunks import Fragment, make_chunk_tables

Prompt: TypeAlias = Sequence[Fragment]


@dataclass(frozen=True)
class PictureSize:
    """SDXL's size conditioning (Podell et al. 2023, section 2.2), in pixels: each pair is height, width.

    original: the size before scaling. crop: cut off at the top and at the left. target: the size to generate.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


class TowerText(nn.Module, ABC):
    """A `TextEmbedder` of text encoders, its towers; kinds differ in how they join their outputs.

    A prompt of more than one chunk gives the tokens of all its chunks, one after the other; shorter ones of the same
    batch are filled up with empty chunks, which a mask leaves out, so that a prompt draws the same in any batch.
    """

    def __init__(self, towers: Sequence[Tower]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    @abstractmethod
    def join(self, outputs: Sequence[TowerOutput], has_text: Tensor) -> Condition:
        """The condition of the outputs of all towers; has_text (B) is true where a prompt is not empty."""

    @property
    def models(self) -> list[nn.Module]:
        """The models of the towers."""
        towers: list[Any] = list(self.towers)
        return [tower.model for tower in towers]

    def adaptable_weights(self) -> dict[str, str]:
        """Names of its parameters by the names of their layers in LoRA files; an exported graph keeps both."""
        return text_layers(self.models)

    def forward(self, texts: Sequence[str]) -> Condition:
        """The condition of B texts."""
        return self.embed_weighted([[(text, 1.0)] for text in texts])

    def embed_weighted(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of B prompts in weighted fragments.

        Each token's embedding is multiplied by its weight; then all embeddings of the prompt are scaled by one number,
        so that their mean over tokens and width stays that without weights, except T5's. The pooled vector is not
        weighted.
        """
        towers: list[Any] = list(self.towers)
        device = next(self.parameters()).device
        arrays: list[Tensor] = []
        for table in make_chunk_tables([tower.chunker for tower in towers], prompts):
            arrays += [torch.from_numpy(table.ids).to(device), torch.from_numpy(table.weights).to(device)]
        has_text = torch.tensor([any(text for text, _ in prompt) for prompt in prompts], device=device)
        return self.embed(*arrays, has_text)

    def embed(self, *arrays: Tensor) -> Condition:
        """The condition of chunks: ids and weights (B, n, length) for each tower, and which texts are not empty (B)."""
        *chunks, has_text = arrays
        outputs: list[TowerOutput] = []
        towers: list[Any] = list(self.towers)
        for tower, ids, weights in zip(towers, chunks[::2], chunks[1::2], strict=True):
            out: TowerOutput = tower(ids)
            weights_of_tokens = weights.flatten(1).to(out.tokens.dtype)
            tokens = apply_weights(out.tokens, weights_of_tokens, out.mask, restore_mean=tower.restores_mean)
            outputs.append(out._replace(tokens=tokens))
        return self.join(outputs, has_text)

    def split(self) -> ExportRecipe | None:
        """How the runtime embeds texts: from their chunks. None if a tokenizer is written in Python."""
        towers: list[Any] = list(self.towers)
        settings = [tower.to_runtime() for tower in towers]
        if None in settings:
            return None
        outputs: dict[str, tuple[str | int, ...]] = {}
        for i, tower in enumerate(towers):
            count = 1 if tower.chunker.single else "N"
            outputs |= dict.fromkeys((f"ids_{i}", f"weights_{i}"), ("B", count, tower.length))
        return ExportRecipe(
            "text.chunks",
            {"prompt": "texts"},
            outputs | {"some": ("B",)},
            self.embed,
            {"towers": settings},
            beside="" if all(tower.chunker.single for tower in towers) else "beside",
        )


class ReleasedText(TowerText):
    """A `TextEmbedder` of one CLIP tower, or of two whose tokens are concatenated along the width (SDXL).

    With `size_width` there is a vector: the last tower's pooled vector, and with `size` the embedding of the picture's
    sizes, `size_width` for each number; without it, the denoiser adds the size of the picture that it draws.
    zero_empty: the empty prompt's tokens and pooled vector are zeros, as SDXL was trained.
    """

    def __init__(
        self,
        towers: Sequence[ClipTower],
        *,
        size: PictureSize | None = None,
        size_width: int | None = None,
        zero_empty: bool = False,
    ) -> None:
        super().__init__(towers)
        self.size = size
        self.size_width = size_width
        self.zero_empty = zero_empty

    def join(self, outputs: Sequence[TowerOutput], has_text: Tensor) -> Condition:
        """Tokens (B, n · length, D) with the mask of the chunks that count, and SDXL's vector (B, D)."""
        tokens, pooled = torch.cat([out.tokens for out in outputs], dim=2), outputs[-1].pooled
        assert pooled is not None
        mask = torch.stack([out.mask for out in outputs if out.mask is not None]).any(0)
        if self.zero_empty:
            tokens, pooled = tokens * has_text[:, None, None], pooled * has_text[:, None]
        if self.size_width is None:
            return Condition(tokens=tokens, mask=mask)
        if self.size is None:
            return Condition(vector=pooled, tokens=tokens, mask=mask)
        numbers = torch.tensor([*self.size.original, *self.size.crop, *self.size.target], dtype=torch.float32)
        sizes = embed_sizes(numbers, self.size_width).to(pooled).expand(has_text.shape[0], -1)
        return Condition(vector=torch.cat([pooled, sizes], dim=1), tokens=tokens, mask=mask)


def apply_weights(tokens: Tensor, weights: Tensor, mask: Tensor | None = None, *, restore_mean: bool = True) -> Tensor:
    """Multiply tokens (B, M, D) by weights (B, M), and restore each sample's mean; exact if all weights are 1.

    mask: (B, M), true for the tokens of which the mean is taken; by default all. A mean of 0 up to rounding, before or
    after, cannot be restored by a factor: such a sample is only weighted.
    """
    if has_values(weights) and bool((weights == 1).all()):
        return tokens
    heavier = tokens * weights[..., None]
    if not restore_mean:
        return heavier
    counted = 1.0 if mask is None else mask[..., None].float()
    before, after = ((each.float() * counted).mean((1, 2), keepdim=True) for each in (tokens, heavier))
    rounding = 1e-6 * (tokens.float().abs() * counted).mean((1, 2), keepdim=True)
    is_zero = (before.abs() <= rounding) | (after.abs() <= rounding)
    factor = torch.where(is_zero, 1.0, before / after)
    plain = (weights == 1).all(1)[:, None, None]
    return torch.where(plain, tokens, heavier * factor.to(tokens.dtype))
