"""Who may talk to the server: the page that its own address opened, on this machine, and nobody else.

Every address begins with a secret token, so that other users and programs of this machine cannot guess one. The
``Host`` header must name the loopback address, which a rebinding host name does not. ``Origin`` and ``Sec-Fetch-Site``
must be those of the page itself. The content security policy lets the page load nothing from anywhere else.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FRAME_POLICY = (
    "sandbox; default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""For markup of a plugin in a frame of the page: no scripts and no requests."""
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """The port of the server and the token that its addresses begin with."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/{self.token}/"

    def find_refusal(self, path: str, headers: Headers) -> str:
        """Why a request is refused; empty if it is allowed."""
        hosts = [f"{name}:{self.port}" for name in (LOOPBACK, "localhost")]
        if headers.get("host", "") not in hosts:
            return f"this server answers to {hosts[0]} alone"
        token = path.lstrip("/").partition("/")[0]
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            return "the address lacks the token: open the address that 'guidegraph open' printed"
        origin = headers.get("origin")
        if origin is not None and origin not in [f"http://{host}" for host in hosts]:
            return "requests of other pages are refused"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "requests of other pages are refused"
        return ""


class GuardedApp:
    """An ASGI application that refuses requests without access, and sees paths without the token."""

    def __init__(self, app: ASGIApp, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the server accepts no web sockets

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update({name: value for name, value in HEADERS.items() if name not in headers})
            await send(message)

        if reason := self.access.find_refusal(scope["path"], Headers(scope=scope)):
            refusal = PlainTextResponse(reason + "\n", HTTPStatus.FORBIDDEN)
            await refusal(scope, receive, send_with_headers)
            return
        if scope["path"] == f"/{self.access.token}":  # the page's own addresses are relative
            await RedirectResponse(f"/{self.access.token}/")(scope, receive, send_with_headers)
            return
        path = "/" + scope["path"].lstrip("/").partition("/")[2]
        await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, send_with_headers)
