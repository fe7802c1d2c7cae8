"""Protocols that fail, on the real core."""

from __future__ import annotations

from tests.harness.server import Server
from tests.harness.sockets import receive_all, receive_until


def test_an_exception_costs_one_connection_and_a_line() -> None:
    with Server(module="tests.servers.faulty", may_fail=True) as server:
        with server.connect("faulty") as other, server.connect("faulty") as sock:
            sock.sendall(b"raise\n")
            assert receive_all(sock) == b""
            other.sendall(b"as before\n")
            assert receive_until(other, b"\n") == b"as before\n"
        for _ in range(3):
            with server.connect("unborn") as sock:
                assert receive_all(sock) == b""
        assert server.stderr().count("RuntimeError: as told") == 1
        assert server.stderr().count("RuntimeError: at the start") == 3
        server.signal()
        assert server.wait() == 0
