"""What is no matter of speed: how soon it answers after its start, and how much memory it takes, empty and full."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.compare import noting
from bench.install import ROOT
from bench.load import Failed, Idle
from bench.process import Memory, memory
from bench.servers import DEADLINE, HTTP, HTTPS, NGINX, OURS, STANDARD, Peer, Place, free_port, ours_roomy, running, stop

STARTS = 15
HELD = 10_000  # idle connections
HELD_TLS = 1000  # of these; the client takes more memory for them than the server
EMPTY = [sys.executable, "-c", "print(flush=True); input()"]


@dataclass
class Footprint:
    """answer: seconds from a start to the first answer; standard: the same of http.server, in turns with ours; the rest in
    bytes, of the supervisor and its worker together: pss with shared pages divided by those who share them, rss without;
    empty: of a Python that does nothing; each: per idle connection; held: how many of HELD stayed open; each_tls, nginx_tls:
    per idle connection with TLS, ours and nginx's; note: what failed."""

    answer: list[float] = field(default_factory=list)
    standard: list[float] = field(default_factory=list)
    pss: int = 0
    rss: int = 0
    empty_pss: int = 0
    empty_rss: int = 0
    each: float = 0.0
    held: int = 0
    each_tls: float = 0.0
    nginx_tls: float = 0.0
    note: str = ""


def weigh(base: Path, starts: int = STARTS, count: int = HELD) -> Footprint:
    """Start the server `starts` times, and let `count` connections idle on it."""
    found = Footprint()
    with noting(found):
        first_answer(base, OURS)  # compiles what has changed since the last run
        for _ in range(starts):
            found.standard.append(first_answer(base, STANDARD))
            found.answer.append(first_answer(base, OURS))
        found.empty_pss, found.empty_rss = weigh_python()
        found.pss, found.rss = weigh_server(base)
        hold(base, count, found)
        found.each_tls = weigh_tls(base, OURS)
        found.nginx_tls = weigh_tls(base, NGINX)
    return found


def first_answer(base: Path, name: str = OURS, python: str = sys.executable) -> float:
    """Seconds from the start of a new server to the first byte that it says. name: in HTTP."""
    with tempfile.TemporaryDirectory(dir=base) as own:
        place = Place(base / "www", Path(own), free_port(), python)
        command = [str(word) for word in HTTP[name].command(place)]
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not answers(place.port):
                if time.perf_counter() - begin > DEADLINE:
                    raise Failed("it does not answer")
                time.sleep(0.0005)
            return time.perf_counter() - begin
        finally:
            stop(process)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
            sock.sendall(b"GET /1k HTTP/1.0\r\n\r\n")
            return sock.recv(1) == b"H"
    except ConnectionRefusedError:
        return False


def weigh_python() -> Memory:
    """The memory of a Python that has nothing to do."""
    with subprocess.Popen(EMPTY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        found = memory(process.pid)
        process.communicate(b"\n")
    return found


def weigh_server(base: Path) -> Memory:
    """The memory of the server once it has answered."""
    with running(OURS, HTTP[OURS], base) as server:
        answers(server.place.port)
        return memory(server.pid)


def hold(base: Path, count: int, found: Footprint) -> None:
    """Let `count` connections idle."""
    with running(OURS, Peer(ours_roomy), base) as server:
        answers(server.place.port)
        before = memory(server.pid)
        with contextlib.closing(Idle(server.place.port, "/1k", count)) as crowd:
            found.held = crowd.held()
            found.each = (memory(server.pid).pss - before.pss) / count


def weigh_tls(base: Path, name: str, count: int = HELD_TLS) -> float:
    """Bytes per idle connection with TLS, of this one of the servers of `HTTPS`."""
    context = ssl.create_default_context(cafile=base / "certificate")
    with running(name, HTTPS[name], base) as server:
        Idle(server.place.port, "/1k", 1, context).close()  # so that what the first one loads is there
        before = memory(server.pid)
        with contextlib.closing(Idle(server.place.port, "/1k", count, context)):
            return (memory(server.pid).pss - before.pss) / count
