"""Words that a tokenizer does not know: find them, suggest others, warn."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
