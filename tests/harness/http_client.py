"""HTTP over plain sockets: a request, and the answer to it."""

from __future__ import annotations

import re
import socket


def request(path: str, keep: bool = False) -> bytes:
    return f"GET {path} HTTP/1.{int(keep)}\r\nHost: h\r\n\r\n".encode()


def take_answer(sock: socket.socket) -> tuple[int, bool, bytes]:
    """Status, whether the connection may be used again, and body of the next answer. ValueError unless it is whole."""
    data = b""
    while b"\r\n\r\n" not in data or len(data) < data.index(b"\r\n\r\n") + 4 + length(data):
        more = sock.recv(65536)
        if not more:
            raise ValueError(f"FIN after {data!r}")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), b"\r\nconnection: keep-alive" in head.lower(), body


def length(head: bytes) -> int:
    """What it says of the body behind it."""
    match = re.search(rb"\r\n(?i:content-length): (\d+)\r\n", head)
    return int(match[1]) if match else 0


KEPT = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"


def take_body(sock: socket.socket) -> bytes:
    """The body of the next answer on a kept connection; it has one."""
    _, _, body = take_answer(sock)
    assert body
    return body
