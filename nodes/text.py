"""Prompts as conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from guidegraph.graph.node import node
from guidegraph.graph.split import Split
from guidegraph.nodes import extents
from guidegraph.nodes.types import Condition, TextEmbedder
from guidegraph_runtime.host import text as host


def split_by_tokens(embedder: TextEmbedder | None = None, **_: object) -> Split | None:
    """How an embedder's texts are exported, where it says so by a method `split`."""
    own = getattr(embedder, "split", None)
    found: Split | None = None if own is None else own()
    return found


@node("text.encode", host=True, split=split_by_tokens, shape=extents.prompt_rows)
def encode_text(embedder: TextEmbedder, prompt: str | Sequence[str]) -> Condition:
    """The condition of a prompt (leading axis 1), or of a list of prompts (one for each sample).

    The empty prompt is the model's null condition.
    """
    if not isinstance(prompt, str) and not prompt:
        raise ValueError("there are no prompts: give one as text, or a list of at least one")
    return embedder([prompt] if isinstance(prompt, str) else list(prompt))


@node("text.prompts", host=True, shape=extents.batch_of_prompts)
def prompts_of_batch(
    captions: Sequence[str], *, prompt: str | list[str] = "", batch: Annotated[int, Ge(1)] = 1
) -> Sequence[str]:
    """A prompt for each of ``batch`` pictures: one for all, a list with one each, or the captions in turn.

    captions: what to draw where `prompt` is empty, such as those of data.folder_sample.
    Raises an error for a list not as long as ``batch``, and where there is nothing to draw.
    """
    given = [prompt] * batch if isinstance(prompt, str) and prompt else list(prompt)
    if not given:
        known = list(captions)
        if not known:
            raise ValueError("there is no prompt and no caption: give `prompt`")
        given = [known[i % len(known)] for i in range(batch)]
    if len(given) != batch:
        raise ValueError(f"{len(given)} prompts do not make a batch of {batch}: give one, or one for each picture")
    return given


@node("text.replace", host=True, runtime=True, shape=extents.text_rows)
def replace_words(text: str | Sequence[str], *, words: dict[str, str]) -> list[str]:
    """Texts with words or phrases of the table in place of others: whole words alone, longer phrases first.

    words: from what (case does not matter) to what. Raises an error for an empty word.
    """
    return host.replace(text if isinstance(text, str) else list(text), words=words)


@node("text.add_words", host=True)
def add_unknown_words(
    embedder: TextEmbedder, texts: Sequence[str], *, seed: Annotated[int, Ge(0)] = 0, freeze: bool = False
) -> TextEmbedder:
    """A text encoder of `model.load` that also knows all words of the texts, for training; the rest is shared.

    texts: captions, or names of classes. Each new word gets a random embedding with the mean and spread of the known
    ones. freeze: training changes these embeddings alone (Gal et al. 2023), and not the rest of the encoder.
    seed: of the new embeddings.
    Raises an error for an encoder that is no `model.text_transformer`.
    """
    from guidegraph.nodes.models.text import TextModel
    from guidegraph.nodes.models.words import add_words, unknown_words

    if not isinstance(embedder, TextModel):
        raise ValueError(f"text.add_words takes a model.text_transformer; found {type(embedder).__name__}")
    return add_words(embedder, unknown_words(embedder.tokenizer, texts), seed=seed, frozen=freeze)
