"""OpenSSL in memory: ciphertext in, plaintext and ciphertext out (RFC 8446, RFC 5246). The server's side of a connection.

All records that have come are decrypted at once, so that no plaintext waits where epoll does not see it. The pair of buffers
between OpenSSL and the socket is empty after each call, so one pair serves all connections of a listener; a buffer of its own
would keep the largest size that it ever had.
"""

from __future__ import annotations

import contextlib
import ssl

from rawservers.core.peer import Clock
from rawservers.core.transfer import RECEIVE_SIZE

MAX_RECORD = 1 << 14  # bytes of plaintext in a record
HEADER = 5  # bytes of a record's: type, version, and two bytes of length (RFC 8446 §5.1)
HANDSHAKE_STEPS = 128  # of work in each part of a handshake: half a millisecond or more
BYTES_PER_STEP = 64  # of ciphertext: two or three of the smallest records
MANY_RECORDS = 64  # with data, in one receive
CAUTIOUS_SIZE = 4096  # bytes of one receive, until one had data: so many small records without any take half a millisecond
ROOM = 512  # bytes beyond RECEIVE_SIZE, so that a receive has room for a record with all that is added to it


class Buffers:
    """The context, the clock, and buffers, for all engines of a listener in one thread. received: for a receive of any."""

    def __init__(self, context: ssl.SSLContext, clock: Clock) -> None:
        self.context, self.clock = context, clock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.received = memoryview(bytearray(RECEIVE_SIZE + ROOM))


class Engine:
    """OpenSSL for one connection.

    is_open: the handshake is complete; eof: the peer has sent close_notify; is_greedy: the last input had many records, or so
    much has come in records without data: key updates, for example; output: ciphertext to send, besides what `send`
    returns. After an ssl.SSLError it is of no use any more.
    """

    __slots__ = ("_buffers", "_is_new", "_left", "_overhead", "_ssl", "eof", "is_greedy", "is_open", "output")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._ssl = buffers.context.wrap_bio(buffers.incoming, buffers.outgoing, server_side=True)
        self.eof = self.is_greedy = self.is_open = False
        self._is_new = True  # the handshake is not complete
        self._overhead = 0  # bytes of records since the last data, without parts of a large one
        self._left = 0  # bytes of a large record that are yet to come
        self.output = b""

    def receive(self, data: bytes | memoryview) -> bytes:
        """The plaintext of all records that are complete with this ciphertext; b"" if there is none, or they have none.

        Raises ssl.SSLError; then `output` has the alert.
        """
        incoming, outgoing = self._buffers.incoming, self._buffers.outgoing
        parts: list[bytes] = []
        was_open = self.is_open
        self._buffers.clock.work += len(data) // BYTES_PER_STEP
        try:
            incoming.write(data)
            if self._is_new:
                self._buffers.clock.work += HANDSHAKE_STEPS
                self._ssl.do_handshake()
                self.is_open, self._is_new = True, False
            size, is_cut = len(data), False  # of a read: a small one takes less time
            while incoming.pending or is_cut:
                if not (part := self._ssl.read(size)):
                    self.eof = True
                    break
                parts.append(part)
                if is_cut := len(part) == size:  # a record that has begun in an earlier receive: the rest is read at once
                    size = MAX_RECORD
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # close_notify, after ours
            self.eof = True
        except ssl.SSLError:
            self.is_open = False
            raise
        finally:
            if incoming.pending:  # after the end: no other connection must find it
                incoming.read()
            if outgoing.pending:
                self.output += outgoing.read()
        if parts or not was_open:
            self._overhead = self._left = 0
        else:
            self._count_overhead(data)
        self.is_greedy = len(parts) >= MANY_RECORDS or self._overhead >= CAUTIOUS_SIZE
        return b"".join(parts)

    def _count_overhead(self, data: bytes | memoryview) -> None:
        """Count input after which there is no data yet, unless it is a part of one record, by the header it begins with."""
        whole = self._left or (HEADER + int.from_bytes(data[3:HEADER]) if len(data) >= HEADER else 0)
        self._left = whole - len(data) if len(data) < whole <= MAX_RECORD + ROOM else 0
        if not self._left:
            self._overhead += len(data)

    def send(self, data: bytes | memoryview) -> bytes:
        """The ciphertext of `data`. Raises ssl.SSLError."""
        write, outgoing = self._ssl.write, self._buffers.outgoing
        try:
            sent = write(data) if data else 0
            while sent < len(data):
                sent += write(memoryview(data)[sent:])  # one record a call
        finally:
            found = outgoing.read()
        return found

    def describe(self) -> str:
        """Version and cipher, for people."""
        cipher, *_ = self._ssl.cipher() or ("no cipher",)
        return f"{self._ssl.version()}, {cipher}" + ", session resumed" * bool(self._ssl.session_reused)

    def close(self) -> None:
        """Put close_notify into `output`, once."""
        if self.is_open:
            self.is_open = False
            with contextlib.suppress(ssl.SSLError):  # it waits for the peer's
                self._ssl.unwrap()
            self.output += self._buffers.outgoing.read()
