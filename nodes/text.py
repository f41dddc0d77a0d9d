"""Prompts as conditions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from guidegraph.graph.node import node
from guidegraph.graph.split import Split
from guidegraph.nodes.types import Condition, TextEmbedder


def split_by_tokens(embedder: TextEmbedder | None = None, **_: object) -> Split | None:
    """How an embedder's texts are exported, where it says so by a method `split`."""
    own = getattr(embedder, "split", None)
    found: Split | None = None if own is None else own()
    return found


@node("text.encode", host=True, split=split_by_tokens)
def encode_text(embedder: TextEmbedder, prompt: str | Sequence[str]) -> Condition:
    """The condition of a prompt (leading axis 1), or of a list of prompts (one for each sample).

    The empty prompt is the model's null condition.
    """
    if not isinstance(prompt, str) and not prompt:
        raise ValueError("there are no prompts: give one as text, or a list of at least one")
    return embedder([prompt] if isinstance(prompt, str) else list(prompt))


@node("text.replace", host=True)
def replace_words(text: str | Sequence[str], *, words: dict[str, str]) -> list[str]:
    """Texts with words or phrases of the table in place of others: whole words alone, longer phrases first.

    words: from what (case does not matter) to what. Raises an error for an empty word.
    """
    table = {found.lower(): put for found, put in words.items()}
    if not all(table):
        raise ValueError("an empty word cannot be replaced: take it out of `words`")
    texts = [text] if isinstance(text, str) else list(text)
    if not table:
        return texts
    longest_first = sorted(table, key=len, reverse=True)
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)
    return [pattern.sub(lambda match: table[match[1].lower()], each) for each in texts]
