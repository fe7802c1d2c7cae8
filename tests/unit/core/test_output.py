"""The unsent output of a connection, and a transport that takes as much as it is told to."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from rawservers.core.output import PROGRESS, FileError, Output
from rawservers.core.peer import Counters
from rawservers.core.protocol import Chunk, FileSlice, OpenFile, ResponseEnd


class Sized:
    """Takes at most so many bytes in all, then would block. unsent: of what it has taken."""

    family = 0
    unsent = b""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def send(self, data: Any, flags: int) -> int:
        if not self.room:
            raise BlockingIOError
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.taken += taken
        return len(taken)

    def flush(self) -> None:
        if self.unsent:
            raise BlockingIOError


def output(transport: Sized, *chunks: Chunk, offset: int = 0) -> tuple[Output, list[tuple[object, int]]]:
    ends: list[tuple[object, int]] = []
    made = Output(transport, Counters(), lambda end, sent: ends.append((end.record, sent)), 0, offset)  # type: ignore[arg-type]
    made.add(chunks, 1.0)
    return made, ends


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_what_has_left_already_is_not_sent_again_and_not_counted_as_unsent(offset: int) -> None:
    transport = Sized(3)
    queue, ends = output(transport, b"0123", b"45678", ResponseEnd("record"), offset=offset)
    assert queue.unsent == 9 - offset
    assert queue.flush(1 << 20) == 3
    assert (transport.taken, queue.unsent, ends) == (b"012345678"[offset : offset + 3], 6 - offset, [])
    transport.room = 100
    assert queue.flush(1 << 20) == 6 - offset
    assert (transport.taken, queue.unsent, ends) == (b"012345678"[offset:], 0, [("record", 9)])
    assert not queue.chunks


def test_progress_is_so_many_bytes_or_all_the_rest() -> None:
    transport = Sized(PROGRESS - 1)
    queue, _ = output(transport, bytes(PROGRESS + 9))
    queue.flush(1 << 20)
    assert not queue.has_progressed()
    transport.room = 1
    queue.flush(1 << 20)
    assert queue.has_progressed()
    assert not queue.has_progressed()
    transport.room = 9
    queue.flush(1 << 20)
    assert queue.has_progressed()


def test_no_more_than_the_quota_leaves_at_once() -> None:
    queue, _ = output(Sized(100), *[b"x" * 10] * 10)
    assert queue.flush(1) == 100  # small chunks are joined for one send
    queue, _ = output(Sized(1 << 20), *[bytes(65536)] * 4)
    assert queue.flush(65537) == 131072


def test_what_is_abandoned_is_reported_as_far_as_it_got() -> None:
    queue, ends = output(Sized(5), b"012", ResponseEnd("a"), b"345", ResponseEnd("b"), b"", ResponseEnd("c"))
    queue.flush(1 << 20)
    queue.abandon()
    assert ends == [("a", 3), ("b", 2), ("c", 0)]


class Unreadable(Sized):
    """Sends no file, because of this error."""

    def __init__(self, code: int) -> None:
        super().__init__(0)
        self.code = code

    def send_file(self, fd: int, offset: int, count: int) -> int:
        raise OSError(self.code, "as told")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EIO, FileError),
        (errno.ESTALE, FileError),
        (errno.ENOMEM, FileError),
        (errno.EINVAL, FileError),
        (errno.EPIPE, BrokenPipeError),
        (errno.ECONNRESET, ConnectionResetError),
        (errno.ETIMEDOUT, TimeoutError),
    ],
)
def test_an_error_of_a_file_is_told_from_one_of_the_network(code: int, kind: type[OSError]) -> None:
    queue, _ = output(Unreadable(code), FileSlice(OpenFile(-1, lambda fd: None), 0, 10))
    with pytest.raises(OSError, match="as told") as raised:
        queue.flush(1 << 20)
    assert type(raised.value) is kind


def test_what_the_transport_has_not_sent_yet_is_waited_for() -> None:
    transport = Sized(9)
    made, ends = output(transport, b"abcd", ResponseEnd("first"))
    transport.unsent = b"ciphertext"
    assert made.flush(100) == 4
    assert not made.chunks
    assert not made.has_left()
    assert not made.has_progressed()
    transport.unsent = b""
    assert made.flush(100) == 0
    assert made.has_left()
    assert made.has_progressed()
    assert ends == [("first", 4)]
