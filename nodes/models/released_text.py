"""Prompts through the text encoders of released models: CLIP and OpenCLIP in chunks, one encoder or two, weighted.

A `Fragment` is a piece of a prompt and its weight; the plain prompt is one fragment of weight 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from guidegraph.nodes.models.layers import timestep_embedding
from guidegraph.nodes.types import Condition

Fragment: TypeAlias = tuple[str, float]
Prompt: TypeAlias = Sequence[Fragment]
Hidden = Literal["last", "penultimate", "penultimate_normed"]


class Tower(nn.Module):
    """A CLIP text model of transformers with its tokenizer.

    hidden: the tokens are those after the last layer and the final norm (Stable Diffusion 1), after the layer before
    the last (SDXL), or those and the final norm (OpenCLIP's in Stable Diffusion 2). pad: the id that fills a chunk.
    words: what `text.embedding` taught it, each with the ids that it stands for.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, hidden: Hidden, pad: int) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.hidden = hidden
        self.pad = pad
        self.words: dict[str, tuple[int, ...]] = {}

    @property
    def trunk(self) -> Any:
        """The module that holds embeddings, layers and norm: transformers 4 has it one level further down."""
        return getattr(self.model, "text_model", self.model)

    @property
    def length(self) -> int:
        """How many tokens the model sees at once, the two that mark start and end among them."""
        return int(self.trunk.embeddings.position_embedding.num_embeddings)

    def tokens(self, prompt: Prompt) -> list[tuple[int, float]]:
        """The ids of a prompt with their weights, without marks of start and end."""
        found: list[tuple[int, float]] = []
        for text, weight in prompt:
            for piece in self._pieces(text):
                ids = (
                    self.words.get(piece) or self.tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
                )
                found += [(int(token), weight) for token in ids]
        return found

    def _pieces(self, text: str) -> list[str]:
        """A text cut at the words that the tower was taught."""
        if not self.words:
            return [text]
        known = "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        return [piece for piece in re.split(rf"(?<!\w)({known})(?!\w)", text) if piece]

    def chunks(self, prompt: Prompt) -> list[list[tuple[int, float]]]:
        """A prompt as chunks of `length` − 2 tokens, at least one, each marked and padded to `length`."""
        tokens, inside = self.tokens(prompt), self.length - 2
        start, end = (int(self.tokenizer.bos_token_id), 1.0), (int(self.tokenizer.eos_token_id), 1.0)
        cut = [tokens[at : at + inside] for at in range(0, max(len(tokens), 1), inside)]
        return [[start, *part, end, *[(self.pad, 1.0)] * (inside - len(part))] for part in cut]

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, n · length, D) and the pooled vector (B, D) of the first of n chunks; ids (B, n, length) int64."""
        batch, count = ids.shape[:2]
        out = self.model(input_ids=ids.flatten(0, 1), output_hidden_states=self.hidden != "last")
        tokens: Tensor = out.last_hidden_state if self.hidden == "last" else out.hidden_states[-2]
        if self.hidden == "penultimate_normed":
            tokens = self.trunk.final_layer_norm(tokens)
        projected = getattr(out, "text_embeds", None)
        pooled: Tensor = out.pooler_output if projected is None else projected
        return tokens.unflatten(0, (batch, count)).flatten(1, 2), pooled.unflatten(0, (batch, count))[:, 0]


@dataclass(frozen=True)
class PictureSize:
    """What SDXL is told of a picture (Podell et al. 2023, section 2.2), in pixels: each pair is height, width.

    original: the size before it was scaled. crop: how much was cut at the top and at the left. target: the size wanted.
    """

    original: tuple[int, int] = (1024, 1024)
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] = (1024, 1024)

    def embedding(self, width: int) -> Tensor:
        """The Fourier embedding (1, 6 · width), float32, of the six numbers, in order."""
        numbers = torch.tensor([*self.original, *self.crop, *self.target], dtype=torch.float32)
        return timestep_embedding(numbers, width).reshape(1, -1)


class ReleasedText(nn.Module):
    """A `TextEmbedder` of one tower, or of two whose tokens stand side by side along the width (SDXL).

    A prompt of more than one chunk gives the tokens of all its chunks, one after the other; shorter ones of the same
    batch are filled up with empty chunks. With `size` there is a vector: the last tower's pooled one and the embedding
    of the picture's sizes, `size_width` for each number. zero_empty: the empty prompt's tokens and pooled vector are
    zeros, as SDXL was trained.
    """

    def __init__(
        self,
        towers: Sequence[Tower],
        *,
        size: PictureSize | None = None,
        size_width: int = 256,
        zero_empty: bool = False,
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)
        self.size = size
        self.size_width = size_width
        self.zero_empty = zero_empty

    def forward(self, texts: Sequence[str]) -> Condition:
        """The condition of B texts: tokens (B, n · length, D), and SDXL's vector (B, D)."""
        return self.weighted([[(text, 1.0)] for text in texts])

    def weighted(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of B prompts in weighted fragments.

        A token's embedding is multiplied by its weight; then those of the whole prompt are scaled by one number, so
        that their mean over tokens and width is what it was without weights. The pooled vector knows no weights.
        """
        towers: list[Any] = list(self.towers)
        chunked = [[tower.chunks(prompt) for prompt in prompts] for tower in towers]
        count = max(len(chunks) for tower in chunked for chunks in tower)
        both = [self._encode(tower, rows, count) for tower, rows in zip(towers, chunked, strict=True)]
        tokens, pooled = torch.cat([tokens for tokens, _ in both], dim=2), both[-1][1]
        if self.zero_empty:
            some = [bool("".join(text for text, _ in prompt)) for prompt in prompts]
            kept = torch.tensor(some, device=tokens.device)[:, None]
            tokens, pooled = tokens * kept[..., None], pooled * kept
        if self.size is None:
            return Condition(tokens=tokens)
        sizes = self.size.embedding(self.size_width).to(pooled).expand(len(prompts), -1)
        return Condition(vector=torch.cat([pooled, sizes], dim=1), tokens=tokens)

    def _encode(self, tower: Any, rows: list[list[list[tuple[int, float]]]], count: int) -> tuple[Tensor, Tensor]:
        device = next(tower.parameters()).device
        empty = tower.chunks([])
        padded = torch.tensor([[*chunks, *empty * (count - len(chunks))] for chunks in rows], dtype=torch.float64)
        tokens, pooled = tower(padded[..., 0].long().to(device))
        weights = padded[..., 1].flatten(1).to(device, tokens.dtype)
        return scaled(tokens, weights), pooled


def scaled(tokens: Tensor, weights: Tensor) -> Tensor:
    """Tokens (B, M, D) times their weights (B, M), with each sample's mean restored; exact where all weights are 1."""
    if bool((weights == 1).all()):
        return tokens
    heavier = tokens * weights[..., None]
    before, after = tokens.float().mean((1, 2), keepdim=True), heavier.float().mean((1, 2), keepdim=True)
    plain = (weights == 1).all(1)[:, None, None]
    return torch.where(plain, tokens, heavier * (before / after).to(tokens.dtype))
