"""Is it ever stale? Files are rewritten in every way that a cache may miss, and read back at once, while wrk asks for the same
files with the same bytes, so that whatever is remembered of them is in use all the time.

One step takes the next file in turn, which by then was last changed long enough ago to be remembered: read it, rewrite it, read
it, and rewrite and read it once more at once, mostly within the same tick of the file system's clock.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.compare import noting
from bench.load import DEADLINE, Failed
from bench.servers import HTTP, OURS, PEERS, Running, running

FILES = 256
SIZE = 315 * 13
TIMES = 10_000  # rewritings in each way while reading on one kept connection, and as many while reading on a connection each
PAUSE = 0.03  # seconds that a file is left alone, at the least, before its next step

_numbers = itertools.count()


def write_any(path: Path, content: bytes) -> None:
    """With another size, at another time."""
    size = SIZE // 2 + int(content[:12]) % 1000
    with open(path, "r+b") as file:  # not truncated to nothing first, which has ext4 write the file to the disk at once
        file.write(content[:size])
        file.truncate()


def write_size_kept(path: Path, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(content)


def write_time_kept(path: Path, content: bytes) -> None:
    """In place, the size and the time of the last change as they were."""
    old = path.stat()
    write_size_kept(path, content)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


def replace(path: Path, content: bytes) -> None:
    """Another file of the same name, size and time."""
    old = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(content)
    os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
    other.replace(path)


WAYS: dict[str, Callable[[Path, bytes], None]] = {
    "rewritten": write_any,
    "size kept": write_size_kept,
    "size and mtime kept": write_time_kept,
    "replaced, size and mtime kept": replace,
}


@dataclass
class Freshness:
    """By way of rewriting. read: contents read back after a rewriting; stale: how many of them were not the new one; twice: how
    many rewritings came within the same tick as the one before (ctime did not move); note: what failed."""

    read: dict[str, int] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    twice: dict[str, int] = field(default_factory=dict)
    note: str = ""


def watch(base: Path, times: int = TIMES, name: str = OURS) -> Freshness:
    """Rewrite files that the server of this name serves, `times` times in each way for each kind of connection."""
    found = Freshness()
    folder = base / "www" / "fresh"
    folder.mkdir()
    paths = [folder / f"{number:03}" for number in range(FILES)]
    for path in paths:
        path.write_bytes(bytes(SIZE))
    sequence = base / "fresh"
    sequence.write_text("".join(f"/fresh/{path.name}\n" for path in paths))
    with noting(found), running(name, HTTP[name], base) as server, asking(server, sequence):
        for kept in (True, False):
            reader = Reader(server, kept)
            for way in WAYS:
                step_through(paths, way, reader, times // 2, found)
    shutil.rmtree(folder)
    return found


@contextlib.contextmanager
def asking(server: Running, sequence: Path) -> Iterator[None]:
    """wrk, all the while."""
    command = ["wrk", "-t1", "-c16", "-d3600s", "-s", PEERS / "sequence.lua", f"http://{server.address}/", "--", sequence]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


class Reader:
    """Reads files over one connection, or over one for each, with the very bytes that wrk sends."""

    def __init__(self, server: Running, kept: bool) -> None:
        self._server = server
        self._kept = kept
        self._sock: socket.socket | None = None

    def read(self, path: Path) -> bytes:
        """The content of `path`, as the server has it."""
        request = f"GET /fresh/{path.name} HTTP/1.1\r\nHost: {self._server.address}\r\n\r\n".encode()
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._server.place.port), DEADLINE)
        head, body = exchange(self._sock, request)
        if not self._kept or b"\r\nConnection: close" in head:
            self._sock.close()
            self._sock = None
        return body


def exchange(sock: socket.socket, request: bytes) -> tuple[bytes, bytes]:
    """The head and the body of the answer. Failed: it was no good one."""
    sock.sendall(request)
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += receive(sock)
    head, _, body = heard.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    if b" 200 " not in head[:16] or not length:
        raise Failed(f"the answer was {head!r}")
    while len(body) < int(length[1]):
        body += receive(sock)
    return head, body


def receive(sock: socket.socket) -> bytes:
    chunk = sock.recv(65536)
    if not chunk:
        raise Failed("the connection ended within an answer")
    return chunk


def step_through(paths: list[Path], way: str, reader: Reader, steps: int, found: Freshness) -> None:
    """Let each step take the next of `paths`."""
    for count in (found.read, found.stale, found.twice):
        count.setdefault(way, 0)
    for path in paths:
        path.write_bytes(next_content())
    left = dict.fromkeys(paths, time.monotonic())  # when each was last rewritten
    for path, _ in zip(itertools.cycle(paths), range(steps), strict=False):
        time.sleep(max(0.0, left[path] + PAUSE - time.monotonic()))
        reader.read(path)
        changed = 0
        for _ in range(2):
            WAYS[way](path, next_content())
            found.stale[way] += reader.read(path) != path.read_bytes()
            found.read[way] += 1
            found.twice[way] += changed == (changed := path.stat().st_ctime_ns)
        left[path] = time.monotonic()


def next_content() -> bytes:
    return b"%012d\n" % next(_numbers) * (SIZE // 13)
