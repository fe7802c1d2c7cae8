"""Phases: preambles before the conversation, lingering after it."""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Sequence

import pytest

from rawservers.core.connection import Connection
from rawservers.core.peer import Peer
from rawservers.core.phases import Done, Phase, PreambleError
from rawservers.core.protocol import Chunk, Deadline, Protocol
from tests.harness.core import Pair, Recording, Running
from tests.harness.sockets import receive_all, receive_until
from tests.harness.waiting import until


class FourBytes:
    """A preamble that eats four bytes; "evil" is none, and "proxy" after two of them is."""

    name = "four bytes"

    def __init__(self) -> None:
        self.eaten = b""

    def feed(self, data: bytes) -> Done | None:
        self.eaten += data
        if self.eaten[:4] == b"evil":
            raise PreambleError("no preamble of ours")
        address = ("192.0.2.9", 9) if self.eaten[:4] == b"from" else None
        return Done(self.eaten[4:], address) if len(self.eaten) >= 4 else None


class Telling(Recording):
    greeting = b"hello "

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        return (self.peer.address[0].encode() + b":" + data,)


@pytest.mark.parametrize(
    "pieces", [[b"abcdGET\n"], [b"a", b"bc", b"d", b"GET\n"], [b"abc", b"dG", b"ET\n"], [b"abcd", b"GET\n"]]
)
def test_a_preamble_is_eaten_and_the_rest_handed_on(pieces: list[bytes]) -> None:
    with Running(Telling, preambles=[FourBytes]) as running, running.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        for piece in pieces:
            sock.sendall(piece)
        while not received.endswith(b"\n"):
            received += receive_until(sock, b"\n")
        assert received.replace(b"127.0.0.1:", b"") == b"hello GET\n"


def test_several_preambles_in_one_packet() -> None:
    with Running(Telling, preambles=[FourBytes, FourBytes, FourBytes]) as running, running.connect() as sock:
        sock.sendall(b"abcdfromabcdx\n")
        assert receive_until(sock, b"\n") == b"hello 192.0.2.9:x\n"


def test_nothing_starts_before_the_preamble() -> None:
    with Running(Telling, preambles=[FourBytes]) as running, running.connect() as sock:
        sock.sendall(b"abc")
        until(lambda: len(running.connections) == 1, "it is accepted")
        assert running.begun == []
        sock.sendall(b"d")
        assert receive_until(sock, b" ") == b"hello "  # who has nothing to say yet is greeted, too


def test_the_books_go_by_the_address_of_the_accept() -> None:
    with Running(Telling, preambles=[FourBytes]) as running:
        running.connections._max_per_address = 2
        with running.connect() as sock, running.connect() as other:
            for each in (sock, other):
                each.sendall(b"fromx\n")
                assert receive_until(each, b"\n") == b"hello 192.0.2.9:x\n"
            assert running.connections._by_address == {"127.0.0.1": 2}
            with running.connect() as third:
                assert third.recv(1) == b""
        running.until_closed()
        assert running.connections._by_address == {}


def test_a_wrong_preamble_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Running(Telling, preambles=[FourBytes]) as running, running.connect() as sock:
        sock.sendall(b"evil and more")
        assert receive_all(sock) == b""
        assert running.begun == []
        assert running.service.counters.rejected == 1
    assert "no preamble of ours" in caplog.text


@pytest.mark.parametrize("data", [b"", b"abc"])
def test_a_preamble_has_until_the_head_deadline(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Running(Telling, preambles=[FourBytes], head=0.2, idle=60, linger=0.1) as running:
        with running.connect() as sock:
            sock.sendall(data)
            assert receive_all(sock) == b""
            running.until_closed()
            assert running.begun == []
        assert running.service.counters.rejected == 1
    assert "closed: no four bytes in time" in caplog.text


def test_a_fin_before_the_end_of_a_preamble(caplog: pytest.LogCaptureFixture) -> None:
    """One in place of it is no failure: somebody looks whether the server listens."""
    with caplog.at_level(logging.INFO), Running(Telling, preambles=[FourBytes]) as running:
        for data, rejected in ((b"", 0), (b"abc", 1)):
            with running.connect() as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                assert receive_all(sock) == b""
            assert running.service.counters.rejected == rejected
        assert running.begun == []
    assert [record.getMessage().partition(" closed: ")[2] for record in caplog.records] == [
        "FIN before the end of the four bytes"
    ]


def test_the_head_deadline_is_one_for_preamble_and_head() -> None:
    class Waiting(Recording):
        waiting = Deadline.HEAD

    with Running(Waiting, preambles=[FourBytes], head=60) as running, running.connect() as sock:
        until(lambda: len(running.connections) == 1, "it is accepted")
        (connection,) = running.connections
        accepted = connection.timer_started
        sock.sendall(b"abcd")
        until(lambda: bool(running.begun), "it has begun")
        assert connection.timer_started == accepted


def test_input_behind_the_preamble_waits_for_a_protocol_that_does_not_read() -> None:
    class Busy(Recording):
        waiting = Deadline.NONE

        def __init__(self, peer: Peer) -> None:
            super().__init__(peer)
            peer.call_later(0.05)

        def resume(self) -> Sequence[Chunk]:
            assert self.heard == []
            self.waiting = Deadline.IDLE
            return (b"ready ",)

    with Running(Busy, preambles=[FourBytes]) as running, running.connect() as sock:
        sock.sendall(b"abcdword")
        assert receive_until(sock, b".") == b"ready ."
        sock.sendall(b"more")
        assert receive_until(sock, b".") == b"."
        assert running.begun[0].heard == [(b"word", False), (b"more", False)]  # type: ignore[attr-defined]


def test_phases_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    phases: list[Phase] = []
    enter = Connection._enter

    def noted(connection: Connection, phase: Phase, protocol: Protocol) -> None:
        phases.append(phase)
        enter(connection, phase, protocol)

    monkeypatch.setattr(Connection, "_enter", noted)

    class Brief(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return self.expire()

    with Running(Brief, preambles=[FourBytes]) as running, running.connect() as sock:
        sock.sendall(b"abcdx")
        assert receive_all(sock) == b""
        sock.close()
        running.until_closed()
    assert phases == [Phase.PREAMBLE, Phase.OPEN, Phase.LINGERING, Phase.CLOSED]


class Greeting(Recording):
    greeting = bytes(60_000)
    drained = 0

    def drain(self) -> Sequence[Chunk]:
        self.drained += 1
        return ()


def test_later_input_does_not_overtake_what_came_with_the_preamble() -> None:
    with Pair(Greeting, preambles=[FourBytes]) as pair:
        pair.connection._sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        )  # so that the greeting does not leave at once
        pair.sock.sendall(b"abcdfirst")
        pair.connection.ready(select.EPOLLIN)
        pair.sock.sendall(b"second")
        assert pair.connection._events == select.EPOLLOUT


def test_input_that_follows_a_preamble_is_younger_than_what_was_checked() -> None:
    with Pair(Recording, preambles=[FourBytes]) as pair:
        epoch = pair.loop.clock.epoch
        pair.sock.sendall(b"abcd")
        pair.connection.ready(select.EPOLLIN)
        assert pair.loop.clock.epoch > epoch


def test_a_conversation_that_begins_while_the_server_stops_is_told() -> None:
    with Pair(Greeting, preambles=[FourBytes]) as pair:
        pair.connection.drain()
        pair.sock.sendall(b"abcd")
        pair.connection.ready(select.EPOLLIN)
        assert pair.begun[0].drained == 1  # type: ignore[attr-defined]
