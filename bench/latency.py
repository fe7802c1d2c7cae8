"""Latency at half of the peak load, by an open-loop client: python3 -m bench latency [--rounds N] [--seconds S]

A client that waits for an answer before it asks again does not ask during a stall, and so hardly sees it. `paced_load.c` asks
on a schedule, and counts from when a request was due. It is a program of this package because Debian has none for such rates:
wrk2 and vegeta are not there; wrk, hey, siege and ab wait for answers; httperf has no percentiles.

Each server's peak is that of the closed-loop client with as many connections; two workers have the load of one.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench import load
from bench.compare import echo_client, http_client, noting
from bench.install import compile_c
from bench.load import Failed, Latency
from bench.report import table
from bench.servers import (
    ASYNCIO,
    ECHO,
    NGINX,
    OURS,
    PEERS,
    UVLOOP,
    CannotRun,
    Peer,
    Place,
    Running,
    nginx,
    nginx_https,
    ours_http,
    ours_https,
    ours_telnet,
    running,
)
from bench.works import WORKS, Work

TWO = ", two workers"
SHARE = 0.5  # of the peak
LATE = 0.001  # seconds; a client that is itself later than this is told instead of the server's latency
HEAD = """# Latency

`python3 -m bench latency` has made this file.

{where}

Milliseconds from when a request was due to its whole answer, at half of each server's own peak; medians of the rounds. The
client asks on a schedule, whether earlier answers have come or not, so that a stall of the server is seen by all that fall due
during it. Two workers have the same load as one. "client late" is the 99th percentile of the client's own delay; where it is
over {late:g} ms, the machine was too busy, and the figures are the client's rather than the server's. "none" stands for answers
that had not come two seconds after the end. nginx keeps its connections here for any number of requests, as rawservers does.
"""


class Pace(NamedTuple):
    """kind: for paced_load; work: at which the peak is measured; connections: among which the requests go round."""

    kind: str
    work: Work
    connections: int
    peers: Mapping[str, Peer]


@dataclass
class Row:
    """A server at a pace. rate: requests per second; found: of each round; note: why there is nothing else."""

    rate: float = 0.0
    found: list[Latency] = field(default_factory=list)
    note: str = ""

    def middle(self, of: str) -> float:
        """The median of a field of `Latency`."""
        return float(statistics.median(getattr(latency, of) for latency in self.found))

    @property
    def late(self) -> bool:
        """Whether the figures are the client's own."""
        return self.middle("late") > LATE


def pair(command: Callable[[Place], list[object]]) -> Peer:
    return Peer(lambda place: [*command(place), "--workers", 2])


def endless(start: Callable[..., list[object]], workers: int = 1) -> Peer:
    """nginx that closes no connection after so many requests, as ours does not."""
    return Peer(lambda place: start(place, "keepalive_requests 1000000000;", workers=workers), "nginx")


FILES = {OURS: Peer(ours_http), OURS + TWO: pair(ours_http), NGINX: endless(nginx), NGINX + TWO: endless(nginx, 2)}
SECURE = {
    OURS: Peer(ours_https), OURS + TWO: pair(ours_https), NGINX: endless(nginx_https), NGINX + TWO: endless(nginx_https, 2)
}  # fmt: skip
LINES = {OURS: ECHO[OURS], OURS + TWO: pair(ours_telnet), ASYNCIO: ECHO[ASYNCIO], UVLOOP: ECHO[UVLOOP]}

PACES = (
    Pace("get", WORKS["kept"], 64, FILES),
    Pace("each", WORKS["each"], 256, FILES),
    Pace("line", WORKS["echo"], 64, LINES),
    Pace("tls", WORKS["tls"], 64, SECURE),
)


def measure(pace: Pace, base: Path, rounds: int, seconds: int) -> dict[str, Row]:
    """Let all keep `pace`, in turns; base/www holds the files."""
    rows = {name: Row() for name in pace.peers}
    servers: dict[str, Running] = {}
    with contextlib.ExitStack() as stack:
        for name, peer in pace.peers.items():
            with noting(rows[name]):
                servers[name] = stack.enter_context(running(name, peer, base))
                rows[name].rate = SHARE * peak(servers[name], pace.work, base) if TWO not in name else 0.0
        for number in range(rounds):
            shift = number % len(pace.peers)
            for name in [*servers][shift:] + [*servers][:shift]:
                with noting(rows[name]):
                    rows[name].rate = rows[name.removesuffix(TWO)].rate
                    rows[name].found.append(keep(pace, servers[name], rows[name].rate, base, seconds))
    return rows


def keep(pace: Pace, server: Running, per_second: float, base: Path, seconds: int) -> Latency:
    if not per_second:
        raise Failed("its peak was not measured")
    server.empty_logs()
    program = client(base, pace.work.tls)
    return load.paced(program, pace.kind, server.place.port, pace.connections, per_second, seconds, pace.work.path)


def client(base: Path, tls: bool) -> Path:
    """The compiled client. CannotRun says why not."""
    program = base / f"paced_load{'_tls' * tls}"
    try:
        options = ("-DTLS", "-lssl") if tls else ()
        return program if program.exists() else compile_c(PEERS / "paced_load.c", program, *options)
    except RuntimeError as error:
        raise CannotRun(str(error)) from error


def peak(server: Running, work: Work, base: Path) -> float:
    """Requests or lines per second, with the closed-loop client."""
    drive = echo_client(server, work, base) if work.in_flight else http_client(server, work, base)
    drive(1)
    return drive(2).rates[work.unit]


def section(pace: Pace, rows: Mapping[str, Row]) -> str:
    header = (
        "", pace.work.unit, "50 %", "99 %", "99.9 %", "longest", "rawservers' 99 % is", "client late", "client busy", "none",
    )  # fmt: skip
    return f"## {pace.work.title}\n\n{table(header, [line(name, row, rows[OURS]) for name, row in rows.items()])}\n"


def line(name: str, row: Row, ours: Row) -> tuple[str, ...]:
    if not row.found:
        return (f"{name}: {row.note or 'not measured'}", *[""] * 9)
    title = f"{name}: {row.note}" if row.note else f"{name} (the client is late)" if row.late else name
    figures = (milliseconds(row.middle(of)) for of in ("p50", "p99", "p999", "longest"))
    fair = ours.found and ours is not row and not (ours.late or row.late)
    ratio = ours.middle("p99") / row.middle("p99") if fair else math.nan
    shown = f"{ratio:.2f} of it" if 0 < ratio < math.inf else ""
    missing = sum(latency.due - latency.answered for latency in row.found)
    late = milliseconds(row.middle("late"))
    return (title, f"{row.rate:,.0f}", *figures, shown, late, f"{row.middle('busy'):.0%}", f"{missing:,}")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.2f}" if seconds < math.inf else "none"


def document(where: str, sections: list[str]) -> str:
    """bench/latency.md."""
    return "\n".join([HEAD.format(where=where, late=LATE * 1000), *sections])
