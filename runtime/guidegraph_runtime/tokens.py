"""Texts as token ids, through the `tokenizers` package."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = "[UNK]"


@lru_cache(maxsize=8)
def load_tokenizer(data: bytes, length: int | None = None) -> Tokenizer:
    """The tokenizer of a tokenizer.json; with a length, it cuts and pads to that. Raises ``ValueError``."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the package raises no narrower class
        raise ValueError(f"this is no tokenizer.json that can be read: {error}") from error
    if length is not None:
        padding = tokenizer.padding
        if padding is None:
            raise ValueError(f"the tokenizer has no padding, so it cannot fill {length} tokens: save it with padding")
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(**padding | {"length": length})
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Token ids (B, L) and the mask (B, L), true where a token counts. Raises ``ValueError`` where lengths differ."""
    encodings = tokenizer.encode_batch(list(texts))
    lengths = sorted({len(encoding.ids) for encoding in encodings})
    if len(lengths) > 1:
        raise ValueError(
            f"the texts have {lengths[0]} to {lengths[-1]} tokens, and the tokenizer does not pad: save it with padding"
        )
    ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
    return ids, np.array([encoding.attention_mask for encoding in encodings], dtype=np.bool_)


def unknown_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of a text that the tokenizer does not know, in order."""
    unknown = tokenizer.token_to_id(UNKNOWN)
    encoding = tokenizer.encode(text)
    return [
        text[start:end] for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True) if token == unknown
    ]


def warn_of_unknown_words(tokenizer: Tokenizer, texts: Sequence[str], ids: NDArray[np.int64]) -> None:
    """A warning that names the words of texts that became [UNK] among the ids (B, L), where there are some."""
    unknown = tokenizer.token_to_id(UNKNOWN)
    if unknown is None or not (ids == unknown).any():
        return
    words = dict.fromkeys(word for text in texts for word in unknown_words(tokenizer, text))
    known = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 2)
    warnings.warn(
        f"words this model was not trained on: {', '.join(words)}; it knows, among others: "
        f"{', '.join(known[:: max(1, len(known) // 16)])}",
        stacklevel=3,
    )
