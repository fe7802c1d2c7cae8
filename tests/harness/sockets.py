"""Plain sockets: what comes from a peer, and server sockets of somebody else's."""

from __future__ import annotations

import socket
from pathlib import Path


def receive_all(sock: socket.socket) -> bytes:
    """Everything until the peer's FIN. A RST is an error."""
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def receive_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = sock.recv(65536)
        assert more, f"FIN after {data!r}"
        data += more
    return data


def listening(path: str | Path = "") -> socket.socket:
    """A server socket of somebody else's, on a free port or on this path."""
    if not path:
        return socket.create_server(("127.0.0.1", 0))
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock
