"""Who may use the server: whoever has its token; without one, programs of this machine, and no page of another site."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from guidegraph_runtime.serve.web.answers import answer_refusal

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
