"""The routes for wires and new nodes: what fits where, and the edits that wire and add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guidegraph.edit import parse_value
from guidegraph.graph.language.bind_parameters import parse_list_or_text
from guidegraph.graph.resolution.ports import accepts
from guidegraph.page.answers import AsciiJson, error_response, is_texts, read_json
from guidegraph.page.drafts import (
    Place,
    feeds_list,
    find_insertions,
    find_place,
    find_target,
    format_output,
    make_draft,
    search_nodes,
)
from guidegraph.page.edits import NewNode, PageEdits
from guidegraph.page.forms import describe_field
from guidegraph.page.view import Views
from guidegraph.page.wiring import Target, Wiring


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
        port = spec.port(name) if spec else None
        is_text = port is not None and describe_field(port)["kind"] in ("text", "choice")
        values[name] = parse_list_or_text(text, port) if port is not None and is_text else parse_value(text)
    links: dict[str, str | list[str]] = {}
    for name, link in inputs.items():
        port = spec.port(name) if spec else None
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
