"""New nodes for a workflow: the search for one, and its links before it is added."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from guidegraph.graph.errors import GuidegraphError, suggest
from guidegraph.graph.language.edit.links import RESERVED
from guidegraph.graph.language.syntax import ParsedNode, list_links
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.node_json import describe_node
from guidegraph.graph.port import Port
from guidegraph.graph.resolution.ports import accepts
from guidegraph.graph.resolution.scope import TypedSource
from guidegraph.graph.sources import Output
from guidegraph.graph.types import takes_literal
from guidegraph.page.forms import Row, describe_field
from guidegraph.page.wiring import Target, Wiring, iterate_outwards

MAX_SHOWN = 60


class UnknownPlace(GuidegraphError):
    """The page asked for a block, a place or a node that the workflow does not have."""


@dataclass(frozen=True)
class Place:
    """Where a node is to be added. link: one that it should take; target: the place that should take its output."""

    block: str = "nodes"
    link: str = ""
    target: Target | None = None


def find_place(wiring: Wiring, block: str, link: str, path: str) -> Place:
    """A place from a request; a target sets the block and, unless there is one, the link. Raises ``UnknownPlace``."""
    if not path:
        if block not in wiring.scopes:
            raise UnknownPlace(f"there is no block '{block[:100]}': {suggest(block[:60], wiring.scopes, 'blocks')}")
        return Place(block, link)
    target = find_target(wiring, path)
    return Place(target.block, link or (target.links[0] if target.links else ""), target)


def find_target(wiring: Wiring, path: str) -> Target:
    """The place with this path. Raises ``UnknownPlace``."""
    if path not in wiring.targets:
        raise UnknownPlace(f"nothing takes a link at '{path[:100]}'")
    return wiring.targets[path]


def search_nodes(wiring: Wiring, text: str, place: Place) -> Row:
    """Nodes whose id or documentation has all words of a text, that take the link and feed the target of the place.

    The best come first: the words in the id, then inputs before settings, then ports of exactly that type, then the
    order of ids. more: the number of those left out.
    """
    words = text.lower().split()
    typed = wiring.resolve(place.link, place.block) if place.link else None
    matches: list[tuple[bool, bool, bool, str]] = []
    for spec in wiring.registry.nodes.values():
        if not all(word in spec.id.lower() or word in spec.doc.lower() for word in words):
            continue
        ports = _find_ports(spec, typed)
        if (place.link and not ports) or (place.target and not _find_output(spec, place.target)):
            continue
        is_setting = bool(ports) and all(port.setting for port in ports)
        is_exact = typed is None or any(port.type == typed.type for port in ports)
        matches.append((not all(word in spec.id for word in words), is_setting, not is_exact, spec.id))
    matches.sort()
    rows = [{"id": id, "summary": wiring.registry.nodes[id].summary} for *_, id in matches[:MAX_SHOWN]]
    return {"nodes": rows, "more": len(matches) - len(rows)}


def find_insertions(wiring: Wiring, use: str) -> list[Row]:
    """The wires that a node can be put into: the path and the link of each."""
    spec = _find_spec(wiring, use)
    return [
        {"path": target.path, "link": link}
        for target in wiring.targets.values()
        if _find_output(spec, target)
        for link in target.links
        if _find_ports(spec, wiring.resolve(link, target.block))
    ]


def make_draft(wiring: Wiring, use: str, place: Place) -> Row:
    """A new node's free name, and its ports with the links that each could take and the one that seems meant.

    complete: whether each required port has a link that seems meant. output: the one that feeds the target.
    """
    spec = _find_spec(wiring, use)
    through = next((port.name for port in _find_ports(spec, wiring.resolve(place.link, place.block))), "")
    ops = [op for block in iterate_outwards(place.block) for op in wiring.blocks[block].values()]
    near = {place.link.partition(".")[0], place.target.owner.rpartition(".")[2] if place.target else ""}
    # The source of the link and the target's node come first, then the nodes of the block and of those around it.
    neighbours = sorted((op for op in ops if isinstance(op, ParsedNode)), key=lambda node: node.name not in near)
    description = describe_node(spec)
    docs = {row["name"]: row for row in (*description["ports"], *description["settings"])}
    ports = []
    for port in spec.ports.values():
        options = _find_options(wiring, port, place)
        meant = place.link if port.name == through else _guess_link(port, options, neighbours) if port.required else ""
        row = {**docs[port.name], "options": options, "link": meant, "setting": port.setting}
        ports.append(row | ({"field": describe_field(port)} if takes_literal(port.type) else {}))
    return {
        "use": spec.id,
        "name": find_free_name(spec.id.rpartition(".")[2], {name for ops in wiring.blocks.values() for name in ops}),
        "summary": spec.summary,
        "block": place.block,
        "path": place.target.path if place.target else "",
        "link": place.link,
        "output": _find_output(spec, place.target) if place.target else "",
        "ports": ports,
        "complete": all(not port["required"] or port["link"] for port in ports),
    }


def feeds_list(spec: NodeSpec, output: str, target: Target) -> bool:
    """Whether an output of a new node is to be linked as one of a list."""
    return output in spec.outputs and target.takes_in_list(TypedSource(Output("", output), spec.outputs[output]))


def format_output(spec: NodeSpec, name: str, output: str) -> str:
    """The link to an output of a new node."""
    return name if len(spec.outputs) == 1 else f"{name}.{output}"


def find_free_name(wish: str, names: Collection[str]) -> str:
    """A node's name like ``wish`` that none has yet."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in wish)
    base = plain if plain.isidentifier() and plain not in RESERVED else f"node_{plain}"
    if base not in names:
        return base
    return next(f"{base}_{i}" for i in range(2, len(names) + 3) if f"{base}_{i}" not in names)


def _find_spec(wiring: Wiring, use: str) -> NodeSpec:
    if use not in wiring.registry.nodes:
        raise UnknownPlace(f"there is no node '{use[:100]}': {suggest(use[:60], wiring.registry.nodes, 'nodes')}")
    return wiring.registry.nodes[use]


def _find_ports(spec: NodeSpec, typed: TypedSource | None) -> list[Port]:
    """The ports of a node that take a link, required ones first, then other inputs, then settings."""
    if typed is None:
        return []
    ports = [port for port in spec.ports.values() if not port.type.is_any and accepts(port.type, typed)]
    return sorted(ports, key=lambda port: (not port.required, port.setting))


def _find_output(spec: NodeSpec, target: Target) -> str:
    """The first output of a node that a place takes; empty if there is none."""
    sources = {name: TypedSource(Output("", name), kind) for name, kind in spec.outputs.items()}
    exact = [name for name, source in sources.items() if source.type == target.type and target.takes(source)]
    return next(iter((*exact, *(name for name, source in sources.items() if target.takes(source)))), "")


def _find_options(wiring: Wiring, port: Port, place: Place) -> list[str]:
    """The links that a port of the new node could take; none that depends on the target."""
    sequence = port.type.sequence
    options = []
    for link in wiring.list_links(place.block):
        typed = wiring.resolve(link, place.block)
        kinds = (port.type, sequence.element) if sequence else (port.type,)
        if typed is None or not any(accepts(kind, typed) for kind in kinds):
            continue
        if place.target is None or not wiring.makes_cycle(link, place.target):
            options.append(link)
    return options


def _guess_link(port: Port, options: Collection[str], neighbours: Iterable[ParsedNode]) -> str:
    """A likely link for a required port: that of a port of the same name nearby, or one to a value of that name."""
    for node in neighbours:
        for link in list_links(node.inputs[port.name][1]) if port.name in node.inputs else ():
            if link.text in options:
                return link.text
    namesakes = [link for link in options if link.rpartition(".")[2] == port.name]
    return next(iter(namesakes), next(iter(options)) if len(options) == 1 else "")
