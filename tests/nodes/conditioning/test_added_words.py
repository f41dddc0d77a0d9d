"""text.add_words and label.caption: new words in a text encoder, and captions of labels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.graph.training.trained_model import (
    get_trained_state,
    list_trained_parameters,
    live_copy,
    load_trained_state,
)
from guidegraph.nodes.conditioning.label import caption_labels
from guidegraph.nodes.conditioning.text_prompt import add_unknown_words, encode_text, list_words
from guidegraph.nodes.models.model_nodes import new_text_transformer
from guidegraph.nodes.models.own.text_encoder import unknown_words
from guidegraph.nodes.models.store import load_part, save_parts

CPU = torch.device("cpu")
TEXTS = ["a red turtle", "Turtle, on grass", "a fire engine"]


@pytest.fixture
def text() -> Any:
    return new_text_transformer(words=["a", "on", "grass", "red", ","], width=16, layers=1, heads=2)


def tokens(embedder: Any, prompt: str) -> torch.Tensor:
    actual = encode_text(embedder, prompt).tokens
    assert actual is not None
    return actual


def test_adding_words_does_not_change_the_encoding_of_existing_texts(text: Any) -> None:
    more: Any = add_unknown_words(text, TEXTS, seed=3)
    assert unknown_words(text.tokenizer, TEXTS) == ["engine", "fire", "turtle"]
    assert unknown_words(more.tokenizer, TEXTS) == []
    torch.testing.assert_close(tokens(more, "a red on grass"), tokens(text, "a red on grass"), rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        turtle, engine = tokens(more, "a turtle"), tokens(more, "a fire engine")
    assert not torch.allclose(turtle, engine, atol=1e-3)
    with pytest.warns(UserWarning, match="turtle"):
        text(["a turtle"])


def test_new_embeddings_have_the_spread_of_existing_ones_and_depend_on_the_seed(text: Any) -> None:
    words = [" ".join(f"w{i}" for i in range(400))]
    added = add_unknown_words(text, words, seed=1).encoder.token_embedding.added  # type: ignore[attr-defined]
    again = add_unknown_words(text, words, seed=1).encoder.token_embedding.added  # type: ignore[attr-defined]
    other = add_unknown_words(text, words, seed=2).encoder.token_embedding.added  # type: ignore[attr-defined]
    assert torch.equal(added, again)
    assert not torch.allclose(added, other)
    existing = text.encoder.token_embedding.weight[3:]
    torch.testing.assert_close(added.mean(0), existing.mean(0), rtol=0, atol=0.3)
    torch.testing.assert_close(added.std(0), existing.std(0), rtol=0.2, atol=0)


@pytest.mark.parametrize("freeze", [False, True])
def test_freeze_trains_only_the_new_rows(text: Any, freeze: bool) -> None:
    before = text.encoder.token_embedding.weight.clone()
    live: Any = live_copy(add_unknown_words(text, TEXTS, freeze=freeze), CPU)  # type: ignore[arg-type]
    parameters = [p.requires_grad_(True) for p in list_trained_parameters(live)]
    tokens(live, "a red turtle").sum().backward()
    optimiser = torch.optim.Adam(parameters, lr=0.1)
    optimiser.step()
    assert (len(parameters) == 1) == freeze
    assert torch.equal(live.encoder.token_embedding.known, before) == freeze
    assert torch.equal(text.encoder.token_embedding.weight, before)  # the input never changes


def test_it_is_saved_as_a_plain_encoder_and_survives_a_checkpoint(text: Any, tmp_path: Path) -> None:
    first: Any = add_unknown_words(text, TEXTS, seed=1, freeze=True)
    save_parts(tmp_path, {"text": first}, dtype=torch.float32)
    loaded: Any = load_part(tmp_path, "text", device=CPU, dtype=torch.float32)
    assert type(loaded.encoder.token_embedding) is torch.nn.Embedding
    torch.testing.assert_close(tokens(loaded, "a red turtle"), tokens(first, "a red turtle"), rtol=0, atol=0)
    second: Any = add_unknown_words(text, TEXTS, seed=2, freeze=True)
    load_trained_state(second, get_trained_state(first))
    torch.testing.assert_close(tokens(second, "a red turtle"), tokens(first, "a red turtle"), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"size mismatch for .*token_embedding\.weight"):
        load_trained_state(add_unknown_words(text, ["one"]), get_trained_state(first))  # type: ignore[arg-type]


def test_words_can_be_added_twice(text: Any) -> None:
    first: Any = add_unknown_words(text, ["a turtle"], seed=1)
    second: Any = add_unknown_words(first, ["a snail"], seed=2)
    torch.testing.assert_close(tokens(second, "a turtle"), tokens(first, "a turtle"), rtol=0, atol=0)
    assert second.encoder.config.vocabulary == text.encoder.config.vocabulary + 2


def test_other_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text\.add_words takes a model\.text_transformer; found function"):
        add_unknown_words(lambda texts: None, TEXTS)  # type: ignore[arg-type]


def test_labels_become_captions() -> None:
    names = ["fire-engine", "turtle"]
    assert caption_labels(torch.tensor([1, 0]), names) == ("a turtle", "a fire engine")
    assert caption_labels(torch.tensor([0]), names, template="{} on grass") == ("fire engine on grass",)
    with pytest.raises(ValueError, match=r"labels are 0 … 1; found 0 … 2"):
        caption_labels(torch.tensor([0, 2]), names)
    with pytest.raises(ValueError, match=r"has no \{\} for the name"):
        caption_labels(torch.tensor([0]), names, template="a photo")


def test_the_vocabulary_is_listed_and_near_words_alone_on_request(text: Any) -> None:
    assert list(list_words(text)["word"]) == ["a", "grass", "on", "red"]
    more = add_unknown_words(text, ["a turtle"], seed=1)
    assert list(list_words(more, near="Turtel")["word"]) == ["turtle"]
    assert list(list_words(more, near="xylophone")["word"]) == []
    with pytest.raises(ValueError, match=r"text\.vocabulary takes a model\.text_transformer; found function"):
        list_words(lambda texts: None)  # type: ignore[arg-type]


def test_the_mark_of_an_unknown_word_is_not_added(text: Any) -> None:
    assert unknown_words(text.tokenizer, ["a [UNK] turtle"]) == ["turtle"]
