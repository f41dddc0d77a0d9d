"""Encode texts as token ids with the `tokenizers` package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.machine.optional_packages import import_optional

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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
