"""Addresses to listen on: how they are written, and what is none."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY

import pytest

from rawservers.core.bind import KEEP_IDLE, KEEP_INTERVAL, Endpoint, bind, written_host


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:80", Endpoint("127.0.0.1", 80)),
        ("localhost:0", Endpoint("localhost", 0)),
        ("[::1]:8080", Endpoint("::1", 8080)),
        ("8080", Endpoint("127.0.0.1", 8080)),
        (":8080", Endpoint(None, 8080)),
        ("unix:/run/x", Endpoint(path="/run/x")),
        ("fd:3", Endpoint(fd=3)),
    ],
)
def test_an_address(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text", ["", ":", "host", "h:", "h:x", "::1:80", "[::1]", "h:65536", "-1", "h:-1", "8 0", "unix:", "[::1]:"]
)
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port|path"):
        Endpoint.parse(text)


INHERITED = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.SOL_SOCKET, socket.SO_OOBINLINE), (IPPROTO_TCP, TCP_NODELAY)]


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0", ":0"])
def test_what_an_accepted_socket_inherits(text: str) -> None:
    (server,) = bind(Endpoint.parse(text))
    server.tune(7)
    port = server.sock.getsockname()[1]
    with socket.create_connection(("::1" if text[0] == "[" else "127.0.0.1", port)), server.sock:
        sock, _ = server.sock.accept()
        with sock:
            assert [bool(sock.getsockopt(*option)) for option in INHERITED] == [True, True, True]
            assert sock.getsockopt(IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
            assert sock.getsockopt(IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEP_IDLE
            assert sock.getsockopt(IPPROTO_TCP, socket.TCP_KEEPINTVL) == KEEP_INTERVAL


def test_the_accept_queue_is_as_long_as_the_system_allows() -> None:
    (server,) = bind(Endpoint("127.0.0.1", 0))
    with server.sock:
        info = server.sock.getsockopt(IPPROTO_TCP, socket.TCP_INFO, 104)
    (backlog,) = struct.unpack_from("I", info, 28)  # tcpi_sacked, which is that of a listening socket
    assert backlog == int(Path("/proc/sys/net/core/somaxconn").read_text())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", "localhost"),
        ("0.0.0.0", "0.0.0.0"),
        ("a-b.example", "a-b.example"),
        ("::", "[::]"),
        ("::1", "[::1]"),
        ("fe80::1%eth0", "[fe80::1%eth0]"),
        ("::ffff:1.2.3.4", "[::ffff:1.2.3.4]"),
        ("[::1]", "[::1]"),
        ("", ""),
        ("80", ""),
        ("a:80", ""),
        ("[::1]:80", ""),
        ("a b", ""),
        ("http://a", ""),
        ("unix:a", ""),
        ("a/b", ""),
    ],
)
def test_a_host_before_its_port(text: str, expected: str) -> None:
    assert written_host(text) == expected
    if expected:
        assert Endpoint.parse(f"{expected}:80").host == expected.strip("[]")
        with pytest.raises(ValueError, match=f"add a port: {re.escape(expected)}:7$"):
            Endpoint.parse(text, "7")
