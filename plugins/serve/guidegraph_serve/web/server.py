"""Serving over HTTP until a signal: the first one drains, the second one ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from guidegraph_runtime.command import CANCELLED, DONE
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.machine.termination import open_listener
from guidegraph_runtime.sessions.call_limits import keep_large_blocks_apart
from guidegraph_runtime.sessions.sessions import SessionSettings
from guidegraph_serve.jobs import ServeOptions
from guidegraph_serve.observers import EventLog, ServeMetrics
from guidegraph_serve.request_checks import show_collected
from guidegraph_serve.service import Service
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.routes import ServeRoutes

PERIOD = 0.1
"""Seconds between two looks at the signals."""
ANSWER_SECONDS = 5
"""How long clients may take to read their last answers."""
MAX_CONNECTIONS = 1000


class DrainingServer(uvicorn.Server):
    """A server that counts its signals and still answers. is_hung_up: whether SIGHUP was one of them.

    SIGHUP does not count: a closed terminal sends it twice, and service managers send it together with SIGTERM.
    """

    signals = 0
    is_hung_up = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signals += 1

    def handle_hang_up(self, sig: int, frame: FrameType | None) -> None:
        self.is_hung_up = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM for the block, and SIGHUP, which a closed terminal sends, unless it is ignored."""
        with super().capture_signals():
            if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGHUP"):
                yield
                return
            handler = signal.getsignal(signal.SIGHUP)
            if handler is not signal.SIG_IGN:  # as nohup leaves it
                signal.signal(signal.SIGHUP, self.handle_hang_up)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, handler)


def serve(
    folders: Mapping[str, Path],
    settings: SessionSettings,
    options: ServeOptions,
    access: ServeAccess,
    host: str,
    port: int,
    log_level: str = "info",
) -> int:
    """Serve bundles until a signal, and return the exit code. Raises ``BundleError``."""
    keep_large_blocks_apart()
    log, metrics = EventLog(log_level), ServeMetrics()
    show_collected(lambda text: log.print("warning", "warning", message=text))
    service = Service(folders, settings, options, [metrics, log])
    try:
        listener = open_listener(host, port)
    except OSError as error:
        message = f"{host}, port {port}, cannot be used: {error.strerror or error}"
        raise BundleError("--port", "port-busy", message) from error
    with listener:
        routes = ServeRoutes(service, metrics.read, int(time.time()))
        server = DrainingServer(make_config(routes.make_app(access)))
        service.start()
        try:
            code = asyncio.run(_serve(server, service, listener, log))
        finally:
            service.stop()
        log.print("stopped", code=code)
        return code


def make_config(app: Starlette) -> uvicorn.Config:
    """The settings of the HTTP server of an application."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        http=LimitedConnection,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=ANSWER_SECONDS,
        server_header=False,
    )


async def _serve(server: DrainingServer, service: Service, listener: socket.socket, log: EventLog) -> int:
    """Answer until a signal, then until all jobs have ended or a second signal comes."""
    serving = asyncio.create_task(server.serve([listener]))
    is_ready = False
    while not serving.done() and not server.should_exit:
        await asyncio.wait({serving}, timeout=PERIOD)
        if server.started and not is_ready:
            is_ready = True
            log.print("ready", address=format_address(listener), bundles=[*service.entries])
        service.end_late()
        if (server.signals or server.is_hung_up) and not service.is_draining:
            service.drain()
            log.print("draining", jobs=len(service.jobs.list_open()))
        if server.signals > 1:
            service.end_jobs()
        server.should_exit = service.is_draining and service.is_idle
    await serving
    return CANCELLED if server.signals > 1 else DONE


def format_address(listener: socket.socket) -> str:
    """The address of a server as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
