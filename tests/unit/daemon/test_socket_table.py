"""The table of sockets: made in turns, in shared memory only while somebody asks, and believed only as far as it can be."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rawservers.core.connection import Connection
from rawservers.core.protocol import Protocol
from rawservers.core.transport import Transport
from rawservers.daemon import socket_table
from rawservers.daemon.scoreboard import Metrics, Scoreboard
from rawservers.daemon.socket_table import ROW_BATCH, SCAN_BATCH, SocketTable, dump_table, kernel_address, parse_table
from rawservers.sockets import MAX_ROWS, ConnectedSocket, Sockets
from tests.harness.core import Pair

ROW = ConnectedSocket("http", "192.0.2.1:5", "192.0.2.9:80", "idle", 1.5, 2.5, 3, 4, 5)
LIMIT = 49000


# What any worker may have written


def test_a_table() -> None:
    text = dump_table(5, 100.0, 7, [ROW, ROW], LIMIT)
    assert parse_table(text, 5, 100.5) == (7, [ROW, ROW])
    assert parse_table(dump_table(5, 100.0, 0, [], LIMIT), 5, 100.0) == (0, [])


@pytest.mark.parametrize(("pid", "now"), [(6, 100.5), (5, 99.9), (5, 103.0), (5, math.nan)])
def test_a_table_of_another_process_or_time(pid: int, now: float) -> None:
    assert parse_table(dump_table(5, 100.0, 7, [ROW], LIMIT), pid, now) is None


@pytest.mark.parametrize(
    "text",
    [
        b"", b"null", b"[]", b"\xff", b"[" * 40000, b"[5, 100, 1]", b'[5, "100", 1, []]', b"[5, NaN, 1, []]",
        b"[5, 100, -1, []]",
        b"[5, 100, 1.5, []]", b"[5, 100, true, []]", b"[5, 100, 1, {}]", b"[5, 100, 1, 7]", b"[5, 100, 1, [7]]",
        b"[5, 100, 1, [[]]]", b"[[5], 100, 1, []]", b'[5, 100, 1, [["a", "b", "c", "d", 1, 1, 1, 1, "5"]]]',
        b"[5, 1" + b"0" * 5000 + b", 1, []]",
    ],
)  # fmt: skip
def test_a_malformed_table(text: bytes) -> None:
    assert parse_table(text, 5, 100.0) is None


def test_a_table_has_as_many_rows_as_fit() -> None:
    long = ROW._replace(peer="unix:" + "\x1b" * 500)
    text = dump_table(5, 100.0, 200, [long] * MAX_ROWS, LIMIT)
    assert len(text) <= LIMIT
    table = parse_table(text, 5, 100.0)
    assert table
    total, rows = table
    assert total == 200
    assert 10 < len(rows) < MAX_ROWS
    too_many = dump_table(5, 100.0, 500, [ROW] * 500, 1 << 20)
    assert parse_table(too_many, 5, 100.0) == (500, [ROW] * MAX_ROWS)


# A worker


class Worker(Pair):
    """A worker's table, of so many connections that have no peers any more; the loop is run by `turns`."""

    def __init__(self, count: int) -> None:
        super().__init__(lambda peer: Protocol())
        self.connections.discard(self.connection)
        self.connection.close()
        for number in range(count):
            ours, theirs = socket.socketpair()
            theirs.close()
            spec = self.connection._service
            each = Connection(Transport(fileno=ours.detach()), (f"h{number}", 1), spec, self.loop, self.connections.discard)
            each.accepted_at = float(number)
            self.connections.add(each)
        self.scoreboard = Scoreboard()
        self.slot = self.scoreboard.allocate()
        self.table = SocketTable(self.loop, self.connections, {}, self.scoreboard, self.slot.number)

    def turns(self) -> int:
        """Give turns until nobody waits for one; their number."""
        count = 0
        while given := self.give_turns():
            count += given
        return count

    def written(self) -> tuple[int, list[ConnectedSocket]] | None:
        return parse_table(self.scoreboard.table(self.slot.number).read(), os.getpid(), time.monotonic())

    def due(self) -> None:
        """The timers."""
        while self.loop._timers:
            self.loop._timers.popitem()[1][1]()

    def __exit__(self, *failure: object) -> None:
        for connection in self.connections:
            connection.close()
        self.scoreboard.close()
        super().__exit__(*failure)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(3) as worker:
        yield worker


def test_nothing_is_done_unasked(worker: Worker) -> None:
    worker.table.tick()
    assert worker.turns() == 0
    assert worker.written() is None


@pytest.mark.parametrize("asked", [-math.inf, math.inf, math.nan, 1e300, 0.0])
def test_nothing_is_done_for_an_impossible_time(worker: Worker, asked: float) -> None:
    worker.scoreboard.ask(asked)
    worker.table.tick()
    assert worker.turns() == 0


def test_a_worker_writes_its_table_while_somebody_asks(worker: Worker) -> None:
    worker.scoreboard.ask(time.monotonic())
    worker.table.tick()
    worker.table.tick()  # the first one is not finished yet
    assert worker.turns() > 0
    table = worker.written()
    assert table
    assert table[0] == 3
    assert [row.peer for row in table[1]] == ["h2:1", "h1:1", "h0:1"]
    assert {row.pid for row in table[1]} == {os.getpid()}
    worker.scoreboard.ask(time.monotonic() - socket_table.ASK_TIME - 1)
    worker.table.tick()
    assert worker.turns() == 0


def test_many_connections_take_many_turns() -> None:
    with Worker(2 * SCAN_BATCH + 1) as worker:
        worker.scoreboard.ask(time.monotonic())
        worker.table.tick()
        assert worker.turns() >= 3 + MAX_ROWS // ROW_BATCH
        table = worker.written()
        assert table
        assert table[0] == 2 * SCAN_BATCH + 1
        newest = range(2 * SCAN_BATCH, 2 * SCAN_BATCH - MAX_ROWS, -1)
        assert [row.peer for row in table[1]] == [f"h{number}:1" for number in newest]


def test_who_asks_gets_the_tables_of_all(worker: Worker) -> None:
    other = worker.scoreboard.allocate()
    worker.scoreboard.table(other.number).write(dump_table(os.getpid(), time.monotonic(), 1000, [ROW], LIMIT))
    silent = worker.scoreboard.allocate()
    silent.publish(Metrics())
    futures = [worker.table.ask() for _ in range(3)]
    worker.due()
    worker.turns()
    tables: list[Sockets] = [future.result(0) for future in futures]
    assert tables[0] is tables[1] is tables[2]  # made once for all
    table = tables[0]
    assert (table.workers, table.silent, table.connected_total) == (3, 1, 1003)
    assert ROW in table.connected
    assert len(table.connected) == 4
    assert worker.table.ask() is not futures[0]


def test_who_no_longer_waits_keeps_nobody_up(worker: Worker) -> None:
    futures = [worker.table.ask() for _ in range(2)]
    assert futures[0].cancel()
    worker.due()
    worker.turns()
    assert futures[1].result(0).connected_total == 3


def test_a_failure_is_said_to_who_asks(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(socket_table, "time_wait", fail)
    future = worker.table.ask()
    worker.due()
    with pytest.raises(ZeroDivisionError):
        worker.turns()
    with pytest.raises(ZeroDivisionError):
        future.result(0)
    monkeypatch.undo()
    future = worker.table.ask()
    worker.due()
    worker.turns()
    assert future.result(0).connected_total == 3


def test_the_kernels_table_is_read_once_a_second(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often one is asked: it takes milliseconds."""
    reads: list[float] = []

    def time_wait(*_: Any) -> Any:
        reads.append(worker.loop.clock.now)
        yield
        return [], 7, False

    monkeypatch.setattr(socket_table, "time_wait", time_wait)
    for step in range(30):
        worker.loop.clock.now = 1000.0 + step / 10
        future = worker.table.ask()
        worker.due()
        worker.turns()
        assert future.result(0).time_wait_total == 7
    assert reads == [1000.0, 1001.0, 1002.0]


# The kernel's table

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
REST = "00000000:00000000 03:00000FA0 00000000     0        0 0 3 00000000a353a791\n"


def finished(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def hexed(host: str, port: int, family: int = socket.AF_INET) -> str:
    data = socket.inet_pton(family, host)
    return "".join(f"{int.from_bytes(data[at : at + 4], 'little'):08X}" for at in range(0, len(data), 4)) + f":{port:04X}"


@pytest.fixture
def tables(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    paths = {socket.AF_INET: tmp_path / "tcp", socket.AF_INET6: tmp_path / "tcp6"}
    monkeypatch.setattr(socket_table, "KERNEL_TABLES", paths)
    monkeypatch.setattr("sys.byteorder", "little")
    return paths


def test_time_wait(tables: Any) -> None:
    rows = [
        ("127.0.0.1", 80, "192.0.2.1", 5, "06"),
        ("127.0.0.1", 80, "192.0.2.1", 6, "01"),
        ("127.0.0.1", 81, "192.0.2.1", 7, "06"),
        ("127.0.0.2", 80, "192.0.2.1", 8, "06"),
        ("127.0.0.2", 82, "192.0.2.1", 9, "06"),
        ("192.0.2.1", 5, "127.0.0.1", 80, "06"),
    ]
    lines = [f" {n:3}: {hexed(a, b)} {hexed(c, d)} {state} {REST}" for n, (a, b, c, d, state) in enumerate(rows)]
    tables[socket.AF_INET].write_text(HEAD + "".join(lines))
    mapped = f"   0: {hexed('::ffff:192.0.2.7', 83, 10)} {hexed('::ffff:192.0.2.1', 5, 10)} 06 {REST}"
    tables[socket.AF_INET6].write_text(HEAD + mapped + f"   1: {hexed('::1', 83, 10)} {hexed('::1', 6, 10)} 06 {REST}")
    found, count, is_cut = finished(socket_table.time_wait([("127.0.0.1", 80), ("0.0.0.0", 82), ("::", 83, 0, 0), "/unix"]))
    assert (count, is_cut) == (4, False)
    assert sorted((row.local, row.peer) for row in found) == [
        ("127.0.0.1:80", "192.0.2.1:5"), ("127.0.0.2:82", "192.0.2.1:9"), ("192.0.2.7:83", "192.0.2.1:5"),
        ("[::1]:83", "[::1]:6"),
    ]  # fmt: skip
    assert {row.seconds for row in found} == {40.0}


def test_many_in_time_wait(tables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{n:4}: {hexed('127.0.0.1', 80)} {hexed('192.0.2.1', n)} 06 {REST}" for n in range(1000)]
    tables[socket.AF_INET].write_text(HEAD + "".join(lines))
    steps = socket_table.time_wait([("127.0.0.1", 80)])
    turns = sum(1 for _ in steps)
    assert turns >= len("".join(lines)) // socket_table.KERNEL_READ
    found, count, is_cut = finished(socket_table.time_wait([("127.0.0.1", 80)]))
    assert (len(found), count, is_cut) == (MAX_ROWS, 1000, False)
    monkeypatch.setattr(socket_table, "KERNEL_LIMIT", 20000)
    found, count, is_cut = finished(socket_table.time_wait([("127.0.0.1", 80)]))
    assert 0 < count < 1000
    assert is_cut


def test_no_kernel_table(tables: Any) -> None:
    assert finished(socket_table.time_wait([("127.0.0.1", 80)])) == ([], None, False)
    assert finished(socket_table.time_wait(["/unix"])) == ([], 0, False)


def test_an_address_of_a_machine_with_another_byte_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_address(b"0100007F:0050", socket.AF_INET) == ("127.0.0.1", 80)
    monkeypatch.setattr("sys.byteorder", "big")
    assert kernel_address(b"7F000001:0050", socket.AF_INET) == ("127.0.0.1", 80)


def test_a_table_is_json() -> None:
    assert json.loads(dump_table(5, 100.0, 1, [ROW], LIMIT)) == [5, 100.0, 1, [[*ROW]]]
