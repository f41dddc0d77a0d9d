"""Errors of the server itself, answered within the layer that adds CORS headers, so that pages can read them."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class DefectGuard:
    """An ASGI application that answers a request whose handler raises. report: the answer to an exception."""

    def __init__(self, app: ASGIApp, report: Callable[[Exception], Response]):
        self._app, self._report = app, report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def send_and_note(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            answer = self._report(error)
            if is_answered or scope["type"] != "http":
                raise
            await answer(scope, receive, send)
