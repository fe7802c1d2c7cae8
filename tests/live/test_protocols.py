"""Protocols besides HTTP and Telnet on the real core: RFC 867's daytime, and one that fails."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.harness.server import Server
from tests.harness.sockets import receive_all, receive_until


def test_a_third_protocol() -> None:
    with Server(module="tests.servers.daytime") as server:
        for _ in range(3):
            with server.connect("daytime") as sock:
                sock.sendall(b"this is thrown away")
                text = receive_all(sock).decode()
            said = datetime.strptime(text, "%A, %B %d, %Y %H:%M:%S-%Z\r\n").replace(tzinfo=UTC)
            assert abs((datetime.now(UTC) - said).total_seconds()) < 5
        server.signal()
        assert server.wait() == 0


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
