"""Insertion, replacement and removal of the entries of a mapping and the items of a list, in the style around them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from guidegraph.graph.language.edit.document import Document, Replacement
from guidegraph.graph.language.edit.render import plain_text, render
from guidegraph.graph.language.yaml_tree import BrokenYaml, Scalar, Span, Tree, YamlMapping, YamlSequence

_COMMENT = re.compile(r"(^|\s)#")
INDENT = 2


def replace_value(document: Document, key: Scalar | None, old: Tree, text: str) -> list[Replacement]:
    """Write ``text``, a value on one line, in place of a value. key: of its entry, None for an item of a list."""
    start, end = old.span[0], document.value_end(old)
    if isinstance(old, Scalar) and document.text[start : start + 1] in ("|", ">"):
        comment = re.search(r"\s+#.*", document.text[start : document.line_end(start)])
        text += comment[0] if comment else ""  # of the header of a block scalar: `|  # comment`
    if key is None:
        is_bare_dash = start == end and document.text[start - 1 : start] == "-"
        return [Replacement(start, end, f" {text}" if is_bare_dash else text)]
    gap = document.text[key.span[1] : start]
    if start == end:  # an empty value
        colon = ":" if ":" not in gap else ""
        return [Replacement(start, end, colon + (text if gap.endswith((" ", "\n")) and gap else f" {text}"))]
    if document.is_one_line((key.span[1], start)) or _COMMENT.search(gap):
        if document.is_one_line((key.span[1], start)) or document.column(start) > document.column(key.span[0]):
            return [Replacement(start, end, text)]
        return [Replacement(start, end, " " * (document.column(key.span[0]) + INDENT - document.column(start)) + text)]
    return [Replacement(key.span[1] + gap.index(":") + 1, end, f" {text}")]


def insert_entry(
    document: Document,
    mapping: YamlMapping,
    name: str,
    value: str | Sequence[str],
    order: Sequence[str] = (),
    comments: Sequence[str] = (),
) -> list[Replacement]:
    """Add an entry to a mapping: after the entries that ``order`` has before ``name``, by default after all.

    value: one line, or the lines of a block, those after the first indented relative to the key; in a mapping in flow
    style it must be one line. comments: lines to write above.
    """
    lines = [value] if isinstance(value, str) else list(value)
    earlier = set(order[: order.index(name)]) if name in order else {key.text for key, _ in mapping.items}
    index = max((i for i, (key, _) in enumerate(mapping.items) if key.text in earlier), default=-1)
    key_text = render(plain_text(name), flow=mapping.flow, quote="")
    if mapping.flow:
        return [_insert_in_flow(document, mapping, index, f"{key_text}: {lines[0]}")]
    column = document.column(mapping.items[0][0].span[0])
    padding = " " * _padding(document, mapping, index, len(key_text)) if len(lines) == 1 else " "
    text = f"{key_text}:{padding}{lines[0]}" if lines[0] else f"{key_text}:"
    indent = " " * column
    entry = document.newline.join(indent + line if line else "" for line in (*comments, text, *lines[1:]))
    if index < 0:
        start = mapping.items[0][0].span[0]
        return [Replacement(start, start, f"{entry.removeprefix(indent)}{document.newline}{indent}")]
    value_before = mapping.items[index][1]
    position = value_before.span[1]
    # The empty lines at the end of a block scalar with `+` are part of it.
    if "+" in _block_header(document, value_before) and document.text[:position].endswith("\n"):
        return [Replacement(position, position, f"{entry}{document.newline}")]
    position = document.line_end(document.value_end(value_before))
    return [Replacement(position, position, f"{document.newline}{entry}")]


def _block_header(document: Document, tree: Tree) -> str:
    """The header of the block scalar with which a value ends, such as ``|+``; empty if it ends otherwise."""
    while not isinstance(tree, (Scalar, BrokenYaml)) and tree.items:
        last = tree.items[-1]
        tree = last[1] if isinstance(last, tuple) else last
    start = tree.span[0]
    header = document.text[start : document.line_end(start)].partition("#")[0]
    return header if header.startswith(("|", ">")) else ""


def _insert_in_flow(document: Document, mapping: YamlMapping, index: int, entry: str) -> Replacement:
    if not mapping.items:
        start, end = mapping.span
        return (
            Replacement(start + 1, end - 1, entry)
            if not has_comment(document, mapping.span)
            else Replacement(end - 1, end - 1, entry)
        )
    if index < 0:
        start = mapping.items[0][0].span[0]
        return Replacement(start, start, f"{entry}, ")
    end = document.value_end(mapping.items[index][1])
    return Replacement(end, end, f", {entry}")


def has_comment(document: Document, span: Span) -> bool:
    """Whether a span contains a comment, or a `#` after a space in a text."""
    return _COMMENT.search(document.text, *span) is not None


def _padding(document: Document, mapping: YamlMapping, index: int, length: int) -> int:
    """The spaces after the colon of a new key, which align its value with a neighbour's if those are aligned."""
    for key, value in mapping.items[max(index, 0) : max(index, 0) + 2]:
        gap = document.text[key.span[1] : value.span[0]]
        if gap.startswith(":  ") and document.is_one_line((key.span[0], value.span[0])):
            column = value.span[0] - key.span[0]
            return max(column - length - 1, 1)
    return 1


def replace_key(document: Document, key: Scalar, value: Tree, name: str) -> list[Replacement]:
    """Rename an entry; its value keeps its column where spaces before it allow this."""
    start, end = key.span
    quote = document.text[start] if document.text[start] in "\"'" else ""
    text = render(plain_text(name) if not quote else Scalar(name, False, key.mark), flow=True, quote=quote)
    gap = document.text[end : value.span[0]]
    if not gap.startswith(":  ") or gap[1:].strip(" "):
        return [Replacement(start, end, text)]
    spaces = max(len(gap) - 1 - (len(text) - (end - start)), 1)
    return [Replacement(start, value.span[0], f"{text}:{' ' * spaces}")]


def item_spans(document: Document, collection: YamlMapping | YamlSequence) -> list[Span]:
    """The span of each entry or item, in a block without the dash."""
    if isinstance(collection, YamlMapping):
        return [(key.span[0], document.value_end(value)) for key, value in collection.items]
    return [(item.span[0], document.value_end(item)) for item in collection.items]


def remove_item(
    document: Document, collection: YamlMapping | YamlSequence, index: int, first: int | None = None
) -> list[Replacement]:
    """Remove one of several entries or items.

    first: the start of the first line to remove, in a block; by default the entry's own, so comments above it stay.
    """
    spans = item_spans(document, collection)
    start, end = spans[index]
    if collection.flow and index + 1 < len(spans):
        return [Replacement(start, spans[index + 1][0], "")]
    if collection.flow:
        previous = spans[index - 1][1]
        if not has_comment(document, (previous, start)):
            return [Replacement(previous, end, "")]
        comma = re.match(r"\s*,", document.text[end:])  # the comment stays, and with it the comma before it
        return [Replacement(start, end + (comma.end() if comma else 0), "")]
    before = document.text[document.line_start(start) : start]
    if isinstance(collection, YamlMapping) and before.strip():  # the first of a mapping in a list: "- key: value"
        return [Replacement(start, spans[1][0], "")]
    first, last = document.line_start(start) if first is None else first, document.next_line(end)
    if last == len(document.text) and document.line_end(end) == last and first > 0:  # no line end at the end
        return [Replacement(document.line_end(document.line_start(first - 1)), last, "")]
    previous_item = collection.items[index - 1]
    value_before = previous_item[1] if isinstance(previous_item, tuple) else previous_item
    if index > 0 and (header := _block_header(document, value_before)):
        return [_remove_after_block_scalar(document, header, (first, last), document.column(spans[0][0]))]
    return [Replacement(first, last, "")]


def _remove_after_block_scalar(document: Document, header: str, span: Span, column: int) -> Replacement:
    """Remove lines after a block scalar. Comments and empty lines that follow must not become part of its text.

    Indented comments move to the column of the entries; empty lines go where the text keeps them (``+``).
    """
    first, last = span
    kept: list[str] = []
    end = last
    while end < len(document.text):
        line = document.text[end : document.next_line(end)]
        if line.strip() and not line.lstrip(" ").startswith("#"):
            break
        end += len(line)
        if line.strip():
            kept.append(line[max(len(line) - len(line.lstrip(" ")) - column, 0) :])
        elif "+" not in header:
            kept.append(line)
    text = "".join(kept)
    return Replacement(first, last, "") if text == document.text[last:end] else Replacement(first, end, text)
