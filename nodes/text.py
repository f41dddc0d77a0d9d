"""Prompts as conditions."""

from __future__ import annotations

from collections.abc import Sequence

from guidegraph.graph.node import node
from guidegraph.graph.split import Split
from guidegraph.nodes.types import Condition, TextEmbedder
from guidegraph_runtime.host import text as host


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


@node("text.replace", host=True, runtime=True)
def replace_words(text: str | Sequence[str], *, words: dict[str, str]) -> list[str]:
    """Texts with words or phrases of the table in place of others: whole words alone, longer phrases first.

    words: from what (case does not matter) to what. Raises an error for an empty word.
    """
    return host.replace(text, words=words)
