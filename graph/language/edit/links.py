"""The links of a workflow's text, each with the block whose names it sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from guidegraph.graph.language.edit.document import Document, Replacement, find_value
from guidegraph.graph.language.edit.paths import LINK_GROUPS
from guidegraph.graph.language.edit.render import render
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlMapping, YamlSequence
from guidegraph_runtime.declare.choice_words import CHOOSE, OF, OTHERWISE, WHEN

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
