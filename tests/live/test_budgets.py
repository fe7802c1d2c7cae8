"""Budgets of a request: Python calls and system calls, which can be counted where times cannot be trusted; memory; start-up."""

from __future__ import annotations

import collections
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from rawservers.core.connection import Connection
from rawservers.core.loop import Loop
from rawservers.core.transfer import SMALL_SIZE
from rawservers.core.transport import Transport
from rawservers.logs.access import AccessLog, open_target
from rawservers.services import ServiceContext, make_service
from rawservers.settings import Config, SiteConfig
from tests.harness.needs import ROOT, need
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_until
from tests.harness.waiting import until

REQUEST = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"


def calls_of(step: Callable[[], Any]) -> list[str]:
    """The Python functions that `step` calls."""
    called: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return called[1:]


def steps(folder: Path, service: str, *said: bytes, wakes: int = 9) -> list[str]:
    """What is called from the loop's `ready` on, when the last of `said` comes, each in one of its own, up to `wakes`."""
    loop = Loop()
    log = AccessLog(open_target(os.devnull), "combined", loop.clock)
    config = Config(sites=(SiteConfig(str(folder)),))
    ours, theirs = socket.socketpair()
    spec = make_service(service, config, ServiceContext(loop.clock, log.add, lambda: pytest.fail("it asks for the status")))
    connection = Connection(Transport(fileno=ours.detach()), ("h", 1), spec, loop, lambda connection: None)
    connection.begin()
    for path in folder.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    until(lambda: os.stat(folder / "f").st_ctime < loop.clock.time - 0.1 or bool(loop._set_clock()), "the file is old enough")
    for number, data in enumerate(said):
        theirs.sendall(data)
        loop.clock.epoch += number < wakes
        called = calls_of(lambda: connection.ready(select.EPOLLIN))
        assert theirs.recv(65536)
    connection.close()
    theirs.close()
    log.close()
    loop.close()
    return called


def test_the_calls_of_a_kept_get(folder: Path) -> None:
    called = steps(folder, "http", *[REQUEST] * 5)
    assert len(called) <= 8, called


def test_the_calls_of_a_get_that_follows_its_like_in_the_same_wake(folder: Path) -> None:
    called = steps(folder, "http", *[REQUEST] * 5, wakes=3)
    assert len(called) <= 3, called


def test_the_calls_of_a_get_with_a_header_that_differs(folder: Path) -> None:
    called = steps(folder, "http", *[REQUEST.replace(b"\r\n\r\n", b"\r\nCookie: %d\r\n\r\n" % number) for number in range(5)])
    assert len(called) <= 11, called


def test_the_calls_of_a_telnet_line(folder: Path) -> None:
    called = steps(folder, "telnet", *[b"x" * 62 + b"\r\n"] * 5)
    assert len(called) <= 2, called


def test_the_calls_of_many_telnet_lines(folder: Path) -> None:
    called = steps(folder, "telnet", *[(b"x" * 62 + b"\r\n") * 16] * 5)
    assert len(called) <= 3, called


def test_nobody_is_asked_twice_for_more(folder: Path) -> None:
    """Who has once said more than a small receive takes is given room from then on, and heard by one receive."""
    line = b"x" * (SMALL_SIZE - 2) + b"\r\n"
    assert "Transfer._recv_rest" in steps(folder, "telnet", line)
    assert "Transfer._recv_rest" not in steps(folder, "telnet", line, line)


def test_the_system_calls_of_kept_gets(folder: Path, tmp_path: Path) -> None:
    counts = names(traced(folder, tmp_path, "http", REQUEST, b"content of f\n"))
    for name in ("recvfrom", "sendto", "epoll_wait", "newfstatat", "write"):
        assert 195 <= counts.pop(name) <= 215, counts
    assert sum(counts.values()) <= 20, counts


def test_the_system_calls_of_gets_from_two_folders_down_with_a_header_that_differs(folder: Path, tmp_path: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/f").write_bytes(b"content of f\n")
    request = b"GET /a/b/f HTTP/1.1\r\nHost: h\r\nCookie: %d\r\n\r\n"
    counts = names(traced(folder, tmp_path, "http", request, b"content of f\n"))
    assert 595 <= counts.pop("newfstatat") <= 620, counts
    for name in ("recvfrom", "sendto", "epoll_wait", "write"):
        assert 195 <= counts.pop(name) <= 215, counts
    assert sum(counts.values()) <= 20, counts


def test_the_system_calls_of_telnet_lines(folder: Path, tmp_path: Path) -> None:
    counts = names(traced(folder, tmp_path, "telnet", b"line\r\n" * 20, b"line\r\n" * 20))
    for name in ("recvfrom", "sendto", "epoll_wait"):
        assert 195 <= counts.pop(name) <= 215, counts
    assert sum(counts.values()) <= 20, counts


def test_the_system_calls_of_a_connection_for_each_get(folder: Path, tmp_path: Path) -> None:
    """The answer waits for the FIN that follows, so that both can leave in one packet."""
    lines = traced(folder, tmp_path, "http", b"GET /f HTTP/1.0\r\n\r\n", b"content of f\n", kept=False)
    counts = names(lines)
    assert sum("MSG_MORE" in line for line in lines if line.startswith("sendto(")) == 200
    for name in ("getsockname", "newfstatat", "sendto", "shutdown", "ioctl", "close"):
        assert 195 <= counts.pop(name) <= 215, counts
    for name in ("accept4", "recvfrom"):  # once in vain each, if the next peer, or its request, is not there yet
        assert 195 <= counts.pop(name) <= 415, counts
    for name in ("epoll_wait", "epoll_ctl", "write"):  # hardly any, if it is
        assert counts.pop(name, 0) <= 415, counts
    assert sum(counts.values()) <= 20, counts


def traced(folder: Path, tmp_path: Path, service: str, said: bytes, end: bytes, kept: bool = True) -> list[str]:
    """The system calls that 200 exchanges make, on one connection or on one for each; %d in `said` is a number of their own."""

    def words(number: int) -> bytes:
        return said % number if b"%d" in said else said

    trace = tmp_path / "trace"
    log = tmp_path / "access.log"
    with Server(folder, "--http", "0", "--telnet", "0", "--access-log", log) as server, server.connect(service) as sock:
        for number in range(20):
            exchange(server, words(number), service)
        command = [need("strace"), "-f", "-o", str(trace), "-p", str(server.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr
            assert b"attached" in tracer.stderr.readline()
            for number in range(100, 300):
                if not kept:
                    assert exchange(server, words(number), service).endswith(end)
                    continue
                sock.sendall(words(number))
                answer = receive_until(sock, end)
                while len(answer) < len(end):
                    answer += receive_until(sock, end)
            tracer.terminate()
            tracer.wait(20)
    return re.findall(r"^\d+ +(\w+\(.*)", trace.read_text(), re.MULTILINE)


def names(calls: list[str]) -> collections.Counter[str]:
    """How often each was called; but for the processor time, which is read around slow wakes, and so depends on the machine."""
    return collections.Counter(call.split("(")[0] for call in calls if not call.startswith("clock_gettime("))


@pytest.mark.parametrize("service", ["http", "telnet"])
def test_an_idle_connection_is_small(folder: Path, service: str) -> None:
    http = [folder, "--http", "0", "--telnet", "off", "--access-log", "off"]
    count = 500  # with both ends of each, no process needs more than the 1024 descriptors that many may open
    with Server(*(http if service == "http" else ["--http", "off", "--telnet", "0"])) as server:
        said, end = (REQUEST, b"content of f\n") if service == "http" else (b"x\r\n", b"\r\n")
        socks = [server.connect(service) for _ in range(100)]
        for sock in socks:
            sock.sendall(said)
            receive_until(sock, end)
        before = server.memory()
        more = [server.connect(service) for _ in range(count)]
        for sock in more:
            sock.sendall(said)
            receive_until(sock, end)
        assert (server.memory() - before) / count < 2048
        for sock in socks + more:
            sock.close()


# The start: what it imports and compiles, which can be counted where its time cannot be trusted.

START = """
import re, sys
compile, patterns = re.compile, []
def noting(pattern, flags=0):
    patterns.append(sys._getframe(1).f_globals["__name__"])
    return compile(pattern, flags)
re.compile = noting
from rawservers import cli
from rawservers.daemon.startup import Resources
from rawservers.daemon.supervisor import Supervisor
config = cli.configure(cli.parse(sys.argv[1:]))
Resources.prepare(config).close()
print(*sys.modules, *(f"pattern in {name}" for name in patterns), sep="\\n")
"""


HTTP_ONLY = ("--http", "0", "--telnet", "off", "--access-log", "off")

# Modules that only some servers need, or a start can do without: those of the standard library cost as much as all of ours.
NEVER = {
    "asyncio", "base64", "ctypes", "dataclasses", "datetime", "email", "encodings.idna", "hashlib", "html", "http", "inspect",
    "ipaddress", "json", "pathlib", "shlex", "shutil", "ssl", "subprocess", "tomllib", "unicodedata", "urllib",
}  # fmt: skip


def loaded(folder: Path, *options: str) -> list[str]:
    """What a start with these options loads, up to the fork: modules, and a line for each pattern compiled by `re.compile`."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{START}"]
    done = subprocess.run([*command, str(folder), *HTTP_ONLY, *options], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_start_loads_nothing_that_most_servers_never_use(folder: Path) -> None:
    found = loaded(folder, "--no-listing")
    assert not NEVER & set(found)
    assert sum(name.startswith("rawservers") for name in found) <= 68
    assert sum(name.startswith("pattern in rawservers") for name in found) <= 22


def test_a_start_with_listings_loads_what_they_need(folder: Path) -> None:
    found = loaded(folder, "--listing")
    assert not NEVER - {"unicodedata"} & set(found)
    assert sum(name.startswith("rawservers") for name in found) <= 73
