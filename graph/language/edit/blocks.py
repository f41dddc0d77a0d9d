"""Cutting the text of an entry, with its comments, and pasting it into another mapping."""

from __future__ import annotations

from dataclasses import dataclass

from guidegraph.graph.errors import Mark
from guidegraph.graph.language.edit.document import WHITE_SPACE, Document, Replacement, refuse
from guidegraph.graph.language.edit.entries import INDENT, has_comment, insert_entry, remove_item, replace_value
from guidegraph.graph.language.edit.paths import PathStep, locate_value
from guidegraph.graph.language.edit.render import plain_text, render
from guidegraph.graph.language.edit.values import remove_step
from guidegraph.graph.language.yaml_tree import Tree, YamlMapping, shorten


@dataclass(frozen=True)
class Entry:
    """An entry of a mapping as text. lines: of the value, those after the first indented relative to the key.

    comments: the comment lines above. start: the offset of the first of these lines. mark: the key's position.
    """

    name: str
    value: Tree
    lines: tuple[str, ...]
    comments: tuple[str, ...]
    start: int
    mark: Mark
    has_comment: bool


def take_entry(document: Document, step: PathStep) -> Entry:
    """The text of an entry with the comments in it and those directly above."""
    key, value, mapping = step.key, step.value, step.collection
    assert key is not None, "an item of a list has no name"
    start, end = key.span[0], document.value_end(value)
    commented = has_comment(document, (start, document.line_end(end)))
    if mapping.flow:
        commented = has_comment(document, (start, end))
        lines = _lines(document, value.span[0], end, document.column(start))
        if len(lines) > 1:  # lines within braces may begin anywhere
            lines = (
                [lines[0], *(" " * INDENT + line.lstrip(" \t") for line in lines[1:])]
                if commented
                else [render(value, flow=True, quote="")]
            )
        return Entry(key.text, value, tuple(lines), (), start, key.mark, commented)
    column = document.column(start)
    gap = document.text[key.span[1] : value.span[0]]
    colon = key.span[1] + gap.index(":") + 1
    lines = _lines(document, colon, document.line_end(end), column)
    comments: list[str] = []
    first = document.line_start(start)
    while first > 0:  # the comment lines directly above, at the key's column
        above = document.line_start(first - 1)
        line = document.text[above : document.line_end(above)]
        if not line[column:].startswith("#") or line[:column].strip():
            break
        comments.insert(0, line[column:])
        first = above
    lines[0] = lines[0].strip(WHITE_SPACE)
    return Entry(key.text, value, tuple(lines), tuple(comments), first, key.mark, commented)


def _lines(document: Document, start: int, end: int, column: int) -> list[str]:
    """The lines of a span; those after the first without the indentation of their key."""
    first, *following = document.text[start:end].splitlines() or [""]
    return [first, *(line[min(column, len(line) - len(line.lstrip(" "))) :] for line in following)]


def cut_entry(document: Document, steps: tuple[PathStep, ...], entry: Entry) -> Document:
    """Remove an entry with the comments that ``take_entry`` took."""
    step = steps[-1]
    if step.collection.flow:
        return document.replace(remove_step(document, steps))
    if len(step.collection.items) == 1:
        document = document.replace([Replacement(entry.start, document.line_start(step.collection.span[0]), "")])
        return document.replace(remove_step(document, locate_value(document, ".".join(s.name for s in steps)).steps))
    return document.replace(remove_item(document, step.collection, step.index, entry.start))


def paste_entry(document: Document, path: str, entry: Entry, after: str = "") -> Document:
    """Add an entry to the mapping at a path, after the entry ``after``, by default at the end."""
    location = locate_value(document, path)
    mapping = location.tree
    if not isinstance(mapping, YamlMapping) or not mapping.items:
        flow = any(step.collection.flow for step in location.steps)
        return document.replace(_paste_as_only(document, location.steps[-1], entry, flow))
    names = [key.text for key, _ in mapping.items]
    order = [*names[: names.index(after) + 1], entry.name] if after else []
    if mapping.flow:
        return document.replace(insert_entry(document, mapping, entry.name, _to_flow(document, entry), order))
    return document.replace(insert_entry(document, mapping, entry.name, entry.lines, order, entry.comments))


def _paste_as_only(document: Document, step: PathStep, entry: Entry, flow: bool) -> list[Replacement]:
    key = step.key
    assert key is not None, "a block is an entry of a mapping"
    name = render(plain_text(entry.name), flow=flow, quote="")
    if flow:
        return replace_value(document, key, step.value, f"{{{name}: {_to_flow(document, entry)}}}")
    indent = " " * (document.column(key.span[0]) + INDENT)
    first = f"{name}: {entry.lines[0]}".rstrip()
    text = document.newline.join(indent + line if line else "" for line in (*entry.comments, first, *entry.lines[1:]))
    start = key.span[1] + document.text[key.span[1] : step.value.span[0]].index(":") + 1
    return [Replacement(start, document.value_end(step.value), f"{document.newline}{text}")]


def _to_flow(document: Document, entry: Entry) -> str:
    if len(entry.lines) == 1 and not entry.has_comment:
        return entry.lines[0]
    if entry.has_comment or entry.comments:
        message = f"the comments of '{shorten(entry.name)}' have no place between braces: write that block in lines"
        refuse(entry.mark, "bad-move", message, shorten(entry.name))
    return render(entry.value, flow=True, quote="")
