"""Extracting nodes into a workflow of their own, which a node then uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from guidegraph.graph.language.edit.blocks import cut_entry, paste_entry, take_entry
from guidegraph.graph.language.edit.document import Document, find_value, refuse
from guidegraph.graph.language.edit.entries import replace_key
from guidegraph.graph.language.edit.links import (
    Block,
    Link,
    block_path,
    defines,
    find_block_tree,
    list_links,
    relink,
    sees,
)
from guidegraph.graph.language.edit.nodes import check_new_name, locate_node, make_node, node_block, write_node
from guidegraph.graph.language.edit.paths import Location, locate_value
from guidegraph.graph.language.edit.render import plain_text, render
from guidegraph.graph.language.parse import VERSION


class Extraction(NamedTuple):
    """The two texts of an extraction: the workflow, and the one that it uses now."""

    document: Document
    extracted: Document


def extract_nodes(
    document: Document,
    paths: Sequence[str],
    name: str,
    use: str,
    find_type: Callable[[Link], str],
    file: str = "extracted.yaml",
) -> Extraction:
    """Move nodes of one block to a workflow of their own, and use it as the node ``name``.

    paths: the nodes. use: the new file as the node names it, such as ``./blocks/step.yaml``. find_type: the type of a
    link's value, for the new workflow's parameters. file: the new file's path for messages. What the nodes link to
    outside becomes parameters, and what is linked from outside becomes outputs.
    Raises ``WorkflowError`` if the nodes are in several blocks, or nothing links to them.
    """
    locations, home = _locate_nodes(document, paths)
    names = [location.names[-1] for location in locations]
    check_new_name(document, name, locations[0], moved=locations[names.index(name)] if name in names else None)
    links = list_links(document)
    inner = [link for link in links if any(link.is_inside(location.path) for location in locations)]
    outgoing = [link for link in links if link.head in names and sees(link, home) and link not in inner]
    if not outgoing:
        message = "nothing outside links to these nodes: a workflow of their own would have no output"
        refuse(locations[0].mark, "no-output", message, locations[0].path)
    incoming = [link for link in inner if not _is_internal(document, link, home, names)]
    parameters = _name_values(link.scalar.text for link in incoming)
    outputs = _name_values(link.scalar.text for link in outgoing)
    relinked = document.replace([relink(document, link, f"params.{parameters[link.scalar.text]}") for link in incoming])
    types = {link.scalar.text: find_type(link) for link in reversed(incoming)}
    declared = {name: types[text] for text, name in parameters.items()}
    extracted = _make_workflow(document, declared, {name: text for text, name in outputs.items()}, file)
    for location in locations:
        entry = take_entry(relinked, locate_value(relinked, location.path).steps[-1])
        extracted = paste_entry(extracted, "nodes", entry)
    changed = document.replace([relink(document, link, f"{name}.{outputs[link.scalar.text]}") for link in outgoing])
    inputs = {parameter: text for text, parameter in parameters.items()}
    return Extraction(_use_workflow(changed, locations, home, name, use, inputs), extracted)


def _locate_nodes(document: Document, paths: Sequence[str]) -> tuple[list[Location], Block]:
    """The nodes in the order of the text, and their block."""
    if not paths:
        refuse(document.root.mark, "unknown-path", "expected the paths of one node or more to extract", "nodes")
    locations = sorted((locate_node(document, path) for path in dict.fromkeys(paths)), key=lambda item: item.mark)
    home = node_block(locations[0])[0]
    for location in locations:
        if node_block(location)[0] != home:
            message = f"expected nodes of one block, '{block_path(home)}'"
            refuse(location.mark, "bad-move", message, location.path)
    return locations, home


def _is_internal(document: Document, link: Link, home: Block, names: Sequence[str]) -> bool:
    """Whether a link in an extracted node leads to an extracted node, or to a loop among them."""
    loops = link.block[len(home) :]
    if link.head in ("carry", "loop"):
        return any(defines(document, link.block[: len(home) + i + 1], link.head, link.rest) for i in range(len(loops)))
    if link.head == "params":
        return False
    blocks = (link.block[: len(home) + i + 1] for i in range(len(loops)))
    return link.head in names or any(
        find_value(find_block_tree(document, block), link.head) is not None for block in blocks
    )


def _name_values(texts: Iterable[str]) -> dict[str, str]:
    """A name for each link: its last word, or all of them where several links end with the same one."""
    distinct = list(dict.fromkeys(texts))
    last = [text.rpartition(".")[2] for text in distinct]
    names: dict[str, str] = {}
    for text, word in zip(distinct, last, strict=True):
        name = word if last.count(word) == 1 else text.removeprefix("params.").replace(".", "_")
        while name in names.values():
            name += "_"
        names[text] = name
    return names


def _make_workflow(document: Document, types: Mapping[str, str], outputs: Mapping[str, str], file: str) -> Document:
    """A workflow without nodes, with the requirements of ``document``."""
    lines = [f"guidegraph: {VERSION}"]
    if (requires := find_value(document.root, "requires")) is not None:
        lines.append(f"requires: {render(requires, flow=False)}")
    if types:
        kinds = {name: render(plain_text(kind), flow=True, quote="") for name, kind in types.items()}
        lines += ["params:", *(f"  {name}: {{type: {kind}}}" for name, kind in kinds.items())]
    links = ", ".join(f"{name}: {link}" for name, link in outputs.items())
    lines += ["nodes:", f"outputs: {{{links}}}", ""]
    return Document.parse(document.newline.join(lines), file)


def _use_workflow(
    document: Document, locations: Sequence[Location], home: Block, name: str, use: str, inputs: Mapping[str, str]
) -> Document:
    """Remove the nodes, and add one that uses the new workflow where the first of them was."""
    first = locations[0].names[-1]
    temporary = first + "_"
    block = block_path(home)
    while find_value(locate_value(document, block).tree, temporary) is not None:
        temporary += "_"
    document = write_node(document, block, temporary, make_node(use, inputs, {}), first)
    for location in locations:
        steps = locate_value(document, location.path).steps
        document = cut_entry(document, steps, take_entry(document, steps[-1]))
    step = locate_value(document, f"{block}.{temporary}").steps[-1]
    assert step.key is not None
    return document.replace(replace_key(document, step.key, step.value, name))
