"""Split prompts into the chunks of text encoders: of one length, marked and padded, with a weight per token."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.machine.optional_packages import import_optional

if TYPE_CHECKING:
    from tokenizers import Tokenizer


Fragment: TypeAlias = tuple[str, float]
"""A piece of a prompt and its weight."""

BRACKET_FACTOR = 1.1
"""The factor of a pair of round brackets; square brackets divide by it."""

MAX_WEIGHT = 1e6
"""Larger weights would take embeddings out of the range of small floating dtypes."""

TOKEN = re.compile(
    r"""\\([\\()\[\]:])                             # an escaped sign
    | :\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)           # the weight that ends a round bracket
    | ([(\[]) | ([)\]]) | [^\\()\[\]:]+ | .          # an opening bracket, a closing one, plain text""",
    re.VERBOSE | re.DOTALL,
)


def parse_prompt(text: str) -> list[Fragment]:
    """Parse a prompt into fragments with their weights.

    Raises ``ValueError`` with the position of an unmatched bracket, and for weights that are too large.
    """
    fragments: list[Fragment] = []
    open_brackets: list[tuple[str, int, int]] = []  # the bracket, its position, and the first fragment inside
    for match in TOKEN.finditer(text):
        escaped, weight, opening, closing = match.groups()
        if opening:
            open_brackets.append((opening, match.start(), len(fragments)))
        elif closing or weight:
            bracket = closing or ")"
            if not open_brackets or open_brackets[-1][0] != {")": "(", "]": "["}[bracket]:
                raise ValueError(_bracket_message(text, match.end() - 1, bracket))
            _, _, first = open_brackets.pop()
            factor = float(weight) if weight else BRACKET_FACTOR if bracket == ")" else 1 / BRACKET_FACTOR
            fragments[first:] = [(part, old_weight * factor) for part, old_weight in fragments[first:]]
        else:
            fragments.append((escaped or match[0], 1.0))
    if open_brackets:
        raise ValueError(_bracket_message(text, open_brackets[-1][1], open_brackets[-1][0]))
    if any(not abs(weight) <= MAX_WEIGHT for _, weight in fragments):
        raise ValueError(
            f"the brackets of the prompt make a weight beyond {MAX_WEIGHT:g}: use fewer, or smaller numbers"
        )
    return _merge(fragments) or [("", 1.0)]


def _merge(fragments: Sequence[Fragment]) -> list[Fragment]:
    """Merge adjacent fragments of equal weight, so that a prompt without weights is tokenised as one text."""
    merged: list[Fragment] = []
    for text, weight in fragments:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged


def _bracket_message(text: str, position: int, bracket: str) -> str:
    before, after = text[max(position - 20, 0) : position], text[position + 1 : position + 21]
    return (
        f"the bracket '{bracket}' at character {position + 1} has no partner: …{before}»{bracket}«{after}…; "
        f"close it, or write \\{bracket} for the bracket itself"
    )


UNKNOWN = "[UNK]"

NEAR = 0.6
"""The least similarity (of `difflib`) at which a word is suggested for another."""

AS_NEAR = 0.1
"""How much less similar than the nearest word another suggestion may be."""

LONGEST_WORD = 40
NAMED = 20
"""The most unknown words that a message names."""

LISTED, SAMPLED = 120, 20
"""The most words that a message lists in full, and the size of a sample of a longer list."""


def unknown_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of a text that the tokenizer does not know, in order; "[UNK]" itself is not one of them."""
    unknown = tokenizer.token_to_id(UNKNOWN)
    encoding = tokenizer.encode(text)
    words = [
        text[start:end] for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True) if token == unknown
    ]
    return [word for word in words if word != UNKNOWN]


def list_vocabulary(tokenizer: Tokenizer) -> list[str]:
    """List the words that the tokenizer knows, in order: without marks ([PAD]), punctuation and pieces of words."""
    return sorted(word for word in tokenizer.get_vocab() if word.isalpha())


def near_words(word: str, vocabulary: Sequence[str]) -> list[str]:
    """The known words that a word may misspell: the nearest one, and others about as near."""
    lower = word.lower()[:LONGEST_WORD]
    near = difflib.get_close_matches(lower, vocabulary, n=3, cutoff=NEAR)
    likeness = [difflib.SequenceMatcher(None, match, lower).ratio() for match in near]
    return [match for match, ratio in zip(near, likeness, strict=True) if ratio > likeness[0] - AS_NEAR]


def unknown_words_message(words: Collection[str], vocabulary: Sequence[str]) -> str:
    """A message about unknown words: suggestions for the first ones, and the known words or a sample of them."""
    descriptions = []
    for full in islice(words, NAMED):
        word = full if len(full) <= LONGEST_WORD else f"{full[:LONGEST_WORD]}…"
        suggestions = " or ".join(f"'{match}'" for match in near_words(word, vocabulary))
        descriptions.append(f"'{word}' (did you mean {suggestions}?)" if suggestions else f"'{word}'")
    if len(words) > NAMED:
        descriptions.append(f"and {len(words) - NAMED} more")
    if len(vocabulary) <= LISTED:
        vocabulary_text = f"it knows: {', '.join(vocabulary)}"
    else:
        stride = len(vocabulary) // SAMPLED
        sample = ", ".join(vocabulary[::stride][:SAMPLED])
        vocabulary_text = (
            f"it knows {len(vocabulary)} words, among them: {sample}; tokenizer.json beside its weights lists all"
        )
    return f"words this model was not trained on: {', '.join(descriptions)}; {vocabulary_text}"


def warn_of_unknown_words(tokenizer: Tokenizer, texts: Sequence[str], ids: NDArray[np.int64]) -> None:
    """Warn about the words of texts that became [UNK] in the ids (B, L), if any."""
    unknown = tokenizer.token_to_id(UNKNOWN)
    if unknown is None or not (ids == unknown).any():
        return
    words = dict.fromkeys(word for text in texts for word in unknown_words(tokenizer, text))
    if words:
        warnings.warn(unknown_words_message(words, list_vocabulary(tokenizer)), stacklevel=3)


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
