"""Words and phrases replaced in texts, and the chunks of text encoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from guidegraph_runtime.operations.text import chunks, replace


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ({"c++": "rust"}, "C++ code, not c++11", "rust code, not c++11"),
        ({"(red)": "blue"}, "a (red) car", "a blue car"),
        ({"#1": "first"}, "#1, not #12", "first, not #12"),
        ({"İstanbul": "Rome"}, "in İstanbul", "in Rome"),
        ({"s": "x"}, "an ſ here", "an x here"),
        ({" and ": " or "}, "a and b", "a or b"),
    ],
)
def test_words_may_begin_or_end_with_any_character(words: dict[str, str], text: str, expected: str) -> None:
    assert replace(text, words=words) == [expected]


def test_whole_words_alone_are_replaced_and_the_longest_first() -> None:
    words = {"red": "blue", "red car": "van", "cat": "dog"}
    assert replace(["a RED car", "a red cat", "a redcar", "concat"], words=words) == [
        "a van",
        "a blue dog",
        "a redcar",
        "concat",
    ]


def test_a_replacement_is_taken_literally_and_not_replaced_again() -> None:
    assert replace("a b", words={"a": "b", "b": r"\1"}) == [r"b \1"]


LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def towers() -> list[dict[str, Any]]:
    """An encoder of chunks of three letters with marks, and one of a single chunk."""
    letters = Tokenizer(models.WordLevel({letter: id for id, letter in enumerate(LETTERS)}, "a"))
    letters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tower = {"tokenizer": letters.to_str().encode(), "length": 5, "start": 20, "end": 21, "pad": 22, "words": {}}
    return [tower, {**tower, "length": 9, "single": True}]


@pytest.mark.parametrize("beside", [["b c d e"], ["a", ["b", "b c d e"]]])
def test_texts_have_as_many_chunks_as_the_longest_beside_them(towers: list[dict[str, Any]], beside: list[Any]) -> None:
    alone, filled = chunks("a", towers=towers), chunks("a", beside, towers=towers)
    empty = [20, 21, 22, 22, 22]
    assert filled["ids_0"].tolist() == [[*alone["ids_0"][0].tolist(), empty]]
    assert filled["weights_0"].shape == (1, 2, 5)
    np.testing.assert_array_equal(filled["ids_1"], alone["ids_1"])
    np.testing.assert_array_equal(filled["some"], alone["some"])


def test_shorter_texts_beside_a_text_change_nothing(towers: list[dict[str, Any]]) -> None:
    alone, beside = chunks("a b c d", towers=towers), chunks("a b c d", ["", ["a"]], towers=towers)
    for name, value in alone.items():
        np.testing.assert_array_equal(beside[name], value)


def test_weights_of_texts_beside_are_parsed_as_those_of_the_texts(towers: list[dict[str, Any]]) -> None:
    weighted = chunks("a", ["(b c d:1.5)"], towers=towers, weighted=True)
    assert weighted["ids_0"].shape == (1, 1, 5)
