"""Bursts, a worker without memory, and files that change or vanish under it: nobody else notices, and nothing is left of it."""

from __future__ import annotations

import contextlib
import re
import resource
import select
import shutil
import socket
import struct
from pathlib import Path

import pytest

from tests.harness.http_client import request, take_answer
from tests.harness.processes import memory, opened, stopped
from tests.harness.server import Server
from tests.harness.sockets import receive_all
from tests.harness.supervisor import CONTENT, configure, get, supervise
from tests.harness.waiting import until

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
SENT = (b"", b"GET /f HT", request("/f"), request("/f", keep=True) * 3)
SLOW = pytest.mark.slow
TOLD = r"error in .*: out of memory|error log: \d+ lines dropped \(out of memory\)"


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=SLOW)])
@pytest.mark.parametrize("service", ["http", "telnet"])
def test_a_burst_of_clients_that_leave(conf: Path, service: str, count: int) -> None:
    """With a FIN or a RST, having sent nothing, half a request, or some."""
    with supervise("-c", conf, workers=1) as server:
        assert get(server) == CONTENT
        (worker,) = server.workers()
        before = len(opened(worker))
        for number in range(count):
            with server.connect(service) as sock:
                sock.sendall(SENT[number // 2 % len(SENT)])
                if number % 2:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        assert get(server) == CONTENT
        until(lambda: len(opened(worker)) <= before, "all are gone")
        assert server.workers() == [worker]
        assert server.complaints() == []


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=SLOW)])
def test_an_accept_queue_that_nobody_empties_for_a_while(conf: Path, count: int) -> None:
    count = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
    queue = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with supervise("-c", conf) as server, contextlib.ExitStack() as stack:
        address = server.address("http")
        with stopped(*server.workers()):
            socks = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(min(count, queue))]
            for sock in socks:
                sock.sendall(request("/f"))
        for sock in socks:
            assert receive_all(sock).endswith(CONTENT)
        assert server.complaints() == []


def test_a_worker_without_memory(conf: Path) -> None:
    """Bodies for which there is no room: their connections end, each with a line, and the others are served."""
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack:
        assert get(server) == CONTENT
        (worker,) = server.workers()
        before, room = len(opened(worker)), memory(worker, "VmSize") + (8 << 20)
        resource.prlimit(worker, resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        socks = [stack.enter_context(server.connect()) for _ in range(40)]
        for sock in socks:
            with contextlib.suppress(ConnectionError):  # it is one of those that end
                sock.sendall(b"POST /pid HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + bytes(900_000))
        until(lambda: bool(select.select(socks, [], [], 0)[0]), "some have ended, to which nothing else is said")
        stack.close()
        assert get(server) == CONTENT
        resource.prlimit(worker, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: "out of memory" in server.stderr(), "a line, once there is room for the thread that writes it")
        assert get(server) == CONTENT
        until(lambda: len(opened(server.pid)) <= before, "all are gone")
        assert [line for line in server.complaints() if not re.fullmatch(TOLD, line)] == []


def test_a_folder_that_vanishes_and_is_back(folder: Path, server: Server) -> None:
    assert get(server) == CONTENT
    shutil.rmtree(folder)
    for _ in range(2):
        with server.connect() as sock:
            sock.sendall(request("/f"))
            assert take_answer(sock)[0] == 404
    folder.mkdir()
    (folder / "f").write_bytes(b"another content\n")
    assert get(server) == b"another content\n"


@pytest.mark.parametrize("change", ["append", "overwrite"])
def test_a_file_that_changes_while_it_is_sent(conf: Path, folder: Path, change: str) -> None:
    """No more is sent than was said."""
    configure(conf, folder)
    size = (folder / "large").stat().st_size
    with supervise("-c", conf, workers=1) as server, server.connect() as sock:
        sock.sendall(request("/large", keep=True))
        head, _, rest = sock.recv(65536).partition(b"\r\n\r\n")
        assert head.endswith(f"Content-Length: {size}".encode())
        with (folder / "large").open("ab" if change == "append" else "r+b") as file:
            file.write(b"x" * 100_000)
        received = len(rest)
        while received < size:
            received += len(sock.recv(min(1 << 20, size - received)))
        sock.sendall(request("/f", keep=True))
        assert take_answer(sock) == (200, True, CONTENT)
