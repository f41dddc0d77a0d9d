"""Split prompts into the chunks of text encoders: of one length, marked and padded, with a weight per token."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.machine.optional_packages import import_optional
from guidegraph_runtime.text.prompt_weights import Fragment

if TYPE_CHECKING:
    from tokenizers import Tokenizer


Token: TypeAlias = tuple[int, float]
"""An id and its weight."""

Marks: TypeAlias = int | Sequence[int]


class ChunkTable(NamedTuple):
    """n chunks of each of B prompts: ids (B, n, length), int64, and weights (B, n, length), float64."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Chunker:
    """Splits prompts into chunks for one text encoder.

    tokenize: maps a text to ids without marks. length: of a chunk, including the marks `start` and `end`, an id each or
    several ids, such as the marks of a chat; T5 has no `start`. pad: the id that fills a chunk. words: learned words
    (textual inversion), each with its ids. single: a prompt is one chunk, and is cut if it is longer, with a warning.
    """

    tokenize: Callable[[str], Sequence[int]]
    length: int
    start: Marks | None
    end: Marks
    pad: int
    words: Mapping[str, Sequence[int]] = field(default_factory=dict)
    single: bool = False

    def tokens(self, prompt: Sequence[Fragment]) -> list[Token]:
        """The ids of a prompt with their weights, without the start and end marks."""
        tokens: list[Token] = []
        pattern = "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        for text, weight in prompt:
            pieces = [text]
            if self.words:  # a learned word is a piece of its own
                pieces = [piece for piece in re.split(rf"(?<!\w)({pattern})(?!\w)", text) if piece]
            tokens += [(int(id), weight) for piece in pieces for id in self.words.get(piece) or self.tokenize(piece)]
        return tokens

    def chunks(self, prompt: Sequence[Fragment]) -> list[list[Token]]:
        """Split a prompt into chunks, at least one, each with its marks and padded to `length`."""
        start, end = (
            [(id, 1.0) for id in ((marks,) if isinstance(marks, int) else marks or ())]
            for marks in (self.start, self.end)
        )
        tokens, capacity = self.tokens(prompt), self.length - len(start) - len(end)
        pieces = [tokens[i : i + capacity] for i in range(0, max(len(tokens), 1), capacity)]
        if self.single and len(pieces) > 1:
            text = "".join(fragment for fragment, _ in prompt)
            warnings.warn(f"{len(tokens)} tokens, cut to {capacity}: '{text:.60}…'", stacklevel=4)
            pieces = pieces[:1]
        return [[*start, *piece, *end, *[(self.pad, 1.0)] * (capacity - len(piece))] for piece in pieces]


def make_chunk_tables(
    chunkers: Sequence[Chunker], prompts: Sequence[Sequence[Fragment]], beside: Sequence[Sequence[Fragment]] = ()
) -> list[ChunkTable]:
    """The chunks of B prompts for each encoder: one if it takes a single chunk, otherwise as many for all encoders.

    Shorter prompts end with empty chunks. beside: prompts of other calls, which have at most as many chunks.
    """
    by_chunker = [[chunker.chunks(prompt) for prompt in prompts] for chunker in chunkers]
    chunks_beside = [chunker.chunks(prompt) for chunker in chunkers if not chunker.single for prompt in beside]
    count = max(len(chunks) for rows in (*by_chunker, chunks_beside) for chunks in rows)
    tables = []
    for chunker, rows in zip(chunkers, by_chunker, strict=True):
        missing = [0 if chunker.single else count - len(chunks) for chunks in rows]
        filled = [[*chunks, *chunker.chunks([]) * n] for chunks, n in zip(rows, missing, strict=True)]
        ids = [[[id for id, _ in chunk] for chunk in chunks] for chunks in filled]
        weights = [[[weight for _, weight in chunk] for chunk in chunks] for chunks in filled]
        tables.append(ChunkTable(np.array(ids, dtype=np.int64), np.array(weights, dtype=np.float64)))
    return tables


@lru_cache(maxsize=8)
def load_tokenizer(data: bytes, length: int | None = None) -> Tokenizer:
    """Load a tokenizer.json; with a length, texts are truncated and padded to it. Raises ``ValueError``."""
    tokenizers = import_optional("tokenizers", "a text")
    try:
        tokenizer: Tokenizer = tokenizers.Tokenizer.from_buffer(data)
    except Exception as error:  # the package raises plain Exception
        raise ValueError(f"this tokenizer.json cannot be read: {error}") from error
    if length is not None:
        padding = tokenizer.padding
        if padding is None:
            raise ValueError(f"the tokenizer has no padding, so it cannot fill {length} tokens: save it with padding")
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(**padding | {"length": length})
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Encode texts as token ids (B, L) and a mask (B, L), false at padding. Raises ``ValueError`` if lengths differ."""
    encodings = tokenizer.encode_batch(list(texts))
    lengths = sorted({len(encoding.ids) for encoding in encodings})
    if len(lengths) > 1:
        raise ValueError(
            f"the texts have {lengths[0]} to {lengths[-1]} tokens, and the tokenizer does not pad: save it with padding"
        )
    ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
    return ids, np.array([encoding.attention_mask for encoding in encodings], dtype=np.bool_)
