"""A connection, of whatever protocol: what is received and sent, deadlines, and the end."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence

import pytest

from rawservers.core.connection import Connection
from rawservers.core.peer import Peer
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline, FileSlice, OpenFile, Protocol, ResponseEnd, Urgent
from rawservers.core.transfer import RECEIVE_SIZE, SMALL_SIZE
from rawservers.core.transport import Transport
from tests.harness.core import Pair, Recording, Running
from tests.harness.sockets import receive_all, receive_until
from tests.harness.waiting import DEADLINE, until

# Input and output


class Busy(Recording):
    """Takes its time with the first words; what comes meanwhile is queued behind them."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        self.go_on = threading.Event()
        self.ended = False

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        super().receive(data, urgent)
        if data == b"first":
            self.go_on.wait(DEADLINE)
        return ()

    def end(self) -> Sequence[Chunk]:
        self.ended = True
        return super().end()


def keep_busy(running: Running, sock: socket.socket) -> Busy:
    """The conversation that is busy with the first words from `sock`."""
    sock.sendall(b"first")
    until(lambda: bool(running.begun and running.begun[0].heard), "it is busy")  # type: ignore[attr-defined]
    (protocol,) = running.begun
    assert isinstance(protocol, Busy)
    return protocol


@pytest.mark.parametrize("size", [4, SMALL_SIZE - 2, SMALL_SIZE - 1, SMALL_SIZE, RECEIVE_SIZE - 1])
def test_urgent_data_comes_in_two_parts(size: int) -> None:
    junk = b"j" * size
    with Running(Busy) as running, running.connect() as sock:
        protocol = keep_busy(running, sock)
        sock.sendall(junk)
        sock.send(b"\xff\xf2", socket.MSG_OOB)
        sock.sendall(b"after")
        protocol.go_on.set()
        until(lambda: protocol.heard[-1:] == [(b"\xf2after", False)], f"the mark, after {protocol.heard}")
        (first, *before, after) = protocol.heard  # what comes before the mark may take two receives
        assert (first, after) == ((b"first", False), (b"\xf2after", False))
        assert [urgent for _, urgent in before] == [True] * len(before)
        assert b"".join(data for data, _ in before) == junk + b"\xff"
        assert len(before) == 1 + (size >= SMALL_SIZE)


class Resetting(Recording):
    """Says something and resets: at once, in a later call, after the peer's FIN, or before anything was said."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        self.last: Sequence[Chunk] = ()

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        if data == b"later":
            self.peer.wake()
            return ()
        if data != b"wait for the FIN":
            self.closing = Closing.RESET
        return tuple(data[at : at + 7] for at in range(0, len(data), 7))

    def resume(self) -> Sequence[Chunk]:
        self.closing = Closing.RESET
        return (b"resumed",)

    def end(self) -> Sequence[Chunk]:
        self.closing = Closing.RESET
        return (b"ended",)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"at once", b"at once"),
        (b"in several chunks", b"in several chunks"),
        (b"later", b"resumed"),
        (b"wait for the FIN", b"wait for the FINended"),
    ],
)
def test_a_reset_comes_after_all_output(said: bytes, heard: bytes) -> None:
    with Running(Resetting) as running, running.connect() as sock:
        sock.sendall(said)
        if said == b"wait for the FIN":
            sock.shutdown(socket.SHUT_WR)
        received = b""
        while len(received) < len(heard) and (data := sock.recv(100)):
            received += data
        assert received == heard
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        until(lambda: len(running.connections) == 0, "it is closed")


def test_a_reset_before_anything_is_said() -> None:
    class ResetAtOnce(Protocol):
        closing = Closing.RESET

        def __init__(self, peer: Peer) -> None:
            pass

    with Running(ResetAtOnce) as running, pytest.raises(ConnectionResetError), running.connect() as sock:
        sock.recv(1)


def test_urgent_output() -> None:
    class Sync(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return (b"before\xff", Urgent(b"\xf2"), b"after")

    with Running(Sync) as running, running.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.sendall(b"x")
        assert receive_until(sock, b"after") == b"before\xff\xf2after"


@pytest.mark.parametrize(
    "size", [1, SMALL_SIZE - 1, SMALL_SIZE, SMALL_SIZE + 1, 2 * SMALL_SIZE, RECEIVE_SIZE, RECEIVE_SIZE + 1]
)
def test_what_has_come_is_heard_in_one_piece(size: int) -> None:
    """As far as one receive goes, however little the peer has said at once before."""
    with Running(Busy) as running, running.connect() as sock:
        protocol = keep_busy(running, sock)
        sock.sendall(bytes(size))
        protocol.go_on.set()
        heard = protocol.heard
        until(lambda: sum(len(data) for data, _ in heard) == 5 + size, "all is heard")
        assert [len(data) for data, _ in heard] == [5, min(size, RECEIVE_SIZE)] + [1] * (size > RECEIVE_SIZE)
        sock.sendall(b"last")
        until(lambda: heard[-1] == (b"last", False), "the next words")


def test_two_pieces_that_are_the_same_are_two() -> None:
    class Twice(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return (b"a", b"a")

    with Running(Twice) as running, running.connect() as sock:
        for _ in range(3):
            sock.sendall(b"x")
            assert receive_until(sock, b"aa") == b"aa"


@pytest.mark.parametrize("size", [1, 100, HIGH_WATER, HIGH_WATER + 1, 3_000_000])
@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_every_size_arrives_whole_and_is_counted(size: int, pieces: int) -> None:
    class Sized(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.closing = Closing.CLOSE
            return (*[b"x" * size] * pieces, ResponseEnd("all"))

    with Running(Sized) as running, running.connect() as sock:
        sock.sendall(b"go")
        assert receive_all(sock) == b"x" * (size * pieces)
        assert running.reports == [("all", size * pieces)]


def test_what_is_lost_is_reported_as_far_as_it_got(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000_000))
    closed: list[int] = []

    def close(fd: int) -> None:
        closed.append(fd)
        os.close(fd)

    class Long(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            file = OpenFile(os.open(path, os.O_RDONLY), close)
            return (b"head", FileSlice(file, 0, 10_000_000), ResponseEnd("sent"), b"more", ResponseEnd("never begun"))

    with Running(Long) as running:
        sock = running.connect()
        sock.sendall(b"go")
        assert sock.recv(4) == b"head"
        sock.close()  # with input unread: a RST
        until(lambda: len(running.reports) == 2, "both are reported")
        (first, sent), second = running.reports
        assert first == "sent"
        assert 4 < sent < 10_000_004
        assert second == ("never begun", 0)
        until(lambda: len(closed) == 1, "the file is closed, once")


@pytest.mark.parametrize("size", [4, 10_000_000])
def test_what_was_still_being_made_is_reported_as_far_as_it_got(size: int) -> None:
    class Unfinished(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.waiting = Deadline.NONE
            return (b"done", ResponseEnd("before"), b"x" * size)

        def connection_lost(self) -> ResponseEnd:
            return ResponseEnd("unfinished", self.peer.clock.now)

    with Running(Unfinished) as running:
        sock = running.connect()
        sock.sendall(b"go")
        assert sock.recv(8, socket.MSG_WAITALL) == b"donexxxx"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        until(lambda: len(running.reports) == 2, "both are reported")
    first, (second, sent) = running.reports
    assert (first, second) == (("before", 4), "unfinished")
    assert sent == 4 if size == 4 else 4 < sent < size


def test_more_than_the_mark_is_resumed_until_all_is_said() -> None:
    class Endless(Recording):
        left = 50

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return self.resume()

        def resume(self) -> Sequence[Chunk]:
            self.left -= 1
            self.waiting = Deadline.TURN if self.left else Deadline.IDLE
            return (b"x" * (HIGH_WATER + 1), ResponseEnd("record"))

    with Running(Endless) as running, running.connect() as sock:
        sock.sendall(b"go")
        received = 0
        while received < 50 * (HIGH_WATER + 1):
            received += len(sock.recv(1 << 20))
        until(lambda: len(running.reports) == 50, "every answer is reported")
        assert set(running.reports) == {("record", HIGH_WATER + 1)}


def test_waking_does_not_get_round_the_mark() -> None:
    class Deferred(Recording):
        resumed = 0

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            for _ in range(50):
                threading.Thread(target=self.peer.wake).start()
            return ()

        def resume(self) -> Sequence[Chunk]:
            self.resumed += 1
            self.waiting = Deadline.TURN if self.resumed < 50 else Deadline.IDLE
            return (b"x" * (4 << 20),) if self.resumed <= 50 else ()

    with Running(Deferred) as running, running.connect() as sock:
        sock.sendall(b"go")
        until(lambda: bool(running.begun and running.begun[0].resumed), "it has begun")  # type: ignore[attr-defined]
        assert not select.select([], [], [], 0.3)[0]
        assert running.begun[0].resumed <= 3  # type: ignore[attr-defined]  # the peer has taken nothing yet
        received = 0
        while received < 8 << 20:
            received += len(sock.recv(1 << 20))
        until(lambda: running.begun[0].resumed > 3, "it goes on")  # type: ignore[attr-defined]


def test_a_connection_is_small() -> None:
    import tracemalloc

    with Running(Recording) as running:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        socks = [running.connect() for _ in range(500)]
        until(lambda: len(running.connections) == 500, "all are accepted")
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        ours = sum(sock.__sizeof__() for sock in socks)
        assert (after - before - ours) / 500 < 3000  # the clients' sockets are in it, too
        for sock in socks:
            sock.close()
    assert all(isinstance(connection, Connection) for connection in running.connections)


# Deadlines


def test_a_deadline_runs_for_what_is_waited_for() -> None:
    class Impatient(Recording):
        waiting = Deadline.BODY
        expired = 0

        def expire(self) -> Sequence[Chunk]:
            self.expired += 1
            self.closing = Closing.LINGER
            return (b"too late",)

    with Running(Impatient, body=1, idle=60) as running, running.connect() as sock:
        began = time.monotonic()
        assert receive_all(sock) == b"too late"
        assert time.monotonic() - began > 0.9


def test_a_deadline_that_is_restarted_still_ends() -> None:
    with Running(Recording, idle=1, linger=0.1) as running, running.connect() as sock:
        for _ in range(12):
            sock.sendall(b"x")
            assert receive_until(sock, b".") == b"."
            select.select([], [], [], 0.1)
        assert receive_all(sock) == b""
        running.until_closed()
        assert running.loop._timers == {}


def test_a_shorter_deadline_that_begins_without_output_is_kept() -> None:
    class Partial(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.waiting = Deadline.HEAD
            return ()

    with Running(Partial, idle=3600, head=0.2) as running, running.connect() as sock:
        until(lambda: bool(running.begun), "it waits for the first byte")
        sock.sendall(b"x")
        assert receive_all(sock) == b""


def test_the_idle_deadline_runs_after_a_quick_answer_to_a_late_request() -> None:
    class Late(Recording):
        waiting = Deadline.HEAD

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.waiting = Deadline.IDLE
            return super().receive(data, urgent)

    with Running(Late, head=3600, idle=0.2, linger=0.1) as running, running.connect() as sock:
        until(lambda: len(running.loop._timers) == 1, "it waits for the head")
        sock.sendall(b"x")
        assert receive_all(sock) == b"."


def test_input_that_has_come_in_time_is_read_before_the_deadline_is_judged() -> None:
    """The loop may have been late."""

    class Expiring(Recording):
        waiting = Deadline.HEAD

        def expire(self) -> Sequence[Chunk]:
            self.heard.append((b"expired", False))
            return super().expire()

    with Pair(Expiring, {Deadline.HEAD: 1}) as pair:
        pair.sock.sendall(b"x")
        pair.loop.clock.now += 2
        pair.connection._check_deadline()
        assert pair.begun[0].heard == [(b"x", False)]  # type: ignore[attr-defined]
        pair.loop.clock.now += 2
        pair.connection._check_deadline()
        assert pair.begun[0].heard == [(b"x", False), (b"expired", False)]  # type: ignore[attr-defined]


def test_a_turn_does_not_restart_the_deadline() -> None:
    """Else a peer that makes enough work with each packet could go on for ever."""

    class Busy(Recording):
        waiting = Deadline.BODY

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.waiting = Deadline.TURN
            return ()

        def resume(self) -> Sequence[Chunk]:
            self.waiting = Deadline.BODY
            return ()

        def expire(self) -> Sequence[Chunk]:
            self.heard.append((b"expired", False))
            return super().expire()

    with Pair(Busy, {Deadline.BODY: 10}) as pair:
        for _ in range(5):
            pair.loop.clock.now += 1
            pair.sock.sendall(b"x")
            pair.connection.ready(select.EPOLLIN)
            while pair.give_turns():
                pass
        pair.loop.clock.now += 5
        pair.connection._check_deadline()  # has a look first whether input has come in time
        pair.give_turns()
        pair.connection._check_deadline()
        assert pair.begun[0].heard == [(b"expired", False)]  # type: ignore[attr-defined]


def test_a_report_that_fails_closes_the_connection_once() -> None:
    class Large(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return (bytes(10_000_000), ResponseEnd("record"))

    def fail(*_: object) -> None:
        raise RuntimeError("as told")

    with Pair(Large, report=fail) as pair:
        pair.sock.sendall(b"x")
        pair.connection.ready(select.EPOLLIN)
        free = pair.connections.free("test")
        with pytest.raises(RuntimeError):
            pair.connection.close()
        pair.connection.failed()
        assert (len(pair.connections), pair.connections.free("test")) == (0, free + 1)


def test_a_closed_connection_leaves_no_timer() -> None:
    with Running(Recording, idle=3600) as running:
        with running.connect() as sock:
            sock.sendall(b"x")
            assert receive_until(sock, b".") == b"."
            until(lambda: len(running.loop._timers) == 1, "its deadline runs")
        running.until_closed()
        assert running.loop._timers == {}


def test_no_deadline_without_a_limit() -> None:
    with Running(Recording, head=1) as running, running.connect() as sock:
        sock.settimeout(2.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)


# The end


def test_a_last_answer_is_not_lost_to_what_the_peer_says_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """To close with input unread is to reset the connection, and with it goes what has not left yet."""

    class Short(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.closing = Closing.CLOSE
            return (b"the last word", ResponseEnd("record"))

    unread = Transport.has_unread

    def and_then(transport: Transport) -> bool:
        found = unread(transport)
        sock.sendall(b"\r\n")
        return found

    monkeypatch.setattr(Transport, "has_unread", and_then)
    with Running(Short) as running, running.connect() as sock:
        sock.sendall(b"x")
        assert receive_until(sock, b"word") == b"the last word"


@pytest.mark.parametrize("closing", [Closing.CLOSE, Closing.LINGER])
def test_a_peer_that_never_stops_is_not_heard_out_for_ever(closing: Closing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transport, "has_unread", lambda transport: True)

    class Refusing(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.closing = closing
            return (b"no",)

    def talk() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(bytes(1000))

    with Running(Refusing, linger=1) as running, running.connect() as sock:
        talker = threading.Thread(target=talk)
        talker.start()
        until(lambda: bool(running.begun) and not running.connections, "it is closed")
        talker.join(DEADLINE)
        assert not talker.is_alive()


def test_a_reset_is_not_taken_for_the_end_of_what_is_said() -> None:
    with Running(Busy) as running:
        with running.connect() as sock:
            protocol = keep_busy(running, sock)
            sock.sendall(bytes(SMALL_SIZE))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        protocol.go_on.set()
        running.until_closed()
        assert not protocol.ended


def test_a_peer_that_breaks_off_while_its_answer_is_awaited_is_noticed() -> None:
    class Pondering(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            super().receive(data, urgent)
            self.waiting = Deadline.NONE  # for somebody else
            return ()

    with Running(Pondering) as running:
        with running.connect() as patient, running.connect() as sock:
            for each in (patient, sock):
                each.sendall(b"?")
            until(lambda: [len(p.heard) for p in running.begun] == [1, 1], "both are heard")  # type: ignore[attr-defined]
            patient.shutdown(socket.SHUT_WR)  # it still listens
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: len(running.connections) < 2, "one is gone")
        assert len(running.connections) == 1  # a FIN alone is no reason not to answer


@pytest.mark.parametrize("how", ["fin", "reset", "closing", "lingering", "hung up", "exception", "closed"])
def test_a_protocol_learns_of_the_end_once(how: str) -> None:
    class Ending(Protocol):
        ends = 0

        def __init__(self, peer: Peer) -> None:
            pass

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            if how == "exception":
                raise RuntimeError("as told")
            self.closing = Closing.LINGER if how == "lingering" else Closing.CLOSE
            return (b"x" * 1000,)

        def connection_lost(self) -> None:
            self.ends += 1

    with Running(Ending) as running:
        sock = running.connect()
        until(lambda: len(running.begun) == 1, "it has begun")
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif how in ("closing", "lingering", "exception"):
            sock.sendall(b"x")
        elif how == "closed":
            for connection in running.connections:
                running.loop.call_soon_threadsafe(connection, connection.close)
        elif how == "hung up":
            for connection in running.connections:
                running.loop.call_soon_threadsafe(connection, connection.hang_up)
        until(lambda: how in ("fin", "reset") or running.begun[0].ends == 1, "it has ended")  # type: ignore[attr-defined]
        sock.close()
        running.until_closed()
    assert [protocol.ends for protocol in running.begun] == [1]  # type: ignore[attr-defined]


def test_an_exception_at_the_very_end_costs_nobody_else() -> None:
    class Failing(Protocol):
        def __init__(self, peer: Peer) -> None:
            pass

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            if data == b"raise":
                raise RuntimeError("as told")
            return (data,)

        def connection_lost(self) -> None:
            raise RuntimeError("at the end, too")

    with Running(Failing) as running, running.connect() as other:
        with running.connect() as sock:
            sock.sendall(b"raise")
            assert receive_all(sock) == b""
        other.sendall(b"as before")
        assert receive_until(other, b"before") == b"as before"
