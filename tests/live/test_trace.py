"""--trace: every event of every socket, as strace sees them too, and no secret; a reader that has stopped holds nobody up."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from bench.servers import strange
from tests.harness.http_client import request, take_answer
from tests.harness.load import Load
from tests.harness.needs import need
from tests.harness.processes import children
from tests.harness.server import Server
from tests.harness.sockets import receive_all, receive_until
from tests.harness.terminal import Terminal
from tests.harness.waiting import until

LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{6} +(\d+) +(\d+)  (\S+(?: \S+)?) *(?:  (.*))?")
Event: TypeAlias = tuple[str | int, ...]  # a system call, with its result

# With a service whose second line is a password.
PROGRAM = """
import sys
from functools import partial
from rawservers import add_service, cli
from rawservers.telnet.session import Session
from tests.servers.telnet_services import login
add_service("login", partial(Session, service=login, longest_line=4096))
sys.exit(cli.main())
"""
SHORT = """
http.head_time = 0.5
limits.send_time = 1
log.access = "off"
[[listen]]
service = "http"
address = "127.0.0.1:0"
[[listen]]
service = "login"
address = "127.0.0.1:0"
"""


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "conf.toml").write_text(SHORT)
    with (folder / "huge").open("wb") as huge:
        huge.truncate(16 << 20)
    with Server("-c", tmp_path / "conf.toml", folder, "--trace", program=PROGRAM) as server:
        server.address("login")
        yield server


def traced(server: Server) -> list[tuple[int, int, str, str]]:
    """The events so far: process, descriptor, name, and detail."""
    found = [LINE.fullmatch(line) for line in server.stderr().rpartition("\n")[0].split("\n")]
    return [(int(match[1]), int(match[2]), match[3], match[4] or "") for match in found if match]


def as_call(name: str, detail: str) -> Event | None:
    """The system call that an event was; None if it was none by itself."""
    waited = "EAGAIN" in detail
    match name:
        case "accept" | "close":
            return (name,)
        case "receive":
            return "recvfrom", "EAGAIN" if waited else int(detail.partition(" ")[0])
        case "FIN received":
            return "recvfrom", 0
        case "send" | "sendfile":
            return {"send": "sendto"}.get(name, name), "EAGAIN" if waited else int(detail.partition(" ")[0])
        case "FIN sent":
            return "shutdown", 0
        case "RST received":
            return "recvfrom", "ECONNRESET"
        case "RST sent":
            return None if detail else ("setsockopt", 0)
    raise AssertionError(name)


def by_strace(text: str) -> dict[int, list[Event]]:
    """The calls on accepted sockets, by descriptor."""
    found: defaultdict[int, list[Event]] = defaultdict(list)
    for call, arguments, result in re.findall(r"^\d+ +(\w+)\((.*)\) += (-?\d+(?: E\w+)?)", text, re.MULTILINE):
        value = result.split()[-1]
        if call == "accept4" and not value.startswith("E"):
            found[int(value)].append(("accept",))
            continue
        fd = int(arguments.split(",")[0])
        is_open = fd in found and found[fd][-1] != ("close",)
        if is_open and (call in {"recvfrom", "sendto", "sendfile", "shutdown"} or "SO_LINGER" in arguments):
            found[fd].append((call, value if value.startswith("E") else int(value)))
        elif is_open and call == "close":
            found[fd].append(("close",))
    return dict(found)


def why_closed(server: Server) -> list[str]:
    return [detail.partition(";")[0] for *_, name, detail in traced(server) if name == "close"]


def script(server: Server) -> None:
    """Ends of all kinds. Each is waited for, in the trace."""
    ended = 0

    def await_close(why: str) -> None:
        nonlocal ended
        ended += 1
        until(lambda: why_closed(server)[ended - 1 :] == [why], why)

    with server.connect() as sock:
        for _ in range(2):
            sock.sendall(request("/f", keep=True))
            take_answer(sock)
        sock.sendall(b"GET /f HTTP/1.1\r\nHost: h\r\nAuth")
        until(lambda: any(detail.endswith("GET /f HTTP/1.1") for *_, detail in traced(server)), "half a head")
        sock.sendall(b"orization: Basic c2VjcmV0\r\nCookie: c2VjcmV0\r\n\r\n")
        take_answer(sock)
        sock.sendall(b"GET /huge HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert len(receive_all(sock)) > 16 << 20
    await_close("done")
    with server.connect() as sock:
        sock.sendall(b"bad \x1b[2J\r\n\r\n")
        assert b" 400 " in receive_all(sock)
    await_close("done")
    with server.connect("login") as sock:
        receive_until(sock, b"login: ")
        sock.sendall(b"ada\r\n")
        assert b"Password: " in receive_until(sock, b"Password: ")
        for piece in (b"love", b"lace\r", b"\nshown to all\r\n"):
            sock.sendall(piece)
        assert b"shown to all" in receive_until(sock, b"all\r\n$ ")
    await_close("the peer's FIN")
    with server.connect("login") as sock:
        receive_until(sock, b"login: ")
        sock.sendall(b"ada\r\nlovelace\r\nlogout\r\n")
        assert receive_all(sock).endswith(b"Goodbye\r\n")
    await_close("done")
    with server.connect() as sock:
        sock.sendall(request("/f", keep=True))
        take_answer(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await_close("error: connection reset by peer")
    with server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n")
        assert b" 408 " in receive_all(sock)
    await_close("HEAD deadline")
    with server.connect(rcvbuf=4096) as sock:
        sock.sendall(request("/huge"))
        await_close("SEND deadline")


def test_the_trace_has_what_strace_has(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "strace"
    worker = server.pid
    command = [need("strace"), "-f", "-o", str(path), "-e", "trace=network,sendfile,close", "-p", str(worker)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr
        assert b"attached" in tracer.stderr.readline()
        try:
            script(server)
            events = traced(server)
            with server.connect() as sock:  # once it is answered, strace has seen the last close
                sock.sendall(request("/f"))
                assert take_answer(sock)[0] == 200
        finally:
            tracer.send_signal(signal.SIGTERM)
            tracer.wait(20)
    found: defaultdict[int, list[Event]] = defaultdict(list)
    for pid, fd, name, detail in events:
        if pid == worker and (call := as_call(name, detail)):
            found[fd].append(call)
    seen = by_strace(path.read_text())
    more = {fd: calls[len(found[fd]) :] for fd, calls in seen.items()}
    assert {fd: calls[: len(calls) - len(more[fd])] for fd, calls in seen.items()} == found
    assert [calls[0] for calls in more.values() if calls] == [("accept",)]  # of the connection at the end
    calls = {call for events in found.values() for call in events}
    assert {("setsockopt", 0), ("shutdown", 0), ("recvfrom", 0), ("recvfrom", "ECONNRESET"), ("sendfile", "EAGAIN")} <= calls
    text = server.stderr()
    assert "ada" in text
    for secret in ("lovelace", "love", "lace", "c2Vj", "\x1b"):
        assert secret not in text


def test_the_life_of_the_server_sockets(folder: Path) -> None:
    with Server(folder, "--http", "127.0.0.1:0", "--telnet", "off", "--trace", "--access-log", "off") as server:
        host, port = server.address("http")
        address = f"{host}:{port}"
        pids = {server.process.pid, server.pid}
        server.signal()
        assert server.wait() == 0
        events = traced(server)
    assert {pid for pid, *_ in events} == pids
    assert [(name, detail) for pid, _, name, detail in events if pid == server.process.pid] == [
        ("socket", "AF_INET"),
        ("bind", address),
        ("listen", address),
        ("close", f"listener on {address}"),
    ]


def test_lines_say_which_worker(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", "--trace", "--access-log", "off", "--workers", "2") as server:
        server.address("http")
        until(lambda: len(server.workers()) == 2, "both")
        with contextlib.ExitStack() as stack:
            socks = []
            while len({pid for pid, _, name, _ in traced(server) if name == "accept"}) < 2:
                socks.append(stack.enter_context(server.connect()))
                count = len(socks)
                until(lambda count=count: sum(name == "accept" for *_, name, _ in traced(server)) == count, "it is accepted")  # type: ignore[misc]
                assert count < 1000
        assert {pid for pid, _, name, _ in traced(server) if name == "accept"} == set(server.workers())


@pytest.mark.slow
def test_a_trace_that_nobody_reads_holds_nobody_up(folder: Path) -> None:
    """What the kernel and the server hold of it is over a megabyte; what comes then is dropped, and counted."""
    with Server(folder, "--http", "0", "--telnet", "off", "--trace", "--access-log", "off") as server:
        with Load(server.address("http"), b"content of f\n") as load:
            until(lambda: load.answered > 12000, "it is served", 120)
        assert load.failures == []
        until(lambda: re.search(r"\ntrace: \d+ lines dropped \(reader too slow\)\n", server.stderr()) is not None, "it is said")
        for line in server.stderr().rpartition("\n")[0].split("\n"):
            assert LINE.fullmatch(line) or re.match(r"trace: \d+ lines", line) or not strange(line), line


@pytest.mark.parametrize(("variable", "is_coloured"), [("", True), ("NO_COLOR", False)])
def test_colours_are_for_terminals(folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, is_coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    command = [sys.executable, "-m", "rawservers", str(folder), "--http", "0", "--telnet", "off", "--trace"]
    with Terminal(*command) as terminal:
        until(lambda: bool(terminal.rows()) and b"http listening" in terminal.heard, "it listens")
        assert (b"\x1b[" in terminal.heard) == is_coloured
        assert b"bind" in terminal.heard
        terminal.type("\x03")
        assert terminal.leaves() == 0


def test_no_trace_unasked(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off") as server:
        with server.connect() as sock:
            sock.sendall(request("/f"))
            take_answer(sock)
        assert len(server.workers()) == len(children(server.process.pid)) == 1
        assert traced(server) == []
