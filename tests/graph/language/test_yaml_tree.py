"""The YAML of workflows: values of scalars, positions, and refused syntax."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.language.yaml_tree import (
    Scalar,
    YamlMapping,
    YamlSequence,
    describe_tree,
    read_text,
    read_tree,
    shorten,
    to_python,
)


def value(text: str) -> Any:
    tree, problems = read_tree(text, "f")
    assert tree is not None
    assert problems == []
    return to_python(tree)


def positions(text: str) -> list[tuple[int, int, str]]:
    """Line, column and code of all problems."""
    return [(p.mark.line, p.mark.column, p.code) for p in read_tree(text, "f")[1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("-12", -12),
        ("+3", 3),
        ("0", 0),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("Null", None),
        ("~", None),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("9" * 300, int("9" * 300)),
    ],
)
def test_plain_scalars_with_a_value(text: str, expected: Any) -> None:
    result = value(f"a: {text}")["a"]
    assert result == expected
    assert type(result) is type(expected)


TEXTS = "on off yes no y n On 007 1_000 0x1f 0o17 1:30 2026-01-31 1e 1e999 -1e999 .e5 1.2.3 nan inf = tRUE"


@pytest.mark.parametrize("text", [*TEXTS.split(), "9" * 10_000, "1" * 5000 + "e1"])
def test_everything_else_is_text(text: str) -> None:
    assert value(f"a: {text}") == {"a": text}


def test_nan_is_a_number() -> None:
    assert math.isnan(value("[.nan, .NaN]")[0])


def test_quoted_scalars_are_text() -> None:
    assert value("""["1", '1e-4', "null", 'true', "\\u00e9"]""") == ["1", "1e-4", "null", "true", "é"]
    assert value("a: |\n  1\nb: >\n  x\n  y\n") == {"a": "1\n", "b": "x y\n"}


def test_keys_are_text() -> None:
    tree, _ = read_tree("null: 1\non: 2\n1e-4: 3\n'': 4\n", "f")
    assert isinstance(tree, YamlMapping)
    assert [key.text for key, _ in tree.items] == ["null", "on", "1e-4", ""]


def test_every_value_has_its_position() -> None:
    tree, _ = read_tree("\ufeffé: {b: [1,\n  ü]}\r\nc:\r\n- d\r\n", "f")
    assert isinstance(tree, YamlMapping)
    (key, inner), (_, second) = tree.items
    assert (tree.mark.line, tree.mark.column) == (1, 1)
    assert isinstance(inner, YamlMapping)
    assert (key.mark.column, inner.mark.column) == (1, 4)
    items = inner.items[0][1]
    assert isinstance(items, YamlSequence)
    assert [(i.mark.line, i.mark.column) for i in items.items] == [(1, 9), (2, 3)]
    assert isinstance(second, YamlSequence)
    assert (second.items[0].mark.line, second.items[0].mark.column) == (4, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [(1, 1, "empty")]),
        ("# only this\n", [(1, 1, "empty")]),
        ("a: [", [(2, 1, "yaml-syntax")]),
        ("a: 1\n\tb: 2", [(2, 1, "yaml-syntax")]),
        ("a: b: c", [(1, 5, "yaml-syntax")]),
        ("a: @x", [(1, 4, "yaml-syntax")]),
        ("a: 'x", [(1, 6, "yaml-syntax")]),
        ('a: "\\ud800"', [(1, 7, "yaml-syntax")]),
        ("é: 1\nä: \x07", [(2, 4, "yaml-syntax")]),
        ("a: \x00", [(1, 4, "yaml-syntax")]),
        ("a: \ud800", [(1, 4, "yaml-syntax")]),
        ("a: 1\n---\nb: 2", [(2, 1, "several-documents")]),
        ("a: &x 1\nb: *x\nc: *y", [(1, 4, "alias"), (2, 4, "alias"), (3, 4, "alias")]),
        ("a: {<<: {b: 1}, c: 2}", [(1, 5, "alias")]),
        ("a: !!python/object:os.system ls\nb: !mine [1]\nc: ! 5", [(1, 4, "tag"), (2, 4, "tag"), (3, 4, "tag")]),
        ("{[a]: 1, {b: c}: 2, *d : 3}", [(1, 2, "bad-key"), (1, 10, "bad-key"), (1, 21, "alias")]),
        ("? [a]\n: 1", [(1, 3, "bad-key")]),
    ],
)
def test_syntax_outside_plain_yaml_is_reported(text: str, expected: list[tuple[int, int, str]]) -> None:
    assert sorted(positions(text)) == expected


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 10_000, "? " * 10_000, "[[" * 40 + "]]" * 40])
def test_deep_nesting_is_refused_at_once(text: str) -> None:
    assert [code for _, _, code in positions(text)] == ["too-deep"]


def test_a_tab_is_named_in_the_message() -> None:
    assert "a tab: indent with spaces" in read_tree("a:\n\t- b", "f")[1][0].message


def test_invalid_utf_8_is_located_by_character(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + "ok: 1\né: ".encode() + b"\xff")
    with pytest.raises(WorkflowError) as caught:
        read_text(path, "shown.yaml")
    (problem,) = caught.value.problems
    assert str(problem.mark) == "shown.yaml:2:4"
    assert problem.code == "not-text"


@pytest.mark.parametrize("name", ["missing.yaml", ".", "nul\0.yaml", "x" * 5000])
def test_unreadable_files_are_problems(tmp_path: Path, name: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        read_text(tmp_path / name)
    assert [p.code for p in caught.value.problems] == ["no-file"]


def test_names_in_messages_are_short_and_printable() -> None:
    assert shorten("a" * 100) == "a" * 60 + "…"
    assert shorten("\x1b[31mred\0") == "\\x1b[31mred\\x00"
    tree, _ = read_tree("[1, a, [], {}, null, '']", "f")
    assert isinstance(tree, YamlSequence)
    descriptions = ["int '1'", "str 'a'", "a list", "a mapping", "nothing", "an empty text"]
    assert [describe_tree(item) for item in tree.items] == descriptions
    assert isinstance(tree.items[0], Scalar)
