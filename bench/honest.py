"""Honest clients: each asks for one thing every 50 ms, in a process of its own, and times it from when it was due.

A client that is kept waiting does not ask less for it. Where each exchange has a connection of its own, each begins when it is
due, as those of many clients would; on a kept connection what came due meanwhile is asked for as soon as that is possible, and
the wait counts. Whatever has no answer 10 seconds after it was due has failed.
"""

from __future__ import annotations

import collections
import math
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from bench.fresh import exchange
from bench.load import Failed, is_open

EVERY = 0.05  # seconds from one to the next
PATIENCE = 10.0  # seconds for an answer, from when it was due
CONTENT = b"hello"
GET = b"GET /f.txt HTTP/1.1\r\nHost: h\r\n"


@dataclass
class Record:
    """seconds: of each exchange that came to a good end; failed: how many did not, by the reason; renewed: connections that the
    server had closed while they were idle."""

    seconds: list[float] = field(default_factory=list)
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    renewed: int = 0


class Client:
    """kept: whether it keeps its connection."""

    kept = True
    service = "http"

    def __init__(self, port: int) -> None:
        self.record = Record()
        self._port = port
        self._sock: socket.socket | None = None

    def run(self, seconds: float) -> Record:
        """Ask for so long."""
        for due in paced(seconds):
            self.exchange(due)
        return self.record

    def exchange(self, due: float) -> Record:
        """One, and what it has added to the record."""
        try:
            self._do(due + PATIENCE)
            self.record.seconds.append(time.monotonic() - due)
        except (OSError, Failed) as error:
            self.record.failed[why(error)] += 1
            self.close()
        return self.record

    def connect(self, deadline: float) -> socket.socket:
        """The connection, or a new one."""
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), left(deadline))
        self._sock.settimeout(left(deadline))
        return self._sock

    def close(self) -> None:
        if self._sock:
            self._sock.close()
            self._sock = None

    def ask(self, sock: socket.socket, number: int) -> None:
        """One exchange. OSError or Failed: it came to no good end."""
        raise NotImplementedError

    def _do(self, deadline: float) -> None:
        if self.service == "http" and self._sock and not is_open(self._sock):
            self.close()
            self.record.renewed += 1
        self.ask(self.connect(deadline), len(self.record.seconds))
        left(deadline)


class Fresh(Client):
    kept = False

    def run(self, seconds: float) -> Record:
        with ThreadPoolExecutor(round(PATIENCE / EVERY)) as pool:
            records = [pool.submit(self._alone, due) for due in paced(seconds)]
        for record in (each.result() for each in records):
            self.record.seconds += record.seconds
            self.record.failed += record.failed
        return self.record

    def _alone(self, due: float) -> Record:
        client = type(self)(self._port)
        record = client.exchange(due)
        client.close()
        return record

    def ask(self, sock: socket.socket, number: int) -> None:
        get(sock, GET + b"Connection: close\r\n\r\n")


class Kept(Client):
    def ask(self, sock: socket.socket, number: int) -> None:
        get(sock, GET + b"Connection: keep-alive\r\n\r\n")


class Secure(Fresh):
    """With TLS, and a full handshake each time."""

    service = "https"

    def connect(self, deadline: float) -> socket.socket:
        if self._sock is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._sock = context.wrap_socket(super().connect(deadline))
        return self._sock


class Lines(Client):
    service = "telnet"

    def ask(self, sock: socket.socket, number: int) -> None:
        line = b"line %d\r\n" % number
        sock.sendall(line)
        heard = b""
        while len(heard) < len(line):
            chunk = sock.recv(4096)
            if not chunk:
                raise Failed("closed")
            heard += chunk
        if heard != line:
            raise Failed("wrong")


CLIENTS: dict[str, type[Client]] = {"fresh GET": Fresh, "kept GET": Kept, "TLS GET": Secure, "Telnet line": Lines}


def paced(seconds: float) -> Iterator[float]:
    """For so long, the monotonic times at which exchanges are due, each when it has come."""
    begin = time.monotonic()
    for number in range(round(seconds / EVERY)):
        due = begin + number * EVERY
        time.sleep(max(0.0, due - time.monotonic()))
        yield due


def get(sock: socket.socket, said: bytes) -> None:
    _, body = exchange(sock, said)
    if body != CONTENT:
        raise Failed("wrong")


def left(deadline: float) -> float:
    """Seconds until then. TimeoutError: none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def why(error: Exception) -> str:
    """In a word or two."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ConnectionError):
        return {"ConnectionRefusedError": "refused", "ConnectionResetError": "reset"}.get(type(error).__name__, "broken off")
    return str(error)[:60]


def percentile(figures: Sequence[float], percent: float) -> float | None:
    """The least of `figures` that so many percent of them do not exceed; None if there are none."""
    return sorted(figures)[max(0, math.ceil(len(figures) * percent / 100) - 1)] if figures else None


def ask(name: str, port: int, seconds: float, pipe: Connection) -> None:
    """A process of its own: connects, tells that it is ready, begins when told, and tells what it has seen."""
    client = CLIENTS[name](port)
    if client.kept:
        client.ask(client.connect(time.monotonic() + PATIENCE), 0)
    pipe.send("ready")
    pipe.recv()
    pipe.send(client.run(seconds))
