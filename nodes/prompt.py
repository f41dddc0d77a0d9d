"""Prompts of released text encoders: weights on words, learned embeddings of new words, and SDXL's sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from guidegraph.graph.node import node
from guidegraph.nodes.types import Condition, TextEmbedder

if TYPE_CHECKING:
    from guidegraph.nodes.models.released_text import ReleasedText

UP = 1.1
"""What one pair of round brackets multiplies a weight by; a square one divides."""

TOKEN = re.compile(
    r"""\\([\\()\[\]:])                             # an escaped sign
    | :\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)           # the weight that ends a round bracket
    | ([(\[]) | ([)\]]) | [^\\()\[\]:]+ | .          # an opening bracket, a closing one, plain text""",
    re.VERBOSE | re.DOTALL,
)

Side = Annotated[int, Gt(0)]
Offset = Annotated[int, Ge(0)]


@node("text.weighted", host=True)
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


def parse(text: str) -> list[tuple[str, float]]:
    """A prompt as fragments with their weights. Raises ``ValueError`` that shows where brackets do not pair."""
    fragments: list[tuple[str, float]] = []
    open_at: list[tuple[str, int, int]] = []  # the bracket, its place in the text, and the first fragment inside
    for found in TOKEN.finditer(text):
        escaped, weight, opening, closing = found.groups()
        if opening:
            open_at.append((opening, found.start(), len(fragments)))
        elif closing or weight:
            bracket = closing or ")"
            if not open_at or open_at[-1][0] != {")": "(", "]": "["}[bracket]:
                raise ValueError(_unpaired(text, found.end() - 1, bracket))
            _, _, first = open_at.pop()
            factor = float(weight) if weight else UP if bracket == ")" else 1 / UP
            fragments[first:] = [(part, held * factor) for part, held in fragments[first:]]
        else:
            fragments.append((escaped or found[0], 1.0))
    if open_at:
        raise ValueError(_unpaired(text, open_at[-1][1], open_at[-1][0]))
    return _merged(fragments) or [("", 1.0)]


def _merged(fragments: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Neighbours of one weight as one fragment, so that a prompt without weights is tokenised whole."""
    out: list[tuple[str, float]] = []
    for text, weight in fragments:
        if out and out[-1][1] == weight:
            out[-1] = (out[-1][0] + text, weight)
        else:
            out.append((text, weight))
    return out


def _unpaired(text: str, at: int, bracket: str) -> str:
    before, after = text[max(at - 20, 0) : at], text[at + 1 : at + 21]
    return (
        f"the bracket '{bracket}' at character {at + 1} has no partner: …{before}»{bracket}«{after}…; "
        f"close it, or write \\{bracket} for the bracket itself"
    )
