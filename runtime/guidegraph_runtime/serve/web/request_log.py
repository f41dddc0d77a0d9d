"""Each request has an id, which its answer and the lines of the log carry, and each refused one is reported."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guidegraph_runtime.serve.observers import RequestTrace, trace_request

REQUEST_ID = "x-request-id"
CODE = "guidegraph_code"
"""The key of the state of a request under which a layer leaves the code of its refusal."""
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""The header of W3C Trace Context, section 3.2."""


class RequestLog:
    """An ASGI application that names requests and reports those that are answered. report: is called with each.

    A client's ``x-request-id`` is kept, up to 128 printable ASCII characters, and so is its ``traceparent``.
    """

    def __init__(self, app: ASGIApp, report: Callable[[RequestTrace], None]):
        self._app, self._report = app, report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = read_trace(scope)
        started = time.monotonic()

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = trace.id
                trace.status, trace.has_job = message["status"], "x-job-id" in headers
            await send(message)

        try:
            with trace_request(trace):
                await self._app(scope, receive, send_and_note)
        finally:
            trace.seconds = time.monotonic() - started
            trace.code = scope.get("state", {}).get(CODE, "")
            if not trace.code and trace.status >= HTTPStatus.BAD_REQUEST:
                trace.code = HTTPStatus(trace.status).phrase.lower().replace(" ", "-")
            with trace_request(trace):
                self._report(trace)


def read_trace(scope: Scope) -> RequestTrace:
    """The description of a request that has not been answered."""
    headers = Headers(scope=scope)
    request_id, parent = headers.get(REQUEST_ID, ""), headers.get("traceparent", "")
    client = scope.get("client")
    return RequestTrace(
        request_id if _ID.fullmatch(request_id) else secrets.token_hex(8),
        parent if _TRACEPARENT.fullmatch(parent) else "",
        client[0] if client else "",
        scope["method"],
        scope["path"][:200],
    )


def note_code(scope: Scope, code: str) -> None:
    """Leave the code of a refusal for the log."""
    state: dict[str, Any] = scope.setdefault("state", {})
    state[CODE] = code
