"""Messages about words that a tokenizer does not know."""

from __future__ import annotations

import warnings

import pytest

from guidegraph_runtime.text.chunks import SAMPLED, encode, load_tokenizer, unknown_words_message, warn_of_unknown_words
from tests.paths import ROOT

SCENES = ROOT / "workflows" / "models" / "scenes" / "tokenizer.json"


def warning_of(text: str) -> str:
    """The warning that a prompt of the embedded model gets."""
    tokenizer = load_tokenizer(SCENES.read_bytes())
    ids, _ = encode(tokenizer, [text])
    with pytest.warns(UserWarning, match="not trained on") as caught:
        warn_of_unknown_words(tokenizer, [text], ids)
    (warning,) = caught
    return str(warning.message)


@pytest.mark.parametrize(
    ("word", "near"),
    [("tigre", "tiger"), ("gras", "grass"), ("nigth", "night"), ("ELEFANTS", "elephant"), ("pinguin", "penguin")],
)
def test_a_misspelt_word_gets_the_near_one(word: str, near: str) -> None:
    assert f"'{word}' (did you mean '{near}'" in warning_of(f"a {word} on sand")


def test_the_short_list_of_words_is_given_in_full() -> None:
    message = warning_of("a dragon, a dragon and a Castle!")
    assert message.startswith("words this model was not trained on: 'dragon', 'Castle', '!'; it knows: a, an, and, ")
    _, _, listed = message.partition("it knows: ")
    vocabulary = load_tokenizer(SCENES.read_bytes()).get_vocab()
    assert set(listed.split(", ")) == {*vocabulary} - {"[PAD]", "[START]", "[UNK]", ",", "."}


def test_of_a_long_list_some_are_given_and_where_the_rest_is() -> None:
    vocabulary = sorted(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(500))
    message = unknown_words_message(["wordaa"[::-1]], vocabulary)
    assert "it knows 500 words, among them: " in message
    assert message.endswith("tokenizer.json beside its weights lists all")
    assert message.count(", word") == SAMPLED - 1


def test_known_words_are_not_warned_of() -> None:
    tokenizer = load_tokenizer(SCENES.read_bytes())
    texts = ["A tiger on grass, under the night sky.", ""]
    ids, _ = encode(tokenizer, texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unknown_words(tokenizer, texts, ids)


def test_a_text_of_a_thousand_unknown_words_gets_a_short_warning() -> None:
    message = unknown_words_message([f"qz{i}" for i in range(998)] + ["q" * 5000], ["a", "tiger"])
    assert "'qz19', and 979 more; it knows: a, tiger" in message
    assert "'qz20'" not in message
    assert len(unknown_words_message(["q" * 5000], ["a"])) < 200
