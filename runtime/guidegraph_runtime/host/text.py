"""Texts: words replaced, and texts as tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime import tokens
from guidegraph_runtime.checks import texts as list_of_texts
from guidegraph_runtime.checks import whole
from guidegraph_runtime.host.operation import operation


class Tokens(NamedTuple):
    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]


@operation("text.replace")
def replace(text: str | Sequence[str], *, words: Mapping[str, str]) -> list[str]:
    """Texts with words or phrases of the table in place of others: whole words alone, longer phrases first.

    words: from what (case does not matter) to what. Raises an error for an empty word.
    """
    if not isinstance(words, Mapping) or not all(isinstance(word, str) for pair in words.items() for word in pair):
        raise ValueError(f"words: expected a table from words to words; found {words!r:.80}")
    table = {found.lower(): put for found, put in words.items()}
    if not all(table):
        raise ValueError("an empty word cannot be replaced: take it out of `words`")
    texts = list_of_texts("text", text)
    if not table:
        return texts
    longest_first = sorted(table, key=len, reverse=True)
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)
    return [pattern.sub(lambda match: table[match[1].lower()], each) for each in texts]


@operation("text.tokenize")
def tokenize(texts: str | Sequence[str], *, tokenizer: bytes, length: int | None = None) -> Tokens:
    """Token ids (B, L), int64, and the mask (B, L), bool, true where a token counts. No node: nodes embed texts.

    tokenizer: a tokenizer.json, as the `tokenizers` package writes it. length: L, to which texts are cut and padded;
    by default as the tokenizer says. Unknown words become its [UNK], where it has one, with a warning that names them.
    Raises an error for bytes that are no tokenizer, and where texts come out of several lengths.
    """
    if not isinstance(tokenizer, bytes):
        raise ValueError(f"tokenizer: expected the bytes of a tokenizer.json; found {type(tokenizer).__name__}")
    given = list_of_texts("texts", texts)
    if not given:
        raise ValueError("there are no texts: give one, or a list of at least one")
    loaded = tokens.load_tokenizer(tokenizer, None if length is None else whole("length", length, low=1))
    ids, mask = tokens.encode(loaded, given)
    tokens.warn_of_unknown_words(loaded, given, ids)
    return Tokens(ids, mask)
