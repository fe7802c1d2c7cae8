"""The table of the sockets of all workers, made when somebody asks for it: see `rawservers/sockets.py`.

Who asks writes the time into the scoreboard's memory. A worker that finds there, at a tick, that somebody has asked within the
last ASK_TIME seconds writes its table, once a second. So nothing is done while nobody asks, and whoever asks first waits for
the next tick of the other workers.

All this is cut into turns of the loop: a worker may have many connections, there may be many workers, and the kernel's table is
long and slow to read.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from rawservers.core.bind import ServerSocket
from rawservers.core.connection import Connection
from rawservers.core.limits import Connections
from rawservers.core.loop import TICK, Loop
from rawservers.core.peer import Address, address_text, peer_address
from rawservers.core.protocol import state_word
from rawservers.core.tcp_info import connection_info, tcp_info
from rawservers.daemon.scoreboard import Scoreboard
from rawservers.daemon.startup import Servers
from rawservers.sockets import (
    MAX_CHARACTERS,
    MAX_NUMBER,
    MAX_ROWS,
    ConnectedSocket,
    ListeningSocket,
    Sockets,
    TimeWaitSocket,
    parse_rows,
)

T = TypeVar("T")

ASK_TIME = 5.0  # seconds for which workers write their tables after somebody has asked
MAX_AGE = 2.5 * TICK  # seconds after which a table is out of date
WAIT_TIME = 1.3 * TICK  # seconds to wait for the tables of other workers
SCAN_BATCH = 500  # connections examined in one turn
ROW_BATCH = 20  # connections described in one turn, with two system calls each
KERNEL_TABLES: dict[int, str] = {socket.AF_INET: "/proc/net/tcp", socket.AF_INET6: "/proc/net/tcp6"}
KERNEL_READ = 8192  # bytes in one turn
KERNEL_LIMIT = 4 << 20  # bytes of each of the kernel's tables
TICKS_PER_SECOND = 100  # of the kernel's timers, as /proc shows them (USER_HZ)

TimeWait: TypeAlias = "tuple[list[TimeWaitSocket], int | None, bool]"  # see `time_wait`
Steps: TypeAlias = Generator[None, None, T]  # of work, each in a turn of its own, and its result


class SocketTable:
    """The table of one worker, and that of all of them. number: of this worker's slot."""

    def __init__(self, loop: Loop, connections: Connections, servers: Servers, scoreboard: Scoreboard, number: int) -> None:
        self._loop, self._connections, self._servers = loop, connections, servers
        self._scoreboard, self._number = scoreboard, number
        self._is_busy = False  # with its own table
        self._futures: list[Future[Sockets]] = []  # of those who have asked
        self._scanned_at = -math.inf  # when the kernel's table was read, which takes milliseconds
        self._time_wait: TimeWait = ([], None, False)

    def tick(self) -> None:
        """At each tick: write the table of this worker, if somebody has asked for it."""
        if 0 <= time.monotonic() - self._scoreboard.asked_at < ASK_TIME and not self._is_busy:
            self._is_busy = True
            self._run(self._publish())

    def ask(self) -> Future[Sockets]:
        """A future of the table of all workers."""
        now = time.monotonic()
        has_asked = 0 <= now - self._scoreboard.asked_at < ASK_TIME - MAX_AGE
        self._scoreboard.ask(now)
        future: Future[Sockets] = Future()
        self._futures.append(future)
        if len(self._futures) == 1:
            others = self._scoreboard.workers().keys() - {self._number}
            wait = WAIT_TIME if others and not has_asked else 0.0
            self._loop.call_at(self._loop.clock.now + wait, self._loop, lambda: self._run(self._assemble()))
        return future

    def _run(self, steps: Steps[None]) -> None:
        """Do one step; queue a turn for the rest."""
        try:
            next(steps)
        except StopIteration:
            return
        self._loop.call_in_turn(self._loop, partial(self._run, steps))

    def _publish(self) -> Steps[None]:
        """Write the table of this worker."""
        try:
            rows: list[ConnectedSocket] = []
            yield from self._collect(rows)
            buffer = self._scoreboard.table(self._number)
            buffer.write(dump_table(os.getpid(), time.monotonic(), len(self._connections), rows, buffer.max_text))
        finally:
            self._is_busy = False

    def _collect(self, rows: list[ConnectedSocket]) -> Steps[None]:
        """Add the newest connections of this worker to `rows`, MAX_ROWS at most."""
        newest: list[Connection] = []
        connections = iter(self._connections)
        while batch := [*islice(connections, SCAN_BATCH)]:
            newest = heapq.nlargest(MAX_ROWS, newest + batch, key=lambda connection: connection.accepted_at)
            yield
        for start in range(0, len(newest), ROW_BATCH):
            for connection in newest[start : start + ROW_BATCH]:
                with contextlib.suppress(OSError):  # it is closed meanwhile
                    rows.append(describe(connection))
            yield

    def _assemble(self) -> Steps[None]:
        """Make the table of all workers, for all who have asked."""
        try:
            rows: list[ConnectedSocket] = []
            yield from self._collect(rows)
            total, silent, workers = len(self._connections), 0, self._scoreboard.workers()
            for number, pid in workers.items():
                if number != self._number:
                    table = parse_table(self._scoreboard.table(number).read(), pid, time.monotonic())
                    silent += table is None
                    total += table[0] if table else 0
                    rows += table[1] if table else []
                    yield
            rows.sort(key=lambda row: row.open)
            open_servers = {server: its.name for server, its in self._servers.items() if server.sock.fileno() >= 0}
            listening = [listening_row(server, service) for server, service in open_servers.items()]
            if not 0 <= self._loop.clock.now - self._scanned_at < TICK:
                self._scanned_at = self._loop.clock.now
                self._time_wait = yield from time_wait([server.sock.getsockname() for server in open_servers])
            waiting, count, is_cut = self._time_wait
            sockets = Sockets(len(workers), silent, listening, rows[:MAX_ROWS], max(total, len(rows)), waiting, count, is_cut)
            self._resolve(lambda future: future.set_result(sockets))
        except Exception as error:
            failure = error
            self._resolve(lambda future: future.set_exception(failure))
            raise

    def _resolve(self, resolve: Callable[[Future[Sockets]], None]) -> None:
        futures, self._futures = self._futures, []
        for future in futures:
            if future.set_running_or_notify_cancel():
                resolve(future)


def describe(connection: Connection) -> ConnectedSocket:
    """The row of a connection. Raises OSError."""
    info, now = connection_info(connection), connection.clock.now
    peer, local = (address_text(address)[:MAX_CHARACTERS] for address in (connection.address, connection.local))
    open_for = round(max(0.0, now - connection.accepted_at), 3)
    idle = min(open_for, info.idle if info else round(max(0.0, now - connection.timer_started), 3))
    received, sent = (info.received, info.sent) if info else (None, None)
    state = state_word(connection.waits_for)
    name = f"{connection.service}{'s' * connection.secure}"  # http until the handshake is complete
    return ConnectedSocket(name, peer, local, state, idle, open_for, received, sent, os.getpid())


def listening_row(server: ServerSocket, service: str) -> ListeningSocket:
    """The row of a server socket. Raises OSError."""
    info = tcp_info(server.sock)
    return ListeningSocket(service, server.address, info.queued if info else None, info.limit if info else None)


# The table of a worker in shared memory


def dump_table(pid: int, now: float, total: int, rows: Sequence[ConnectedSocket], limit: int) -> bytes:
    """The table as text of at most `limit` bytes: process, monotonic time, number of connections, as many rows as fit."""
    import json

    texts = [json.dumps(row).encode() for row in rows]
    while sum(map(len, texts)) + 2 * len(texts) + 100 > limit:
        texts.pop()
    return b"[%s, [%s]]" % (json.dumps([pid, now, total])[1:-1].encode(), b", ".join(texts))


def parse_table(text: bytes, pid: int, now: float) -> tuple[int, list[ConnectedSocket]] | None:
    """The number of connections, and the rows, of what `dump_table` has made for that process within MAX_AGE; None for
    anything else, since any worker can write anything there.
    """
    import json

    try:
        owner, made_at, total, rows = json.loads(text)
        if owner != pid or not 0 <= now - made_at <= MAX_AGE or type(total) is not int or not 0 <= total < MAX_NUMBER:
            return None
        return total, parse_rows(ConnectedSocket, rows[:MAX_ROWS])
    except (LookupError, TypeError, ValueError, RecursionError):
        return None


# The kernel's table


def time_wait(addresses: Sequence[Any]) -> Steps[TimeWait]:
    """The connections in TIME_WAIT at these local socket addresses: MAX_ROWS of them; their number, None if a table of the
    kernel cannot be read; and whether one is longer than KERNEL_LIMIT, so that not all were seen."""
    addresses = [address for address in addresses if isinstance(address, tuple)]
    ports = b"|".join({b"%04X" % address[1] for address in addresses})
    pattern = re.compile(rb"^ *\d+: (\S+:(?:%s)) (\S+) 06 \S+ \S+:(\S+)" % ports, re.MULTILINE)  # see proc(5)
    found: list[TimeWaitSocket] = []
    count: int | None = 0
    is_cut = False
    for family in {family_of(address) for address in addresses}:
        try:
            with open(KERNEL_TABLES[family], "rb", buffering=0) as table:
                left, rest = KERNEL_LIMIT, b""
                while left > 0 and (data := table.read(KERNEL_READ)):
                    left -= len(data)
                    lines, _, rest = (rest + data).rpartition(b"\n")
                    rows = time_wait_rows(pattern, lines, family, addresses)
                    found += rows[: MAX_ROWS - len(found)]
                    count = (count or 0) + len(rows)
                    yield
                is_cut |= left <= 0
        except OSError:
            count = None
    return found, count, is_cut


def time_wait_rows(pattern: re.Pattern[bytes], lines: bytes, family: int, addresses: Sequence[Any]) -> list[TimeWaitSocket]:
    """The rows of these lines of the kernel's table. pattern: matches those in TIME_WAIT at one of the ports."""
    rows = []
    ours = {peer_address(address) for address in addresses if family_of(address) == family}
    for match in pattern.finditer(lines):
        local = kernel_address(match[1], family)
        if ours & {local, ("0.0.0.0", local[1]), ("::", local[1])}:  # noqa: S104
            peer = kernel_address(match[2], family)
            rows.append(TimeWaitSocket(address_text(local), address_text(peer), int(match[3], 16) / TICKS_PER_SECOND))
    return rows


def family_of(address: Sequence[Any]) -> int:
    return socket.AF_INET if len(address) == 2 else socket.AF_INET6


def kernel_address(text: bytes, family: int) -> Address:
    """An address as /proc/net/tcp has it: words in the byte order of the machine, and a port, in hexadecimal digits."""
    host, _, port = text.decode().partition(":")
    words = [int(host[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(host), 8)]
    return peer_address((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
