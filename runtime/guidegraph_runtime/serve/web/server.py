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

from guidegraph_runtime.command import CANCELLED, DONE
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.machine.listener import open_listener
from guidegraph_runtime.serve.observers import EventLog, ServeMetrics
from guidegraph_runtime.serve.options import ServeOptions
from guidegraph_runtime.serve.request_checks import show_collected
from guidegraph_runtime.serve.service import Service
from guidegraph_runtime.serve.web.access import ServeAccess
from guidegraph_runtime.serve.web.connections import IDLE_SECONDS, LimitedConnection
from guidegraph_runtime.serve.web.routes import ServeRoutes
from guidegraph_runtime.sessions.call_limits import keep_large_blocks_apart
from guidegraph_runtime.sessions.sessions import SessionSettings

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
