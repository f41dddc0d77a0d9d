"""Prompts of released text encoders: weights on words, learned embeddings of new words, and SDXL's sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from guidegraph.graph.node import node
from guidegraph.graph.split import Split
from guidegraph.nodes.text import split_by_tokens
from guidegraph.nodes.types import Condition, TextEmbedder
from guidegraph_runtime.prompts import parse

if TYPE_CHECKING:
    from guidegraph.nodes.models.released_text import ReleasedText

Side = Annotated[int, Gt(0)]
Offset = Annotated[int, Ge(0)]


def split_by_weights(embedder: TextEmbedder | None = None, **_: object) -> Split | None:
    """How an embedder's texts with weights are exported: as `text.encode`, and the runtime reads the brackets."""
    found = split_by_tokens(embedder)
    if found is None or found.operation not in ("text.tokenize", "text.chunks"):
        return None
    return replace(found, settings={**found.settings, "weighted": True})


@node("text.weighted", host=True, split=split_by_weights)
def encode_weighted(embedder: TextEmbedder, prompt: str | Sequence[str]) -> Condition:
    """The condition of a prompt, or of a list of them, in which words have weights.

    `(word:1.3)` has weight 1.3, `(word)` 1.1 and `[word]` 1/1.1; brackets inside of brackets multiply, and a backslash
    makes a bracket or a colon plain text. A weight multiplies the embedding of each of its tokens; then all embeddings
    of the prompt are scaled by one number, so that their mean over tokens and width is what it was without weights.
    For CLIP text encoders of `checkpoint.load`; another one takes prompts without weights alone. Raises an error for
    brackets that do not pair.
    """
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts:
        raise ValueError("there are no prompts: give one as text, or a list of at least one")
    parsed = [parse(text) for text in texts]
    if all(weight == 1 for fragments in parsed for _, weight in fragments):
        return embedder(["".join(part for part, _ in fragments) for fragments in parsed])
    return _released(embedder, "a weight in a prompt").weighted(parsed)


@node("text.embedding", host=True)
def learned_embedding(embedder: TextEmbedder, *, path: Path, token: str) -> TextEmbedder:
    """A copy of a text encoder that knows one word more: a textual inversion (Gal et al. 2022) from a file.

    path: what diffusers' or the original training wrote (`.bin`, `.pt` or `.safetensors`), for SDXL with one embedding
    for each of its two encoders. token: the word that stands for it in prompts; it may stand for several vectors.
    The copy shares all other weights. Raises an error where the file fits no encoder, or the word is known already.
    """
    from guidegraph.nodes.checkpoints.inversion import with_embedding

    return with_embedding(_released(embedder, "text.embedding"), path, token)


@node("text.picture_size", host=True)
def picture_size(
    embedder: TextEmbedder,
    *,
    original: tuple[Side, Side] = (1024, 1024),
    crop: tuple[Offset, Offset] = (0, 0),
    target: tuple[Side, Side] = (1024, 1024),
) -> TextEmbedder:
    """SDXL's text encoder with other sizes in its vector (Podell et al. 2023, section 2.2), each as height, width.

    original: of the picture before scaling. crop: what was cut at the top and at the left. target: the size wanted.
    Raises an error for a text encoder that is not SDXL's.
    """
    from guidegraph.nodes.models.released_text import PictureSize
    from guidegraph.nodes.models.sharing import shared_copy

    released = _released(embedder, "text.picture_size")
    if released.size is None:
        raise ValueError("this text encoder takes no sizes: text.picture_size is for SDXL's")
    copied = shared_copy(released)
    copied.size = PictureSize(original, crop, target)
    return copied


def _released(embedder: TextEmbedder, what: str) -> ReleasedText:
    from guidegraph.nodes.models.released_text import ReleasedText

    if not isinstance(embedder, ReleasedText):
        raise ValueError(
            f"{what} needs a CLIP text encoder of checkpoint.load; found {type(embedder).__name__ or 'another'}"
        )
    return embedder
