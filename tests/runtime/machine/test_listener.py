"""The socket of the servers."""

from __future__ import annotations

import asyncio
import socket

import pytest

from guidegraph_runtime.machine.termination import open_listener


def test_answers_on_its_connections_do_not_wait_for_acknowledgements() -> None:
    async def accept(listener: socket.socket) -> int:
        connected: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            connected.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await connected

    with open_listener("127.0.0.1", 0) as listener:
        assert asyncio.run(accept(listener)) != 0


def test_a_port_in_use_is_refused() -> None:
    with open_listener("127.0.0.1", 0) as listener, pytest.raises(OSError):
        open_listener("127.0.0.1", listener.getsockname()[1])
