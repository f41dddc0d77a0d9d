"""Prompts through the text encoders of released models: CLIP and OpenCLIP in chunks, one encoder or two, weighted.

A `Fragment` is a piece of a prompt and its weight; the plain prompt is one fragment of weight 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from guidegraph.graph.export_recipe import ExportRecipe
from guidegraph.nodes.checkpoints.lora_layers import text_layers
from guidegraph.nodes.models.own.layers import timestep_embedding
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition
from guidegraph_runtime.text.chunks import Chunker, make_chunk_tables
from guidegraph_runtime.text.prompt_weights import Fragment

Prompt: TypeAlias = Sequence[Fragment]
Hidden = Literal["last", "penultimate", "penultimate_normed"]


class Tower(nn.Module):
    """A CLIP text model of transformers with its tokenizer.

    hidden: which tokens to use: after the last layer and the final norm (Stable Diffusion 1), after the penultimate
    layer (SDXL), or that with the final norm (OpenCLIP in Stable Diffusion 2). pad: the id that fills a chunk.
    words: words added by `text.embedding`, each with its ids.
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
        """The module that holds embeddings, layers and norm, one level deeper in transformers 4."""
        return getattr(self.model, "text_model", self.model)

    @property
    def length(self) -> int:
        """Number of tokens of a chunk, including the start and end tokens."""
        return int(self.trunk.embeddings.position_embedding.num_embeddings)

    @property
    def chunker(self) -> Chunker:
        """Splits prompts into chunks."""
        marks = (int(self.tokenizer.bos_token_id), int(self.tokenizer.eos_token_id))
        return Chunker(self._tokenize, self.length, *marks, self.pad, self.words)

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def to_runtime(self) -> dict[str, Any] | None:
        """Settings of the runtime's operation for this tower; None if the tokenizer is written in Python."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        fast = Tokenizer.from_str(backend.to_str())
        fast.no_truncation()
        fast.no_padding()
        chunker = self.chunker
        marks = {"start": chunker.start, "end": chunker.end, "pad": chunker.pad}
        words = {word: list(ids) for word, ids in self.words.items()}
        return {"tokenizer": fast.to_str().encode(), "length": self.length, **marks, "words": words}

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
    """SDXL's size conditioning (Podell et al. 2023, section 2.2), in pixels: each pair is height, width.

    original: the size before scaling. crop: cut off at the top and at the left. target: the size to generate.
    """

    original: tuple[int, int] = (1024, 1024)
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] = (1024, 1024)

    def embedding(self, width: int) -> Tensor:
        """The Fourier embedding (1, 6 · width), float32, of the six numbers, in order."""
        numbers = torch.tensor([*self.original, *self.crop, *self.target], dtype=torch.float32)
        return timestep_embedding(numbers, width).reshape(1, -1)


class ReleasedText(nn.Module):
    """A `TextEmbedder` of one tower, or of two whose tokens are concatenated along the width (SDXL).

    A prompt of more than one chunk gives the tokens of all its chunks, one after the other; shorter ones of the same
    batch are padded with empty chunks. With `size` there is a vector: the last tower's pooled vector and the embedding
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

    @property
    def models(self) -> list[nn.Module]:
        """The CLIP models of the towers."""
        towers: list[Any] = list(self.towers)
        return [tower.model for tower in towers]

    def adaptable_weights(self) -> dict[str, str]:
        """Names of its parameters by the names of their layers in LoRA files; an exported graph keeps both."""
        return text_layers(self.models)

    def forward(self, texts: Sequence[str]) -> Condition:
        """The condition of B texts: tokens (B, n · length, D), and SDXL's vector (B, D)."""
        return self.embed_weighted([[(text, 1.0)] for text in texts])

    def embed_weighted(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of B prompts in weighted fragments.

        Each token's embedding is multiplied by its weight; then all embeddings of the prompt are scaled by one number,
        so that their mean over tokens and width stays that without weights. The pooled vector is not weighted.
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
        outputs = []
        for tower, ids, weights in zip(self.towers, chunks[::2], chunks[1::2], strict=True):
            tokens, pooled = tower(ids)
            outputs.append((apply_weights(tokens, weights.flatten(1).to(tokens.dtype)), pooled))
        tokens, pooled = torch.cat([tokens for tokens, _ in outputs], dim=2), outputs[-1][1]
        if self.zero_empty:
            tokens, pooled = tokens * has_text[:, None, None], pooled * has_text[:, None]
        if self.size is None:
            return Condition(tokens=tokens)
        sizes = self.size.embedding(self.size_width).to(pooled).expand(has_text.shape[0], -1)
        return Condition(vector=torch.cat([pooled, sizes], dim=1), tokens=tokens)

    def split(self) -> ExportRecipe | None:
        """How the runtime embeds texts: from their chunks. None if a tokenizer is written in Python."""
        towers: list[Any] = list(self.towers)
        settings = [tower.to_runtime() for tower in towers]
        if None in settings:
            return None
        outputs: dict[str, tuple[str | int, ...]] = {}
        for i, tower in enumerate(towers):
            outputs |= dict.fromkeys((f"ids_{i}", f"weights_{i}"), ("B", "N", tower.length))
        return ExportRecipe(
            "text.chunks", {"prompt": "texts"}, outputs | {"some": ("B",)}, self.embed, {"towers": settings}
        )


def apply_weights(tokens: Tensor, weights: Tensor) -> Tensor:
    """Multiply tokens (B, M, D) by weights (B, M), and restore each sample's mean; exact if all weights are 1."""
    if has_values(weights) and bool((weights == 1).all()):
        return tokens
    heavier = tokens * weights[..., None]
    before, after = tokens.float().mean((1, 2), keepdim=True), heavier.float().mean((1, 2), keepdim=True)
    plain = (weights == 1).all(1)[:, None, None]
    return torch.where(plain, tokens, heavier * (before / after).to(tokens.dtype))
