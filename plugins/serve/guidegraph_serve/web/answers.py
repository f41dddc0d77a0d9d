"""The server's answers, as JSON and as server-sent events. Errors have the form that OpenAI's clients read."""

from __future__ import annotations

import asyncio
import json
import secrets
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from guidegraph_serve.jobs import HEARTBEAT, Failure, Job, JobWatch, RequestRefused


class StrictJson(JSONResponse):
    """JSON in ASCII, without NaN."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


def make_error(
    status: int, message: str, param: str | None = None, code: str = "", headers: Mapping[str, str] | None = None
) -> StrictJson:
    """The answer with an error as OpenAI's clients read it."""
    return StrictJson(describe_error(status, message, param, code), status, headers=dict(headers or {}))


def describe_error(status: int, message: str, param: str | None = None, code: str = "") -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    kind = "rate_limit_error" if status == HTTPStatus.TOO_MANY_REQUESTS else kind
    return {"error": {"message": message, "type": kind, "param": param, "code": code or None}}


def answer_refusal(status: HTTPStatus, message: str) -> StrictJson:
    """The answer to a request without access."""
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return make_error(status, message, code=status.phrase.lower().replace(" ", "-"), headers=headers)


def answer_refused(error: RequestRefused) -> StrictJson:
    """The answer to a request that was not queued."""
    return make_error(error.status, error.message, error.param, error.code, _make_retry_header(error.retry_after))


def _make_retry_header(seconds: int) -> dict[str, str]:
    return {"retry-after": str(seconds)} if seconds else {}


async def answer_http_error(request: Request, error: Exception) -> Response:
    """The answer to an unknown path or method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        routes = [route for route in request.app.routes if isinstance(route, Route)]
        fitting = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
        methods = {method for route in fitting for method in route.methods or ()}
        headers["Allow"] = ", ".join(sorted(methods))  # Starlette lists the methods of the first route alone
    return make_error(error.status_code, message, headers=headers)


def answer_failure(job: Job) -> StrictJson:
    """The answer to a request whose job did not end well."""
    failure = job.failure or Failure("the job has no outputs")
    headers = {"x-job-id": job.id, **_make_retry_header(failure.retry_after)}
    return make_error(failure.status, failure.message, None, failure.code, headers)


PNG_HEADER = 32
"""Characters of base64 with the first 24 bytes of a PNG, which end with its sides."""
PNG_TRAITS = {"output_format": "png", "quality": "auto", "background": "opaque"}
NO_USAGE = {
    **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), 0),
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""This server counts no tokens, and OpenAI's clients read the field."""


def describe_job(job: Job, outputs: bool = True) -> dict[str, Any]:
    """A job as JSON."""
    content: dict[str, Any] = {
        "id": job.id,
        "bundle": job.bundle,
        "status": job.status,
        "step": job.step,
        "steps": job.steps,
        "created": int(job.created),
    }
    if job.warnings:
        content["warnings"] = [*job.warnings]
    if job.status == "done" and outputs:
        content["outputs"] = dict(job.outputs)
    if job.failure is not None:
        content["error"] = {"message": job.failure.message, "code": job.failure.code, "status": job.failure.status}
    return content


async def wait_for_end(job: Job, request: Request) -> bool:
    """Wait until a job has ended. False if the client goes away before."""

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    with JobWatch(job, previews=False) as watch:
        waits = [asyncio.ensure_future(wait_for_disconnect()), asyncio.ensure_future(watch.wait_for_end())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waits:
                future.cancel()
    return job.ended.is_set()


EVENT_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Of a stream of events, which proxies should not hold back."""


class EventStream(StreamingResponse):
    """Server-sent events. on_end: called when the answer has ended, even if its reader went away before the first."""

    def __init__(
        self, events: AsyncIterator[str], on_end: Callable[[], object], headers: Mapping[str, str] | None = None
    ):
        super().__init__(events, media_type="text/event-stream", headers={**EVENT_HEADERS, **(headers or {})})
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def iterate_events(job: Job) -> AsyncIterator[str]:
    """Server-sent events: ``progress`` after each step, ``preview`` with a picture, and one ``end``."""
    shown = (0, b"")
    with JobWatch(job) as watch:
        while True:
            has_ended = job.ended.is_set()
            preview = job.preview
            if preview != shown and preview[1] and not has_ended:
                shown = preview
                yield _format_event("preview", {"step": preview[0], "b64_json": b64encode(preview[1]).decode()})
            if has_ended:
                yield _format_event("end", describe_job(job))
                return
            yield _format_event("progress", describe_job(job, outputs=False))
            while not await watch.wait(HEARTBEAT):
                yield ": nothing new\n\n"


async def iterate_picture_events(
    jobs: Sequence[Job], kind: str, describe: Callable[[], Sequence[Mapping[str, Any]]]
) -> AsyncIterator[str]:
    """The events of a request for pictures, as OpenAI's clients read them: each has its name also in its data.

    ``KIND.partial_image`` has the picture of the unfinished sample of the first job, ``KIND.completed`` a picture, one
    for each; ``error`` is the last event of a request that fails. describe: the pictures when all jobs are done.
    """
    first, shown = jobs[0], 0
    for job in jobs:
        with JobWatch(job, previews=False) as watch:
            while True:
                has_ended = job.ended.is_set()
                for picture in [*first.partial_pictures[shown:]]:
                    text = b64encode(picture).decode()
                    yield _format_picture(f"{kind}.partial_image", text, first, {"partial_image_index": shown})
                    shown += 1
                if has_ended:
                    break
                while not await watch.wait(HEARTBEAT):
                    yield ": nothing new\n\n"
        if job.status != "done":
            failure = job.failure or Failure("the job has no outputs")
            yield _format_event("error", describe_error(failure.status, failure.message, None, failure.code))
            return
    for entry in describe():
        yield _format_picture(f"{kind}.completed", entry["b64_json"], first, {"usage": NO_USAGE})


def _format_picture(name: str, text: str, job: Job, more: Mapping[str, Any]) -> str:
    """An event with a PNG in base64, whose sides are in its header."""
    header = b64decode(text[:PNG_HEADER])
    width, height = int.from_bytes(header[16:20]), int.from_bytes(header[20:24])
    content = {
        "type": name,
        "b64_json": text,
        "created_at": int(job.created),
        "size": f"{width}x{height}",
        **PNG_TRAITS,
    }
    return _format_event(name, {**content, **more})


def _format_event(name: str, content: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(content, allow_nan=False)}\n\n"


OPEN_PATHS = ("/health/live", "/health/ready")
"""Paths that need no token, for probes."""
BEARER = "bearer"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class ServeAccess:
    """The token, None if there is none, and the sites whose pages may use the server, such as "https://example.org"."""

    token: str | None = None
    origins: tuple[str, ...] = ()

    def find_refusal(self, path: str, headers: Headers) -> tuple[HTTPStatus, str] | None:
        """The status and the reason of a refusal; None for a request that is allowed.

        Without a token, the ``Host`` header must name the loopback address, which a rebinding host name does not.
        """
        origin = headers.get("origin")
        own = headers.get("host", "")
        if origin is not None and origin not in self.origins and origin.partition("://")[2] != own:
            return HTTPStatus.FORBIDDEN, "pages of other sites are refused: --allow-origin admits one"
        if self.token is None:
            host = headers.get("host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if not is_loopback(name.lower()):
                return HTTPStatus.FORBIDDEN, "without a token, this server answers to localhost alone"
            return None
        if path in OPEN_PATHS:
            return None
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == BEARER and secrets.compare_digest(token.strip().encode(), self.token.encode()):
            return None
        return HTTPStatus.UNAUTHORIZED, "expected the header 'Authorization: Bearer TOKEN' with this server's token"


class AccessGuard:
    """An ASGI application that refuses requests without access."""

    def __init__(self, app: ASGIApp, access: ServeAccess):
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return  # the server accepts no web sockets
        if scope["type"] == "http":
            refusal = self._access.find_refusal(scope["path"], Headers(scope=scope))
            if refusal is not None:
                await answer_refusal(*refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)
