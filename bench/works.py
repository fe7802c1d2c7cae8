"""What is done, and the bars: how well rawservers must do it, as a ratio to a peer's median in the same run."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.servers import (
    ALONE_AND_BURDENED,
    ASYNCIO,
    BURDENED,
    CACHED,
    ECHO,
    EPOLL_C,
    HTTP,
    HTTPS,
    LIGHTTPD,
    NGINX,
    OURS,
    STANDARD,
    UVLOOP,
    Peer,
)

OLD = 1_000_000_000  # when the files were last changed: long ago
FILES = 10_000
CHOICES = 65_536  # requests in a sequence before it begins again
SEED = 1945


class Bar(NamedTuple):
    """The subject's median, divided by that of `against`, is to be at least `bound`; for "cpu" at most."""

    against: str
    bound: float
    of: str = "rate"
    subject: str = OURS

    def reached(self, ratio: float) -> bool:
        return ratio <= self.bound if self.of == "cpu" else ratio >= self.bound


class Work(NamedTuple):
    """connections: of the client; headers: of each request; validators: whether to ask with what the server said of the file;
    script: for wrk; argument: of the script, if not a sequence of paths or a number of each run's own; in_flight: lines under
    way, for an echo; status: what a good answer says; warm: seconds for which it is done before it counts; tls: over TLS;
    resumed: on connections that resume a session, one after another."""

    title: str
    path: str = "/1k"
    unit: str = "requests/s"
    connections: int = 64
    headers: tuple[str, ...] = ()
    validators: bool = False
    script: str = ""
    argument: str = ""
    in_flight: int = 0
    status: int = 200
    peers: Mapping[str, Peer] = HTTP
    bars: tuple[Bar, ...] = ()
    warm: int = 1
    tls: bool = False
    resumed: bool = False

    def barred(self) -> set[str]:
        """Those that a bar names."""
        return {OURS} | {bar.subject for bar in self.bars} | {bar.against for bar in self.bars}


COMPILED = {name: HTTP[name] for name in (OURS, NGINX, CACHED, LIGHTTPD)}

WORKS = {
    "kept": Work(
        "1 KiB file, kept connections",
        bars=(Bar(CACHED, 1.3), Bar(NGINX, 1.6), Bar(STANDARD, 50), Bar(CACHED, 0.75, "cpu")),
    ),
    "each": Work("1 KiB file, a connection per request", headers=("Connection: close",), bars=(Bar(CACHED, 1.0),)),
    "304": Work("304 answers, kept connections", validators=True, status=304, bars=(Bar(CACHED, 1.25),)),
    "100k": Work("100 KiB file, kept connections", "/100k", bars=(Bar(NGINX, 1.1),)),
    "100m": Work("100 MiB file, 4 connections", "/100m", "bytes/s", 4, bars=(Bar(NGINX, 1.0), Bar(NGINX, 1.1, "cpu"))),
    "header": Work(
        "1 KiB file, a header that differs in every request", script="differing.lua", peers=COMPILED, bars=(Bar(CACHED, 1.0),)
    ),
    "zipf": Work(
        "10,000 files of 4 KiB, by a Zipf law",
        "/set/0000",
        script="sequence.lua",
        bars=(Bar(CACHED, 0.9), Bar(NGINX, 1.0)),
        warm=4,  # so that the whole sequence has come
    ),
    "tls": Work("1 KiB file over TLS, kept connections", peers=HTTPS, bars=(Bar(NGINX, 1.0),), tls=True),
    "tls-100m": Work(
        "100 MiB file over TLS, 4 connections",
        "/100m",
        "bytes/s",
        4,
        peers=HTTPS,
        bars=(Bar(NGINX, 1.1), Bar(NGINX, 0.9, "cpu")),
        tls=True,
    ),
    "tls-each": Work(
        "1 KiB file, a full TLS handshake (P-256) for each",
        headers=("Connection: close",),
        peers=HTTPS,
        bars=(Bar(NGINX, 1.2, "cpu"),),
        tls=True,
    ),
    "tls-resumed": Work(
        "1 KiB file, a resumed TLS session for each, one after another",
        peers=HTTPS,
        bars=(Bar(NGINX, 0.85),),
        tls=True,
        resumed=True,
    ),
    "idle": Work(
        "1 KiB file, kept connections, while 5,000 others are idle",
        peers=ALONE_AND_BURDENED,
        bars=(Bar(OURS, 0.9, subject=BURDENED),),
    ),
    "echo": Work(
        "echo of 64-byte lines, one in flight",
        unit="lines/s",
        in_flight=1,
        peers=ECHO,
        bars=(Bar(UVLOOP, 0.9), Bar(ASYNCIO, 1.1), Bar(EPOLL_C, 0.75)),
    ),
    "echo16": Work(
        "echo of 64-byte lines, 16 in flight",
        unit="lines/s",
        in_flight=16,
        peers=ECHO,
        bars=(Bar(UVLOOP, 0.9), Bar(ASYNCIO, 1.0)),
    ),
}


def fill(www: Path) -> None:
    """Make the files that the works ask for."""
    www.mkdir()
    for name, size in (("1k", 1 << 10), ("100k", 100 << 10), ("100m", 100 << 20)):
        (www / name).write_bytes(os.urandom(size))
    (www / "set").mkdir()
    for number in range(FILES):
        (www / "set" / f"{number:04}").write_bytes(os.urandom(4 << 10))
    for path in www.rglob("*"):
        os.utime(path, (OLD, OLD))


def choose() -> list[str]:
    """Paths of the 10,000 files by a Zipf law with exponent 1: the n-th is asked for a n-th as often as the first."""
    weights = [1 / rank for rank in range(1, FILES + 1)]
    numbers = random.Random(SEED).choices(range(FILES), weights, k=CHOICES)
    return [f"/set/{number:04}" for number in numbers]
