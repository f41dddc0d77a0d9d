"""Parse prompts with weighted words: `a (cat:1.3) on [grass]`."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
