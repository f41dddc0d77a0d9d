"""Prompts of released text encoders: weighted words, learned embeddings of new words, and SDXL's sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from guidegraph.graph.frozen_models import ExportRecipe
from guidegraph.graph.node import node
from guidegraph.nodes import port_shapes
from guidegraph.nodes.derive import node_from_operation
from guidegraph.nodes.types import Condition, Table, TextEmbedder
from guidegraph_runtime.text.chunks import list_vocabulary, near_words, parse_prompt

if TYPE_CHECKING:
    from guidegraph.nodes.models.released.prompt_embedder import TowerText

Side = Annotated[int, Gt(0)]
Offset = Annotated[int, Ge(0)]


def split_by_weights(embedder: TextEmbedder | None = None, **_: object) -> ExportRecipe | None:
    """The export recipe of weighted texts: as for `text.encode`, with the brackets parsed by the runtime."""
    recipe = text_export_recipe(embedder)
    if recipe is None or recipe.operation not in ("text.tokenize", "text.chunks"):
        return None
    return replace(recipe, settings={**recipe.settings, "weighted": True})


@node("text.weighted", host=True, version=2, split=split_by_weights, shape=port_shapes.prompt_rows)
def encode_weighted(embedder: TextEmbedder, prompt: str | Sequence[str]) -> Condition:
    """Encode a prompt, or a list of prompts, with weighted words as a condition.

    `(word:1.3)` has weight 1.3, `(word)` 1.1 and `[word]` 1/1.1; nested brackets multiply, and a backslash
    makes a bracket or a colon plain text. A weight multiplies the embeddings of its tokens; then all embeddings of the
    prompt are scaled by one number, so that their mean over tokens and width is the same as without weights; T5's, and
    those whose mean is 0, are not scaled.
    For the text encoders of `checkpoint.load`; other encoders only take prompts without weights. Raises an error for
    unpaired brackets.
    """
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts:
        raise ValueError("there are no prompts: give one as text, or a list of at least one")
    parsed = [parse_prompt(text) for text in texts]
    if all(weight == 1 for fragments in parsed for _, weight in fragments):
        return embedder(["".join(text_part for text_part, _ in fragments) for fragments in parsed])
    return _require_towers(embedder, "a weight in a prompt").embed_weighted(parsed)


@node("text.embedding", host=True)
def add_word_embedding(embedder: TextEmbedder, *, path: Path, token: str) -> TextEmbedder:
    """A copy of a text encoder with one more word: a textual inversion (Gal et al. 2022) from a file.

    path: a file written by diffusers' or the original training (`.bin`, `.pt` or `.safetensors`), for SDXL with one
    embedding for each of its two encoders. token: its word in prompts, which may stand for several vectors.
    The copy shares all other weights. Raises an error if the file does not fit the encoder, or if the encoder already
    has the word.
    """
    from guidegraph.nodes.checkpoints.textual_inversion import add_embedding

    return add_embedding(_require_towers(embedder, "text.embedding"), path, token)


@node("text.picture_size", host=True, version=2)
def picture_size(
    embedder: TextEmbedder,
    *,
    original: tuple[Side, Side] | None = None,
    crop: tuple[Offset, Offset] = (0, 0),
    target: tuple[Side, Side],
) -> TextEmbedder:
    """SDXL's text encoder with sizes in its vector (Podell et al. 2023, section 2.2), each as height, width in pixels.

    Without this node, SDXL is told the size of the picture that it draws, uncropped.
    original: size of the picture before scaling, by default `target`. crop: pixels cropped at the top and at the left.
    target: size of the result. Raises an error for a text encoder that is not SDXL's.
    """
    from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
    from guidegraph.nodes.models.released.prompt_embedder import PictureSize, ReleasedText

    released = _require_towers(embedder, "text.picture_size")
    if not isinstance(released, ReleasedText) or released.size_width is None:
        raise ValueError("this text encoder takes no sizes: text.picture_size is for SDXL's")
    copied = copy_sharing_tensors(released)
    copied.size = PictureSize(original or target, crop, target)
    return copied


def _require_towers(embedder: TextEmbedder, purpose: str) -> TowerText:
    from guidegraph.nodes.models.released.prompt_embedder import TowerText

    if not isinstance(embedder, TowerText):
        raise ValueError(
            f"{purpose} needs a CLIP, T5 or Qwen text encoder of checkpoint.load; found {type(embedder).__name__}"
        )
    return embedder


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
    from guidegraph.nodes.models.own.text_encoder import TextModel, add_words, unknown_words

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
