"""A listening TCP socket for a server's short answers."""

from __future__ import annotations

import socket


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes any free one. Raises ``OSError``.

    Its connections have ``TCP_NODELAY``. asyncio sets it only on a socket that names its protocol, which an accepted
    one does not. Without it the second and later answers of a connection wait 40 ms for an acknowledgement.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.create_server((host, port), family=family, backlog=128)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
