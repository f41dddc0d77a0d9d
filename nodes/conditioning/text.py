"""Prompts as conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from annotated_types import Ge, Gt

from guidegraph.graph.export_recipe import ExportRecipe
from guidegraph.graph.node import node
from guidegraph.nodes import port_shapes
from guidegraph.nodes.derive import node_from_operation
from guidegraph.nodes.types import Condition, Table, TextEmbedder


def text_export_recipe(embedder: TextEmbedder | None = None, **_: object) -> ExportRecipe | None:
    """The export recipe of an embedder's texts, from its method `split`, or None without one."""
    method = getattr(embedder, "split", None)
    recipe: ExportRecipe | None = None if method is None else method()
    return recipe


@node("text.encode", host=True, version=2, split=text_export_recipe, shape=port_shapes.prompt_rows)
def encode_text(embedder: TextEmbedder, prompt: str | Sequence[str]) -> Condition:
    """Encode a prompt (leading axis 1), or a list of prompts (one for each sample), as a condition.

    The empty prompt is the model's null condition.
    """
    if not isinstance(prompt, str) and not prompt:
        raise ValueError("there are no prompts: give one as text, or a list of at least one")
    return embedder([prompt] if isinstance(prompt, str) else list(prompt))


@node("text.prompts", host=True, shape=port_shapes.batch_of_prompts)
def prompts_of_batch(
    captions: Sequence[str], *, prompt: str | list[str] = "", batch: Annotated[int, Ge(1)] = 1
) -> Sequence[str]:
    """A prompt for each of ``batch`` pictures: one for all, a list with one each, or the captions in turn.

    captions: used if `prompt` is empty, such as the captions from data.folder_sample.
    Raises an error for a list of another length than ``batch``, and without prompts or captions.
    """
    prompts = [prompt] * batch if isinstance(prompt, str) and prompt else list(prompt)
    if not prompts:
        caption_list = list(captions)
        if not caption_list:
            raise ValueError("there is no prompt and no caption: give `prompt`")
        prompts = [caption_list[i % len(caption_list)] for i in range(batch)]
    if len(prompts) != batch:
        raise ValueError(f"{len(prompts)} prompts do not make a batch of {batch}: give one, or one for each picture")
    return prompts


replace_words: Callable[..., list[str]] = node_from_operation(
    "text.replace", __name__, name="replace_words", host=True, shape=port_shapes.text_rows
)


@node("text.add_words", host=True)
def add_unknown_words(
    embedder: TextEmbedder, texts: Sequence[str], *, seed: Annotated[int, Ge(0)] = 0, freeze: bool = False
) -> TextEmbedder:
    """A text encoder of `model.load` with all words of the texts added, for training; other weights are shared.

    texts: captions, or names of classes. Each new word gets a random embedding with the mean and spread of the existing
    ones. freeze: train only these embeddings (Gal et al. 2023), not the rest of the encoder.
    seed: of the new embeddings.
    Raises an error for an encoder other than `model.text_transformer`.
    """
    from guidegraph.nodes.models.own.added_words import add_words, unknown_words
    from guidegraph.nodes.models.own.text_encoder import TextModel

    if not isinstance(embedder, TextModel):
        raise ValueError(f"text.add_words takes a model.text_transformer; found {type(embedder).__name__}")
    return add_words(embedder, unknown_words(embedder.tokenizer, texts), seed=seed, frozen=freeze)


@node("text.vocabulary", host=True)
def list_words(embedder: TextEmbedder, *, near: str = "") -> Table:
    """The words that a text encoder knows, in order, as a table of one column; punctuation marks are left out.

    near: a word; only the known words that it may misspell are listed, best first, which may be none.
    Raises an error for an encoder other than `model.text_transformer`.
    """
    from guidegraph.nodes.models.own.text_encoder import TextModel
    from guidegraph_runtime.text.unknown_words import list_vocabulary, near_words

    if not isinstance(embedder, TextModel):
        raise ValueError(f"text.vocabulary takes a model.text_transformer; found {type(embedder).__name__}")
    words = list_vocabulary(embedder.tokenizer)
    return Table({"word": near_words(near, words) if near else words})


@node("text.scale_positions", host=True)
def scale_positions(embedder: TextEmbedder, *, factor: Annotated[float, Gt(0)] = 1.0) -> TextEmbedder:
    """A text encoder whose position embeddings are `factor` times as large, to train it further.

    An encoder whose position embeddings stayed small compared with its word embeddings hardly knows their order, and
    learns it slowly: whose colour is whose, and which object is left of which. All other tensors are shared, and the
    input does not change. Raises an error for an embedder that is not of `model.text_transformer`.
    """
    from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
    from guidegraph.nodes.models.own.text_encoder import TextModel

    if not isinstance(embedder, TextModel):
        raise ValueError(f"expected a text encoder of model.text_transformer; found {type(embedder).__name__}")
    name = "encoder.position_embedding"
    return copy_sharing_tensors(embedder, {name: factor * embedder.get_parameter(name).detach()})
