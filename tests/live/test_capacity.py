"""Capacity: as many connections as fit are served; idle ones make room, others wait; descriptors that run out."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rawservers import status
from tests.harness.http_client import KEPT, request, take_answer, take_body
from tests.harness.needs import need
from tests.harness.processes import opened, state
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_until
from tests.harness.supervisor import CONTENT, configure, get, supervise
from tests.harness.waiting import DEADLINE, until

# As many connections as fit


def test_more_than_fit_wait_their_turn(conf: Path, folder: Path) -> None:
    configure(conf, folder, limits={"connections": 40})  # of which half are for Telnet
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(server.connect("telnet")) for _ in range(60)]
        for sock in waiting:
            sock.sendall(b"x\r\n")
        until(lambda: len(select.select(waiting, [], [], 0)[0]) == 20, "as many as fit are served")
        assert not select.select(waiting[20:], [], [], 0.5)[0]  # and nobody else, for as long as they stay
        while waiting:
            served = select.select(waiting, [], [], DEADLINE)[0]
            assert 0 < len(served) <= 20
            for sock in served:
                assert receive_until(sock, b"\n") == b"x\r\n"
                waiting.remove(sock)
                sock.close()


def test_idle_connections_make_room(conf: Path, folder: Path) -> None:
    configure(conf, folder, limits={"connections": 40})
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack, server.connect("telnet") as session:
        session.sendall(b"x\r\n")
        assert receive_until(session, b"\n") == b"x\r\n"
        socks = [stack.enter_context(server.connect()) for _ in range(20)]
        for _ in range(40):  # those who are in have yet to speak: they make room
            socks.append(stack.enter_context(server.connect()))
            socks[-1].sendall(request("/f", keep=True))
            assert take_answer(socks[-1]) == (200, True, CONTENT)
        until(lambda: len(select.select(socks, [], [], 0)[0]) >= 40, "silent and idle ones were given up")
        assert len(select.select(socks, [], [], 0)[0]) == 40  # and no more
        session.sendall(b"y\r\n")
        assert receive_until(session, b"\n") == b"y\r\n"


def test_no_room_is_made_for_nobody(conf: Path, folder: Path) -> None:
    configure(conf, folder, limits={"connections": 40})
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(server.connect()) for _ in range(20)]
        for sock in socks:
            sock.sendall(request("/f", keep=True))
            assert take_answer(sock) == (200, True, CONTENT)
        assert not select.select(socks, [], [], 0.5)[0]


def test_one_address_may_have_so_many(conf: Path, folder: Path, tmp_path: Path) -> None:
    listen = [("telnet", "127.0.0.1:0"), ("status", f"unix:{tmp_path / 'status'}")]
    configure(conf, folder, listen=listen, limits={"connections_per_address": 5})
    with supervise("-c", conf, workers=1) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(server.connect("telnet")) for _ in range(8)]
        for sock in socks[5:]:
            assert sock.recv(1) == b""
        elsewhere = socket.create_connection(server.address("telnet"), DEADLINE, ("127.0.0.2", 0))
        for sock in (*socks[:5], stack.enter_context(elsewhere)):
            sock.sendall(b"x\r\n")
            assert receive_until(sock, b"\n") == b"x\r\n"
        counted = json.loads(status.fetch(f"unix:{tmp_path / 'status'}", "json"))["counters"]["telnet"]
        assert (counted["accepted"], counted["rejected"]) == (6, 3)
        socks[0].close()

        def is_served() -> bool:
            with server.connect("telnet") as sock, contextlib.suppress(ConnectionResetError):
                sock.sendall(b"x\r\n")
                return sock.recv(3) == b"x\r\n"
            return False

        until(is_served, "there is room again")


# Who makes room


GET = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"


def configured(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rawservers.toml"
    path.write_text(text)
    return path


def whole_answer(server: Server) -> bytes:
    with server.connect() as sock:
        sock.sendall(b"GET /f HTTP/1.0\r\n\r\n")
        return receive_until(sock, b"content of f\n")


def test_silent_sessions_leave_room_for_gets(folder: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, "[limits]\nconnections = 20\n")
    with Server(folder, "--http", "0", "--telnet", "0", "-c", config, "--access-log", "off") as server:
        silent = [server.connect("telnet") for _ in range(20)]
        for _ in range(12):
            assert whole_answer(server).startswith(b"HTTP/1.0 200 ")
        for sock in silent:
            sock.close()


def test_unfinished_heads_make_room_for_finished_ones(folder: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, "[limits]\nconnections = 10\n")
    with Server(folder, "--http", "0", "--telnet", "off", "-c", config, "--access-log", "off") as server:
        slow = []
        for _ in range(30):
            slow.append(server.connect())
            slow[-1].sendall(b"GET /")
        for _ in range(20):
            assert whole_answer(server).startswith(b"HTTP/1.0 200 ")
        for sock in slow:
            sock.close()


NO_TICKS = """
import sys
from rawservers import cli
from rawservers.core import loop

loop.TICK = 3600.0
sys.exit(cli.main())
"""


def test_a_full_server_whose_connections_are_idle_lets_everybody_in(folder: Path, tmp_path: Path) -> None:
    """Also when all have become idle in this very wake."""
    config = configured(tmp_path, "[limits]\nconnections = 3\n")
    with Server(folder, "--http", "0", "--telnet", "off", "-c", config, "--access-log", "off", program=NO_TICKS) as server:
        kept = []
        for _ in range(40):
            kept.append(server.connect())
            kept[-1].sendall(GET)
            receive_until(kept[-1], b"content of f\n")
        for sock in kept:
            sock.close()


def test_the_longest_idle_goes_first(folder: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, "[limits]\nconnections = 3\n")
    with Server(folder, "--http", "0", "--telnet", "off", "-c", config, "--access-log", "off") as server:
        kept = []
        for requests in (1, 2):  # the first of each may be answered in one wake, the last one not
            kept.append(server.connect())
            for _ in range(requests):
                kept[-1].sendall(GET)
                receive_until(kept[-1], b"content of f\n")
        head = server.connect()
        head.sendall(b"GET /f HTTP/1.1\r\n")
        assert whole_answer(server).startswith(b"HTTP/1.0 200 ")
        assert kept[0].recv(1) == b""  # the oldest
        head.sendall(b"Host: h\r\n\r\n")
        assert receive_until(head, b"content of f\n").startswith(b"HTTP/1.0 200 ")
        for sock in (*kept, head):
            sock.close()


# Descriptors


def test_fewer_descriptors_mean_fewer_connections(conf: Path) -> None:
    with supervise("-c", conf, before=(need("prlimit"), "--nofile=400")) as server:
        assert get(server) == CONTENT
        assert "limits.connections reduced from 10000 to 80: descriptor limit too low\n" in server.stderr()


@contextlib.contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """It can open nothing meanwhile."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    lowest = next(number for number in itertools.count() if number not in opened(pid))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, hard))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_for_a_connection(conf: Path) -> None:
    with supervise("-c", conf, workers=1) as server, server.connect("telnet") as session, server.connect() as waiting:
        session.sendall(b"x\r\n")
        assert receive_until(session, b"\n") == b"x\r\n"
        waiting.sendall(request("/f"))
        assert take_answer(waiting) == (200, False, CONTENT)
        idle(server)
        with without_descriptors(server.pid), server.connect() as waiting:
            waiting.sendall(request("/f"))
            until(
                lambda: "cannot accept http connections: too many open files" in server.stderr().lower(), "a line that says so"
            )
            lines, used = len(server.stderr().splitlines()), server.cpu()
            select.select([], [], [], 1.0)  # the time is what this is about
            assert server.cpu() - used < 0.2
            assert len(server.stderr().splitlines()) - lines <= 11  # one for each try, which here come ten times faster
            session.sendall(b"y\r\n")
            assert receive_until(session, b"\n") == b"y\r\n"
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
            assert take_answer(waiting) == (200, False, CONTENT)


def test_another_worker_serves_when_one_has_no_descriptor(conf: Path) -> None:
    with supervise("-c", conf) as server:
        server.address("http")
        idle(server)
        first = int(get(server, "/pid"))  # the one that is woken when all are idle
        idle(server)
        with without_descriptors(first), server.connect() as sock:
            sock.sendall(request("/f"))
            assert take_answer(sock) == (200, False, CONTENT)


def idle(server: Server) -> None:
    """Wait until every worker does."""
    until(lambda: all(state(pid) == "S" for pid in server.workers()), "idle workers")


def test_out_of_descriptors(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "0") as server:
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        with server.connect() as kept:
            kept.sendall(KEPT)
            take_body(kept)
            count = len(server.descriptors())
            _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (count + 3, hard))
            telnet = [server.connect("telnet") for _ in range(3)]
            for sock in telnet:
                sock.sendall(b"x\r\n")
                assert receive_until(sock, b"\r\n") == b"x\r\n"
            waiting = [server.connect("telnet") for _ in range(10)]
            until(lambda: "cannot accept" in server.stderr(), "the refusal is logged")
            before, began = server.cpu(), time.monotonic()
            for sock in telnet:  # those that are there go on
                sock.sendall(b"y\r\n")
                assert receive_until(sock, b"\r\n") == b"y\r\n"
            until(lambda: time.monotonic() - began > 1.5, "some time")
            assert server.cpu() - before < 0.1 * (time.monotonic() - began) + 0.02
            assert server.stderr().count("cannot accept") <= 4
            for sock in telnet:
                sock.close()
            for sock in waiting[:3]:  # and those that waited are served when others leave
                sock.sendall(b"z\r\n")
                assert receive_until(sock, b"\r\n") == b"z\r\n"
            for sock in waiting:
                sock.close()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"


def test_idle_kept_connections_are_given_up_for_new_ones(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off") as server:
        exchange(server, KEPT)
        count = len(server.descriptors())
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (count + 8, count + 8))
        kept = [server.connect() for _ in range(7)]
        for sock in kept:
            sock.sendall(KEPT)
            take_body(sock)
        for _ in range(20):
            assert exchange(server, KEPT).endswith(b"content of f\n")
        for sock in kept:
            sock.close()


def test_hot_large_files_do_not_use_up_the_descriptors(folder: Path) -> None:
    for number in range(400):
        (folder / f"large{number}").write_bytes(bytes(20_000))
    time.sleep(0.03)  # so that they are old enough to be remembered: the age is what this is about
    with Server(folder, "--http", "0", "--telnet", "off") as server, server.connect() as sock:
        for _ in range(3):
            for number in range(400):
                sock.sendall(f"GET /large{number} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                assert len(take_body(sock)) == 20_000
        assert 200 < len(server.descriptors()) < 300
