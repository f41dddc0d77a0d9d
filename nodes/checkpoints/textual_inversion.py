"""Textual inversion (Gal et al. 2022): adds learned vectors to a text encoder as words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.read_tensors import read_nested
from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
from guidegraph.nodes.models.released.clip_text_model import LARGEST_ID
from guidegraph.nodes.models.released.prompt_embedder import TowerText
from guidegraph.nodes.models.released.towers import ClipTower

SDXL_NAMES = ("clip_l", "clip_g")
"""Names of SDXL's embeddings, in the order of its encoders."""


Embedder = TypeVar("Embedder", bound=TowerText)


def add_embedding(embedder: Embedder, path: Path, token: str) -> Embedder:
    """A copy of an embedder whose CLIP towers map `token` to the vectors of the file; it shares everything else.

    T5 reads the word as any other.

    Raises one ``ValueError`` that names the file if it lacks an embedding, or has one for other encoders.
    """
    vectors = read_vectors(path)
    towers = [tower for tower in embedder.towers if isinstance(tower, ClipTower)]
    if not towers:
        raise ValueError(f"the embedding '{path}' is for CLIP text encoders, and this model has none")
    widths = [tower.clip.embeddings.token_embedding.weight.shape[1] for tower in towers]
    if [value.shape[1] for value in vectors] != widths:
        raise ValueError(
            f"the embedding '{path}' is for text encoders of width {' and '.join(str(v.shape[1]) for v in vectors)}, "
            f"and this model's have {' and '.join(str(width) for width in widths)}: it belongs to another model"
        )
    if not token.strip() or token != token.strip():
        raise ValueError(f"the word for '{path}' is {token!r}: give one without spaces around it")
    copied = copy_sharing_tensors(embedder)
    remaining = iter(vectors)
    for i, tower in enumerate(embedder.towers):
        if isinstance(tower, ClipTower):
            copied.towers[i] = _add_word(tower, next(remaining), token, path)
    return copied


def _add_word(tower: ClipTower, vectors: Tensor, token: str, path: Path) -> ClipTower:
    """A copy of a tower with new rows for a word, which becomes one token for each vector."""
    vocabulary = tower.tokenizer.get_vocab()
    if token in tower.words or token in vocabulary or f"{token}</w>" in vocabulary:
        raise ValueError(f"the word '{token}' for '{path}' is a word of this model already: give another")
    table = tower.clip.embeddings.token_embedding.weight
    name = next(name for name, value in tower.named_parameters() if value is table)
    extended = copy_sharing_tensors(tower, {name: torch.cat([table, vectors.to(table)])})
    extended.clip.embeddings.token_embedding.num_embeddings = table.shape[0] + vectors.shape[0]
    if extended.clip.eos_token_id == LARGEST_ID:  # new words have larger ids
        extended.clip.eos_token_id = int(tower.tokenizer.eos_token_id)
    extended.words = {**tower.words, token: tuple(range(table.shape[0], table.shape[0] + vectors.shape[0]))}
    return extended


def read_vectors(path: Path) -> list[Tensor]:
    """Read the vectors (N, D) of an embedding file, one tensor for each text encoder. Raises ``ValueError``."""
    content = read_nested(path)
    inner = content.get("string_to_param", content)
    tensors = {str(k): v for k, v in inner.items() if isinstance(v, Tensor)} if isinstance(inner, Mapping) else {}
    if all(name in tensors for name in SDXL_NAMES):
        vectors = [tensors[name] for name in SDXL_NAMES]
    elif len(tensors) == 1:
        vectors = list(tensors.values())
    else:
        names = ", ".join(tensors) or "none"
        raise ValueError(
            f"'{path}' holds no textual inversion: expected one tensor, or {' and '.join(SDXL_NAMES)}; found {names}"
        )
    flat = [value.reshape(1, -1) if value.ndim == 1 else value for value in vectors]
    if any(value.ndim != 2 or not value.is_floating_point() for value in flat):
        raise ValueError(
            f"'{path}' holds no textual inversion: expected vectors (N, D); found {tuple(vectors[0].shape)}"
        )
    return flat
