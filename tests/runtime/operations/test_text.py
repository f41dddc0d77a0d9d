"""Words and phrases replaced in texts."""

from __future__ import annotations

import pytest

from guidegraph_runtime.operations.text import replace


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
