"""Everybody's turn. In each round each server does the same work once, in an order that moves on from round to round; those
that no bar names take part in every third. A machine that is busy with something else then slows all alike.
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench import load
from bench.install import compile_c
from bench.load import Failed, Idle, Load
from bench.process import cpu_seconds, memory
from bench.servers import PEERS, CannotRun, Peer, Running, running
from bench.works import Work, choose

EVERY = 3  # rounds, of which those that no bar names take part in one

_numbers = itertools.count(1_000_000_000, 2_000_000)  # where the differing headers of a run begin; none makes 2,000,000


class Noted(Protocol):
    note: str


@dataclass
class Row:
    """A server at a work. rates: in the work's unit; cpu: its seconds of processor per 1,000 requests, or per GiB; busy: the
    share of a processor that the client took; failed: requests; pss, rss: bytes after the first run; note: why there is
    nothing else."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    failed: int = 0
    pss: int = 0
    rss: int = 0
    note: str = ""


Rows = dict[str, Row]


def compare(work: Work, base: Path, rounds: int, seconds: int) -> Rows:
    """Let all do `work`; base/www holds the files."""
    rows: Rows = {name: Row() for name in work.peers}
    with contextlib.ExitStack() as stack:
        turns: dict[str, Callable[[int], None]] = {}
        for name, peer in work.peers.items():
            with noting(rows[name]):
                turns[name] = stack.enter_context(contestant(name, peer, work, base, rows[name]))
        for number in range(rounds):
            order = [name for name in turns if name in work.barred() or number % EVERY == 0]
            shift = number % max(1, len(order))
            for name in order[shift:] + order[:shift]:
                with noting(rows[name]):
                    turns[name](seconds)
    return rows


@contextlib.contextmanager
def noting(row: Noted) -> Iterator[None]:
    """What fails is noted, and the others go on."""
    try:
        yield
    except (CannotRun, Failed, OSError) as error:
        row.note = row.note or str(error)


@contextlib.contextmanager
def contestant(name: str, peer: Peer, work: Work, base: Path, row: Row) -> Iterator[Callable[[int], None]]:
    """A turn of the server at the work, warmed up: takes the seconds, and adds to the row."""
    with running(name, peer, base) as server, contextlib.ExitStack() as stack:
        drive = http_client(server, work, base) if not work.in_flight else echo_client(server, work, base)
        crowd = Idle(server.place.port, work.path, peer.idle) if peer.idle else None
        if crowd:
            stack.callback(crowd.close)
        drive(work.warm)
        row.pss, row.rss = memory(server.pid)

        def turn(seconds: int) -> None:
            server.empty_logs()
            if crowd:
                crowd.renew()
            before = cpu_seconds(server.pid)
            found = drive(seconds)
            add(row, work, found, cpu_seconds(server.pid) - before, seconds)
            if crowd and crowd.held() < peer.idle:
                raise Failed(f"of {peer.idle} idle connections {crowd.held()} are left")

        yield turn


def add(row: Row, work: Work, found: Load, cpu: float, seconds: int) -> None:
    amount = found.rates["bytes/s"] * seconds / (1 << 30) if work.unit == "bytes/s" else found.answered / 1000
    row.rates.append(found.rates[work.unit])
    row.cpu.append(cpu / amount if amount else float("inf"))
    row.busy.append(found.busy)
    row.failed += found.failed


def http_client(server: Running, work: Work, base: Path) -> Callable[[int], Load]:
    """What drives `server` for so many seconds. Failed says that its answers are not what they should be."""
    port = server.place.port
    headers = list(work.headers)
    if work.validators:
        headers += load.validators(port, work.path)
    context = ssl.create_default_context(cafile=base / "certificate") if work.tls else None
    status, _, size = load.ask(port, work.path, headers, context)
    file = base / "www" / work.path[1:]
    expected = 0 if work.status == 304 else size if file.is_dir() else file.stat().st_size
    if (status, size) != (work.status, expected):
        raise Failed(f"it answers {status} with {size} bytes")
    script = PEERS / work.script if work.script else ""

    def drive(seconds: int) -> Load:
        if work.resumed:
            return load.resume(port, work.path, seconds)
        argument = base / "sequence" if work.script == "sequence.lua" else work.argument or next(_numbers)
        arguments = [argument] if work.script else []
        return load.wrk(
            f"http{'s' * work.tls}://{server.address}{work.path}", seconds, work.connections, headers, script, arguments
        )

    return drive


def echo_client(server: Running, work: Work, base: Path) -> Callable[[int], Load]:
    program = base / "echo_load"
    return lambda seconds: load.lines(program, server.place.port, seconds, work.connections, work.in_flight)


def prepare(base: Path) -> None:
    """Make what the clients need, and a certificate."""
    make_certificate(base)
    (base / "sequence").write_text("\n".join(choose()) + "\n")
    with contextlib.suppress(RuntimeError):  # without gcc the rows of the echo say so
        compile_c(PEERS / "echo_load.c", base / "echo_load")


def make_certificate(base: Path) -> None:
    """A certificate of no authority, with a key on P-256, for 127.0.0.1."""
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=bench -days 30 -addext"
    command = [*request.split(), "subjectAltName=IP:127.0.0.1", "-keyout", base / "key", "-out", base / "certificate"]
    subprocess.run(command, check=True, capture_output=True)
    (base / "key").chmod(0o600)
