"""Connections of the server: silent ones are closed, and make room for others if there are too many."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""How long a client may take to send the head of a request."""
IDLE_SECONDS = 20
"""How long a connection is kept between requests. Clients close an idle one after 5 s (httpx, and so OpenAI's) or 15 s
(aiohttp); a server that closes it first may do so while the next request is on its way, which is lost."""


class LimitedConnection(H11Protocol):
    """A connection that is closed if it sends no whole head of a request in time.

    One that would be above the server's limit takes the place of the one that has been idle longest, if any is idle.
    """

    _idle_since = 0.0
    _timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether none of its requests is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_idle_time()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            peers = [peer for peer in self.connections if isinstance(peer, LimitedConnection) and peer is not self]
            longest_idle = min((p for p in peers if p.is_idle), key=lambda peer: peer._idle_since, default=None)
            if longest_idle is not None:
                self.connections.discard(longest_idle)  # now, and not when the loop tells of its end
                longest_idle.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._begin_idle_time()

    def _begin_idle_time(self) -> None:
        self._stop_timer()
        self._idle_since = self.loop.time()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _close_if_idle(self) -> None:
        if self.is_idle:
            self.transport.close()
