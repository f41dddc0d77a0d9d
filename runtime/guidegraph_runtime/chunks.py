"""Prompts as CLIP's text encoders take them: chunks of one length, each marked and padded, with a weight a token."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.prompts import Fragment

Token: TypeAlias = tuple[int, float]
"""An id and its weight."""


class ChunkTable(NamedTuple):
    """n chunks of each of B prompts: ids (B, n, length), int64, and weights (B, n, length), float64."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Chunker:
    """How one text encoder's prompts are cut.

    tokenize: a text to ids without marks. length: of a chunk, the marks `start` and `end` among it. pad: the id that
    fills a chunk. words: those that an encoder was taught, each with the ids that it stands for.
    """

    tokenize: Callable[[str], Sequence[int]]
    length: int
    start: int
    end: int
    pad: int
    words: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def tokens(self, prompt: Sequence[Fragment]) -> list[Token]:
        """The ids of a prompt with their weights, without marks of start and end."""
        return [
            (int(id), weight)
            for text, weight in prompt
            for piece in self._pieces(text)
            for id in self.words.get(piece) or self.tokenize(piece)
        ]

    def _pieces(self, text: str) -> list[str]:
        """A text cut at the words that the encoder was taught."""
        if not self.words:
            return [text]
        known = "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        return [piece for piece in re.split(rf"(?<!\w)({known})(?!\w)", text) if piece]

    def chunks(self, prompt: Sequence[Fragment]) -> list[list[Token]]:
        """A prompt as chunks of `length` − 2 tokens, at least one, each marked and padded to `length`."""
        tokens, inside = self.tokens(prompt), self.length - 2
        cut = [tokens[at : at + inside] for at in range(0, max(len(tokens), 1), inside)]
        return [[(self.start, 1.0), *part, (self.end, 1.0), *[(self.pad, 1.0)] * (inside - len(part))] for part in cut]


def tables(chunkers: Sequence[Chunker], prompts: Sequence[Sequence[Fragment]]) -> list[ChunkTable]:
    """The chunks of B prompts for each encoder; all have as many, so that shorter prompts end with empty ones."""
    rows = [[chunker.chunks(prompt) for prompt in prompts] for chunker in chunkers]
    count = max(len(chunks) for each in rows for chunks in each)
    return [_table([[*chunks, *each.chunks([]) * (count - len(chunks))] for chunks in found])
            for each, found in zip(chunkers, rows, strict=True)]  # fmt: skip


def _table(rows: Sequence[Sequence[Sequence[Token]]]) -> ChunkTable:
    ids = [[[id for id, _ in chunk] for chunk in chunks] for chunks in rows]
    weights = [[[weight for _, weight in chunk] for chunk in chunks] for chunks in rows]
    return ChunkTable(np.array(ids, dtype=np.int64), np.array(weights, dtype=np.float64))
