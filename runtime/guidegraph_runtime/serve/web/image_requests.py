"""Requests and answers of ``POST /v1/images/generations``, in the dialect of OpenAI's clients."""

from __future__ import annotations

import re
from typing import Any

from guidegraph_runtime.serve.jobs import Job
from guidegraph_runtime.serve.request_checks import DrawRequest, RequestRefused
from guidegraph_runtime.serve.shelf import ShelfEntry
from guidegraph_runtime.serve.web.answers import take

COUNT_INPUT = "batch"
"""The input of a bundle that ``n`` sets."""
OPTIONS_OF_OTHERS = ("background", "moderation", "output_format", "quality", "style")
"""Fields that OpenAI's own models have: "auto" is accepted, and so is what this server does anyway."""
SAME = {"output_format": ("png",), "response_format": ("b64_json",)}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def read_image_request(entry: ShelfEntry, body: dict[str, Any]) -> DrawRequest:
    """The request for pictures of a bundle that a body without its ``model`` describes. Raises ``RequestRefused``.

    A field that is an input of the bundle sets that input. Else ``n`` sets the batch, ``size`` the inputs width and
    height, and ``user`` is ignored, as is everything that asks for what the server does in any case. A field that sets
    an input to another value than the request does is refused.
    """
    if find_image_output(entry) is None:
        raise RequestRefused(f"'{entry.name}' draws no picture: use /v1/workflows/{entry.name}", "model")
    inputs = entry.manifest.inputs
    params = {name: body.pop(name) for name in [*body] if name in inputs and body[name] is not None}
    nodes = take(body, "nodes", (dict,), "an object of 'node.setting': value", {})
    priority = take(body, "priority", (int,), "a whole number", 0)
    deadline = take(body, "deadline", (int, float), "a number of seconds")
    _add(params, "n", _read_count(entry, take(body, "n", (int,), "a whole number")))
    _add(params, "size", _read_size(entry, take(body, "size", (str,), "WIDTHxHEIGHT or auto", "auto")))
    take(body, "user", (str,), "a text")
    if take(body, "stream", (bool,), "true or false", False):
        raise RequestRefused("expected no stream: /v1/jobs/ID/events has the progress of a job", "stream")
    for name in ("response_format", *OPTIONS_OF_OTHERS):
        value = take(body, name, (str,), "a text", "auto")
        if value != "auto" and value not in SAME.get(name, ()):
            raise RequestRefused(f"'{name}': expected {_name_same(name)}, found {value!r:.80}", name)
    params |= {name: value for name, value in body.items() if value is not None}  # unknown ones are refused by name
    return DrawRequest(entry.name, params, nodes, priority, deadline)


def _add(params: dict[str, Any], field: str, values: dict[str, int]) -> None:
    """Add the inputs that a field sets. Raises ``RequestRefused`` if one has another value already."""
    for name, value in values.items():
        if params.setdefault(name, value) != value:
            message = (
                f"'{field}' sets '{name}' to {value}, and the request has {params[name]!r:.80}: leave one of them out"
            )
            raise RequestRefused(message, field)


def _name_same(name: str) -> str:
    return " or ".join(map(repr, ("auto", *SAME.get(name, ()))))


def _read_count(entry: ShelfEntry, count: int | None) -> dict[str, int]:
    if count is None or (count == 1 and COUNT_INPUT not in entry.manifest.inputs):
        return {}
    if COUNT_INPUT not in entry.manifest.inputs:
        raise RequestRefused(f"expected n = 1: '{entry.name}' has no input '{COUNT_INPUT}'; found {count}", "n")
    if count < 1:
        raise RequestRefused(f"expected n of at least 1, found {count}", "n")
    return {COUNT_INPUT: count}


def _read_size(entry: ShelfEntry, size: str) -> dict[str, int]:
    if size == "auto":
        return {}
    match = _SIZE.fullmatch(size)
    if match is None:
        raise RequestRefused(f"'size': expected WIDTHxHEIGHT or auto, found {size!r:.80}", "size")
    if not {"width", "height"} <= entry.manifest.inputs.keys():
        raise RequestRefused(f"'size': '{entry.name}' has no inputs width and height: leave it out", "size")
    return {"width": int(match[1]), "height": int(match[2])}


def find_image_output(entry: ShelfEntry) -> str | None:
    """The first output of a bundle that is a picture; None without one."""
    return next((name for name, output in entry.manifest.outputs.items() if output.type == "image"), None)


def answer_images(entry: ShelfEntry, job: Job) -> dict[str, Any]:
    """The answer to a request whose job is done."""
    output = find_image_output(entry)
    assert output is not None
    warnings = {"warnings": [*job.warnings]} if job.warnings else {}
    return {"created": int(job.created), "data": job.outputs[output]["data"], **warnings}
