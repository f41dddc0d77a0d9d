"""Insertion, replacement and removal of the entries of a mapping and the items of a list, in the style around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from guidegraph.graph.language.edit.document import Document, Replacement, find_value, plain_text, render
from guidegraph.graph.language.edit.paths import LINK_GROUPS
from guidegraph.graph.language.yaml_tree import BrokenYaml, Scalar, Span, Tree, YamlMapping, YamlSequence
from guidegraph_runtime.declare.choice_words import CHOOSE, OF, OTHERWISE, WHEN

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


Block: TypeAlias = tuple[str, ...]
"""A block by the loops around it: ``()`` for the top level, ``("sample",)`` for the body of the loop ``sample``."""

RESERVED = ("params", "carry", "loop")


@dataclass(frozen=True)
class Link:
    """A link in the text. block: the block whose names it sees. path: its own path."""

    scalar: Scalar
    block: Block
    path: str

    @property
    def head(self) -> str:
        """The node's name, or ``params``, ``carry`` or ``loop``."""
        return self.scalar.text.partition(".")[0]

    @property
    def rest(self) -> str:
        """The part after the first dot; empty if there is none."""
        return self.scalar.text.partition(".")[2]

    def is_inside(self, path: str) -> bool:
        """Whether the link is part of the node or group at ``path``."""
        return self.path.startswith(f"{path}.")


def list_links(document: Document) -> list[Link]:
    """All links of a workflow in the order of its text, including links of options to parameters."""
    return [
        *_links_in_block(find_value(document.root, "nodes"), (), "nodes"),
        *_links_by_name(find_value(document.root, "outputs"), (), "outputs"),
    ]


def block_path(block: Block) -> str:
    """The path of a block: ``nodes``, or ``nodes.sample.body``."""
    return "nodes" + "".join(f".{loop}.body" for loop in block)


def _links_in_block(tree: Tree | None, block: Block, path: str) -> Iterator[Link]:
    for key, node in tree.items if isinstance(tree, YamlMapping) else ():
        node_path = f"{path}.{key.text}"
        if isinstance(node, YamlMapping):
            yield from _links_in_node(node, block, node_path, key.text)


def _links_in_node(node: YamlMapping, block: Block, path: str, name: str) -> Iterator[Link]:
    inner = (*block, name)
    for key, value in node.items:
        group, group_path = key.text, f"{path}.{key.text}"
        if group == "in":
            yield from _links_by_name(value, block, group_path)
        elif group in LINK_GROUPS:
            yield from _links_by_name(value, block if group == "carry" else inner, group_path)
        elif group == "loop":
            yield from _links_under(value, ("over",), block, group_path)
        elif group == CHOOSE:
            yield from _links_under(value, (WHEN, OTHERWISE), block, group_path)
            yield from _links_by_name(find_value(value, OF), block, f"{group_path}.{OF}")
        elif group == "body":
            yield from _links_in_block(value, inner, group_path)
        elif group == "preview":
            yield from _links_by_name(find_value(value, "in"), inner, f"{group_path}.in")
            yield from _option_links(value, ("every",), block, group_path)
        elif group == "train":
            yield from _links_in_training(value, inner, group_path)
        elif group == "checkpoint":
            yield from _option_links(value, ("path", "every", "check"), block, group_path)
        elif group == "steps" and isinstance(value, Scalar) and isinstance(value.value, str):
            yield Link(value, block, group_path)  # it may come from a node too
        elif group in ("precision", "seed") and isinstance(value, Scalar) and _is_parameter(value):
            yield Link(value, block, group_path)


def _links_by_name(tree: Tree | None, block: Block, path: str) -> Iterator[Link]:
    for key, value in tree.items if isinstance(tree, YamlMapping) else ():
        if isinstance(value, Scalar):
            yield Link(value, block, f"{path}.{key.text}")
        elif isinstance(value, YamlSequence):
            for i, item in enumerate(value.items):
                if isinstance(item, Scalar):
                    yield Link(item, block, f"{path}.{key.text}.{i}")


def _links_under(tree: Tree, names: tuple[str, ...], block: Block, path: str) -> Iterator[Link]:
    for key, value in tree.items if isinstance(tree, YamlMapping) else ():
        if key.text in names and isinstance(value, Scalar):
            yield Link(value, block, f"{path}.{key.text}")


def _option_links(tree: Tree, names: tuple[str, ...], block: Block, path: str) -> Iterator[Link]:
    return (link for link in _links_under(tree, names, block, path) if _is_parameter(link.scalar))


def _links_in_training(tree: Tree, block: Block, path: str) -> Iterator[Link]:
    for i, entry in enumerate(tree.items if isinstance(tree, YamlSequence) else ()):
        for key, value in entry.items if isinstance(entry, YamlMapping) else ():
            if not isinstance(value, Scalar) or key.text == "model":
                continue
            if key.text == "loss" or value.text.startswith("params."):  # here also where it is quoted
                yield Link(value, block, f"{path}.{i}.{key.text}")


def _is_parameter(scalar: Scalar) -> bool:
    return scalar.plain and scalar.text.startswith("params.")


def defines(document: Document, block: Block, head: str, name: str) -> bool:
    """Whether the innermost loop of a block gives a carry or a loop value its meaning."""
    loop = find_value(find_block_tree(document, block[:-1]), block[-1])
    if head == "carry":
        return find_value(find_value(loop, "carry"), name) is not None
    item = find_value(find_value(loop, "loop"), "as")
    return name == "index" or getattr(item, "text", None) == name.partition(".")[0]


def find_definer(document: Document, block: Block, link: Link) -> Block | None:
    """The innermost loop around a place that gives a link to a carry or a loop value its meaning; None without one."""
    prefixes = (block[:length] for length in range(len(block), 0, -1))
    return next((prefix for prefix in prefixes if defines(document, prefix, link.head, link.rest)), None)


def find_block_tree(document: Document, block: Block) -> Tree | None:
    """The nodes of a block."""
    tree = find_value(document.root, "nodes")
    for loop in block:
        tree = find_value(find_value(tree, loop), "body")
    return tree


def sees(link: Link, block: Block) -> bool:
    """Whether a link sees the names of a block: it is in the block or in a loop inside."""
    return link.block[: len(block)] == block


def links_to_node(document: Document, block: Block, name: str) -> list[Link]:
    """The links to a node of a block. Names are not shadowed, so no other node is meant."""
    return [link for link in list_links(document) if link.head == name and sees(link, block)]


def relink(document: Document, link: Link, text: str) -> Replacement:
    """Write another link in place of one, with the quotes of that."""
    start, end = link.scalar.span[0], document.value_end(link.scalar)
    quote = document.text[start] if not link.scalar.plain and document.text[start] in "\"'" else ""
    return Replacement(start, end, render(Scalar(text, False, link.scalar.mark), flow=True, quote=quote))
