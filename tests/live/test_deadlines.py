"""Deadlines of HTTP connections in the real process: for a head, for the next request, for a peer that does not read."""

from __future__ import annotations

from pathlib import Path

from tests.harness.http_client import KEPT, take_body
from tests.harness.server import Server
from tests.harness.sockets import receive_all


def test_the_head_deadline(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", module="tests.servers.hasty") as server:
        with server.connect() as silent, server.connect() as slow:
            slow.sendall(b"GET /f ")
            assert receive_all(silent) == b""
            assert receive_all(slow).startswith(b"HTTP/1.0 408 ")
        with server.connect() as trickling:  # one byte now and then gains no time
            trickling.settimeout(0.2)
            trickling.send(b"GET /f HTTP/1.0\r\nX: ")
            answer = b""
            while not answer:
                trickling.send(b"x")
                try:
                    answer = trickling.recv(65536)
                except TimeoutError:
                    continue
            assert answer.startswith(b"HTTP/1.0 408 ")


def test_the_idle_deadline(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", module="tests.servers.hasty") as server, server.connect() as sock:
        sock.sendall(KEPT)
        assert take_body(sock) == b"content of f\n"
        assert receive_all(sock) == b""


def test_the_send_deadline(folder: Path) -> None:
    with open(folder / "huge", "wb") as file:
        file.truncate(1 << 30)
    running = Server(folder, "--http", "0", "--telnet", "off", module="tests.servers.hasty")
    with running as server, server.connect(rcvbuf=4096) as deaf:
        deaf.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        (line,) = server.await_log(1)
        assert 0 < int(line.split()[9]) < 1 << 30
