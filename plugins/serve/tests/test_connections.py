"""Connections that send nothing, or too slowly, are closed; at the limit they make room, and busy ones stay."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from guidegraph_serve.web import server
from guidegraph_serve.web.server import LimitedConnection, format_address, make_config

SECONDS = 20.0
LIMIT = 4


class SlowApp:
    """An application whose answer to /slow waits until ``finish`` is set."""

    def __init__(self) -> None:
        self.started, self.finish = threading.Event(), threading.Event()
        self.app = Starlette(routes=[Route("/", self.answer), Route("/slow", self.answer_late)])

    async def answer(self, request: Request) -> Response:
        return PlainTextResponse("here")

    def answer_late(self, request: Request) -> Response:
        self.started.set()
        return PlainTextResponse("late" if self.finish.wait(SECONDS) else "never")


@contextmanager
def serve(app: Starlette) -> Iterator[str]:
    config = uvicorn.Config(
        app, http=LimitedConnection, limit_concurrency=LIMIT, log_level="critical", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield format_address(listener)
        finally:
            server.should_exit = True
            thread.join()


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), SECONDS)


def send_nothing(connection: socket.socket) -> bytes:
    return connection.recv(1)


def send_slowly(connection: socket.socket) -> bytes:
    """Send a head that never ends; return what the server answers."""
    connection.settimeout(0.05)
    connection.sendall(b"GET / HTTP/1.1\r\n")
    for _ in range(int(SECONDS / 0.05)):
        with suppress(TimeoutError):
            return connection.recv(1)
        connection.sendall(b"a: b\r\n")
    pytest.fail("the connection stays open")


def send_after_an_answer(connection: socket.socket) -> bytes:
    connection.sendall(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
    answer = b""
    while not answer.endswith(b"here"):
        answer += connection.recv(1000)
    return send_slowly(connection)


@pytest.mark.parametrize("send", [send_nothing, send_slowly, send_after_an_answer])
def test_a_connection_without_a_request_is_closed(
    send: Callable[[socket.socket], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    with serve(SlowApp().app) as address, connect(address) as connection, suppress(ConnectionResetError):
        assert send(connection) == b""


def test_a_request_may_take_longer_than_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    slow = SlowApp()
    threading.Timer(0.5, slow.finish.set).start()
    with serve(slow.app) as address:
        assert httpx.get(f"{address}/slow", timeout=SECONDS).text == "late"


def test_silent_connections_make_room_and_busy_ones_stay() -> None:
    slow = SlowApp()
    answers: list[httpx.Response] = []
    with serve(slow.app) as address, ExitStack() as stack:
        busy = threading.Thread(target=lambda: answers.append(httpx.get(f"{address}/slow", timeout=SECONDS)))
        busy.start()
        assert slow.started.wait(SECONDS)
        silent = [stack.enter_context(connect(address)) for _ in range(3 * LIMIT)]
        assert httpx.get(address, timeout=SECONDS).text == "here"
        assert silent[0].recv(1) == b"", "the first ones were closed"
        slow.finish.set()
        busy.join()
    assert [answer.text for answer in answers] == ["late"]


def test_beyond_the_limit_of_busy_connections_requests_are_refused() -> None:
    slow = SlowApp()
    with serve(slow.app) as address, ExitStack() as stack:
        for _ in range(LIMIT):
            connection = stack.enter_context(connect(address))
            connection.sendall(b"GET /slow HTTP/1.1\r\nhost: here\r\n\r\n")
        assert slow.started.wait(SECONDS)
        assert httpx.get(address, timeout=SECONDS).status_code == 503
        slow.finish.set()


def test_an_idle_connection_outlives_the_patience_of_its_client() -> None:
    """A client that closes first never sends a request into a connection that the server is closing."""
    patience = httpx.Limits().keepalive_expiry
    assert patience is not None
    assert min(make_config(SlowApp().app).timeout_keep_alive, server.HEAD_SECONDS) > patience
