"""Turns: who asks for little does not wait behind who asks for much. A connection with work left waits for its next turn."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from rawservers.core.output import Output
from rawservers.core.protocol import Chunk, Closing, Deadline, FileSlice, OpenFile, ResponseEnd, Urgent
from rawservers.core.tls import TLSTransport
from rawservers.core.transfer import BYTES_PER_STEP, RECEIVE_SIZE, SMALL_SIZE, UNCOUNTED_SIZE
from rawservers.core.transport import Transport
from tests.harness.core import Greedy, Pair, Recording, Running
from tests.harness.sockets import receive_all, receive_until


def test_who_rests_gets_all_said_in_turns() -> None:
    with Running(Greedy) as running, running.connect() as sock:
        sock.sendall(b"0123456789")
        assert receive_until(sock, b"9") == b"0123456789"
        sock.sendall(b"abc")
        assert receive_until(sock, b"c") == b"abc"
        sock.sendall(b"x")
        assert receive_until(sock, b"x") == b"x"
        assert running.begun[0].calls.count("resume") == 9 + 2  # type: ignore[attr-defined]


def test_the_fin_comes_after_what_rests() -> None:
    with Running(Greedy) as running, running.connect() as sock:
        sock.sendall(b"z" * 1000)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
        assert received == b"z" * 1000
        running.until_closed()


def test_who_ends_the_conversation_has_no_more_turns() -> None:
    class Ending(Greedy):
        def one(self) -> Sequence[Chunk]:
            self.waiting = Deadline.TURN
            self.closing = Closing.CLOSE
            return (b"the last word",)

    with Running(Ending) as running, running.connect() as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b"the last word"
        running.until_closed()
        assert running.begun[0].calls == ["receive"]  # type: ignore[attr-defined]


def test_who_rests_is_not_read_and_stands_in_the_queue_once() -> None:
    with Pair(Greedy) as pair:
        (protocol,) = pair.begun
        pair.sock.sendall(b"abc")
        pair.connection.ready(select.EPOLLIN)
        pair.sock.sendall(b"def")
        assert pair.sock.recv(9) == b"a"
        assert len(pair.loop._turns) == 1
        pair.connection.wake()
        pair.loop.ready(select.EPOLLIN)  # a wake-up makes no second place in the queue
        assert len(pair.loop._turns) == 1
        assert (pair.give_turns(), pair.sock.recv(9)) == (1, b"b")
        assert (pair.give_turns(), pair.sock.recv(9)) == (1, b"c")
        assert pair.give_turns() == 0
        assert protocol.calls == ["receive", "resume", "resume"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [10, SMALL_SIZE - 1, SMALL_SIZE, 5_000, RECEIVE_SIZE])
def test_much_input_and_output_is_counted_whatever_the_protocol_makes_of_it(size: int) -> None:
    """What is answered at once, from memory say, is work, too: the loop has to look at the time when it does much of it."""

    class Quick(Greedy):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return (bytes(size), ResponseEnd("record")) if data == b"out" else (b".",)

    with Pair(Quick) as pair:
        for _ in range(2):  # with room for little, and for more
            before = pair.loop.clock.work
            pair.sock.sendall(b"i" * size)
            pair.connection.ready(select.EPOLLIN)
            assert pair.loop.clock.work - before == (size // BYTES_PER_STEP if size >= SMALL_SIZE else 0)
            assert pair.sock.recv(9) == b"."
        before = pair.loop.clock.work
        pair.sock.sendall(b"out")
        pair.connection.ready(select.EPOLLIN)
        assert pair.loop.clock.work - before == (size // BYTES_PER_STEP if size > UNCOUNTED_SIZE else 0)


def test_who_had_to_rest_is_read_in_turn_until_it_is_modest() -> None:
    with Pair(Greedy) as pair:
        pair.sock.sendall(b"ab")
        pair.connection.ready(select.EPOLLIN)
        assert pair.give_turns() == 1  # and now it waits for more
        pair.sock.sendall(b"c")
        pair.connection.ready(select.EPOLLIN)
        assert len(pair.begun[0].calls) == 2  # type: ignore[attr-defined]  # not read at once
        assert pair.give_turns() == 1
        assert pair.begun[0].calls[2:] == ["receive"]  # type: ignore[attr-defined]
        pair.sock.sendall(b"d")
        pair.connection.ready(select.EPOLLIN)  # it was modest: it is read at once again
        assert pair.begun[0].calls[2:] == ["receive", "receive"]  # type: ignore[attr-defined]
        assert pair.give_turns() == 0


def test_who_rests_and_is_not_read_by_its_peer_has_no_turn() -> None:
    class Flood(Greedy):
        def one(self) -> Sequence[Chunk]:
            self.waiting = Deadline.TURN
            return (b"x" * (1 << 20),)

    with Pair(Flood) as pair:
        pair.sock.sendall(b"go")
        pair.connection.ready(select.EPOLLIN)
        for _ in range(100):
            pair.give_turns()
        assert len(pair.begun[0].calls) <= 2  # type: ignore[attr-defined]  # what was said last has not left
        assert pair.give_turns() == 0


def test_of_many_urgent_bytes_the_last_is_marked_and_all_leave_together() -> None:
    class Synching(Greedy):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return (b"\xff", Urgent(b"\xf2")) * 8192

    with Running(Synching) as running, running.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sent: list[int] = []
        send_some = Output._send_some

        def counting(output: Output, share: int) -> int:
            sent.append(send_some(output, share))
            return sent[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Output, "_send_some", counting)
            sock.sendall(b"x")
            received = b""
            while len(received) < 16384:
                received += sock.recv(65536)
        assert received == b"\xff\xf2" * 8192
        assert len(sent) <= 4


def test_a_large_file_is_sent_a_quota_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transport, "send_quota", 4096)
    (tmp_path / "f").write_bytes(b"x" * 10000)
    opened = OpenFile(os.open(tmp_path / "f", os.O_RDONLY), os.close)

    class Sending(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return (FileSlice(opened, 0, 10000),)

    with Pair(Sending) as pair:
        pair.sock.sendall(b"x")
        pair.connection.ready(select.EPOLLIN)
        sizes = [len(pair.sock.recv(65536))]
        while pair.give_turns():
            sizes.append(len(pair.sock.recv(65536)))
        assert sizes == [4096, 4096, 1808]


def test_what_takes_a_processor_long_has_a_smaller_quota() -> None:
    assert TLSTransport.send_quota < Transport.send_quota
