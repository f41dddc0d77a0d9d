"""The routes for wires and new nodes: what fits where, and the edits that wire and add."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guidegraph.edit import parse_value
from guidegraph.graph.errors import GuidegraphError, suggest
from guidegraph.graph.language.bind_parameters import parse_list_or_text
from guidegraph.graph.language.edit.entries import RESERVED
from guidegraph.graph.language.syntax import ParsedNode, list_links
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.node_json import describe_node
from guidegraph.graph.port import Port
from guidegraph.graph.resolution.ports import accepts
from guidegraph.graph.resolution.scope import TypedSource
from guidegraph.graph.sources import Output
from guidegraph.graph.types import takes_literal
from guidegraph_page.answers import AsciiJson, error_response, is_texts, read_json
from guidegraph_page.edits import NewNode, PageEdits
from guidegraph_page.forms import Row, describe_field
from guidegraph_page.view import Views
from guidegraph_page.wiring import Target, Wiring, iterate_outwards

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


@dataclass
class WireRoutes:
    """The routes, over the views and the edits of the page."""

    views: Views
    edits: PageEdits

    def list_routes(self) -> list[Route]:
        return [
            Route("/api/targets", self.list_targets),
            Route("/api/links", self.list_links),
            Route("/api/palette", self.search),
            Route("/api/insertions", self.list_insertions),
            Route("/api/draft", self.read_draft),
            Route("/api/wires", self.change_wire, methods=["POST"]),
            Route("/api/add", self.add_node, methods=["POST"]),
        ]

    async def list_targets(self, request: Request) -> Response:
        """The places that take the link ``link`` of the block ``block``."""
        query = request.query_params
        wiring = await self._read_wiring(request)
        targets = await run_in_threadpool(wiring.find_targets, query.get("link", ""), query.get("block", "nodes"))
        return AsciiJson({"targets": [_describe_target(target) for target in targets]})

    async def list_links(self, request: Request) -> Response:
        """The links that the place at ``path`` takes."""
        wiring = await self._read_wiring(request)
        target = find_target(wiring, request.query_params.get("path", ""))
        links = await run_in_threadpool(wiring.find_links, target)
        return AsciiJson({**_describe_target(target), "options": links})

    async def search(self, request: Request) -> Response:
        """The nodes that have the words of ``text`` and fit the place."""
        wiring, place = await self._read_place(request)
        return AsciiJson(await run_in_threadpool(search_nodes, wiring, request.query_params.get("text", ""), place))

    async def list_insertions(self, request: Request) -> Response:
        """The wires that a node of the kind ``use`` can be put into."""
        wiring = await self._read_wiring(request)
        wires = await run_in_threadpool(find_insertions, wiring, request.query_params.get("use", ""))
        return AsciiJson({"wires": wires})

    async def read_draft(self, request: Request) -> Response:
        """A new node of the kind ``use`` for the place, not added yet."""
        wiring, place = await self._read_place(request)
        return AsciiJson(await run_in_threadpool(make_draft, wiring, request.query_params.get("use", ""), place))

    async def change_wire(self, request: Request) -> Response:
        """Link the place at a path to ``link``, or remove its link ``old`` if ``link`` is null."""
        body = await read_json(request)
        name, path, link, old = body.get("name"), body.get("path"), body.get("link", 0), body.get("old", "")
        if not (
            isinstance(name, str) and isinstance(path, str) and isinstance(link, str | None) and isinstance(old, str)
        ):
            return error_response(HTTPStatus.BAD_REQUEST, "expected a workflow's name, a path, and a link")
        if link is None:
            await run_in_threadpool(self.edits.disconnect, name, path, old)
        else:
            wiring = await run_in_threadpool(self.views.read_wiring, name)
            target = wiring.targets.get(path)
            typed = wiring.resolve(link, target.block) if target else None
            as_list = target is not None and typed is not None and target.takes_in_list(typed)
            await run_in_threadpool(lambda: self.edits.connect(name, path, link, old=old, as_list=as_list))
        return AsciiJson({"undo": self.edits.count(name)})

    async def add_node(self, request: Request) -> Response:
        """Add a node, with links and the texts of settings by name. path: the place that takes its output."""
        body = await read_json(request)
        texts = {key: body.get(key, "") for key in ("name", "use", "label", "block", "path", "old", "output")}
        inputs, settings = body.get("inputs", {}), body.get("settings", {})
        if not all(isinstance(text, str) for text in texts.values()) or not (is_texts(inputs) and is_texts(settings)):
            return error_response(HTTPStatus.BAD_REQUEST, "expected a workflow's name, a node, its links and settings")
        wiring = await run_in_threadpool(self.views.read_wiring, texts["name"])
        node = await run_in_threadpool(_read_node, wiring, texts, inputs, settings)
        await run_in_threadpool(self.edits.add_node, texts["name"], node)
        return AsciiJson({"undo": self.edits.count(texts["name"]), "path": f"{node.block}.{node.name}"})

    async def _read_wiring(self, request: Request) -> Wiring:
        return await run_in_threadpool(self.views.read_wiring, request.query_params.get("name", ""))

    async def _read_place(self, request: Request) -> tuple[Wiring, Place]:
        query, wiring = request.query_params, await self._read_wiring(request)
        return wiring, find_place(wiring, query.get("block", "nodes"), query.get("link", ""), query.get("path", ""))


def _read_node(
    wiring: Wiring, texts: Mapping[str, str], inputs: Mapping[str, str], settings: Mapping[str, str]
) -> NewNode:
    """The node of a request, its values read as its ports take them."""
    place = find_place(wiring, texts["block"] or "nodes", "", texts["path"])
    spec = wiring.registry.nodes.get(texts["use"])
    values: dict[str, Any] = {}
    for name, text in settings.items():
        port = spec.ports.get(name) if spec else None
        is_text = port is not None and describe_field(port)["kind"] in ("text", "choice")
        values[name] = parse_list_or_text(text, port) if port is not None and is_text else parse_value(text)
    links: dict[str, str | list[str]] = {}
    for name, link in inputs.items():
        port = spec.ports.get(name) if spec else None
        typed = wiring.resolve(link, place.block) if port is not None and port.type.sequence is not None else None
        # A port that takes a list of sources like this one, and not the source itself, gets a list of one link.
        is_element = port is not None and typed is not None and not accepts(port.type, typed)
        links[name] = [link] if is_element else link
    output = format_output(spec, texts["label"], texts["output"]) if spec else texts["label"]
    nearest = texts["old"] or next(iter(inputs.values()), "")
    return NewNode(
        texts["label"],
        texts["use"],
        place.block,
        links,
        values,
        nearest.partition(".")[0],
        texts["path"],
        output,
        texts["old"],
        spec is not None and place.target is not None and feeds_list(spec, texts["output"], place.target),
    )


def _describe_target(target: Target) -> dict[str, Any]:
    return {
        "path": target.path,
        "node": target.owner,
        "block": target.block,
        "name": target.name,
        "type": "" if target.type is None else str(target.type),
        "links": list(target.links),
        "required": target.required,
    }
