"""The contract between the core and a protocol.

A protocol object is one conversation: bytes in, chunks out. The core owns the socket, readiness, deadlines and buffers; the
protocol owns the meaning of the bytes. It sees no socket and no system clock, so a test of it is one line:

    assert protocol.receive(b"abc\\r\\n") == (b"abc\\r\\n",)

Calls, in the order in which the core makes them:

    start(peer) -> protocol          the connection was accepted
    protocol.greeting                bytes sent at once
    protocol.receive(data)           bytes have arrived; returns the output
    protocol.resume()                peer.wake() was called, or the protocol's turn has come; returns more output
    protocol.end()                   the peer has sent a FIN; it may still be reading
    protocol.expire()                the deadline `protocol.waiting` has passed
    protocol.drain()                 the server is stopping
    protocol.connection_lost()       the connection is closed; the last call

After each call the core sends the output, then looks at `closing` and `waiting`. No call may raise: bad input becomes an
answer and a `closing`. However the same input is cut into pieces, the output is the same.

Each call does a bounded amount of work, which the protocol adds to `steps`: a request answered, a command executed. A protocol
with more to do returns what it has so far and sets `waiting` to Deadline.TURN. Its connection is then not read; it joins a
queue, and `resume` is called when its turn has come and its output has left. So a peer with little to do never waits behind one
with much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, IntEnum, auto
from typing import TypeAlias, final

from rawservers.core.peer import Counters, Peer

# Unsent output, in bytes, above which a connection is not read. Two or three small responses with their heads, so that
# pipelining pays, and small enough that 10,000 stalled peers cost 640 MB at the very worst.
HIGH_WATER = 65536


class Closing(Enum):
    """What the core does with the connection once all output has left."""

    KEEP = "keep"  # keep it open
    CLOSE = "close"  # send a FIN and close: the peer is not expected to send more (if it has, linger all the same)
    LINGER = "linger"  # send a FIN, read and discard input for a while, then close. Closing with input unread makes the kernel
    # send a RST, and a RST discards what the peer has not yet read
    RESET = "reset"  # send a RST: the peer's next call fails with ECONNRESET. For tests of clients


class Deadline(IntEnum):
    """What a conversation waits for, and so which deadline runs; the seconds are in `ServiceSpec.deadlines`.

    HEAD, BODY and IDLE wait for input. With NONE and TURN the connection is not read; with TURN no deadline runs. A deadline
    goes on if nothing but TURN, without output, was between. SEND and LINGER are the core's own.
    """

    HEAD = auto()  # the rest of a request; from the accept, or from the request's first byte
    BODY = auto()  # the rest of a request's body; from its start
    IDLE = auto()  # the next request; restarted by all input and output
    SEND = auto()  # room in the socket's send buffer
    LINGER = auto()  # the peer's FIN, after ours
    TURN = auto()  # the next turn: the protocol has more to do
    NONE = auto()  # peer.wake()


STATES = {
    Deadline.HEAD: "reading", Deadline.BODY: "reading", Deadline.IDLE: "idle", Deadline.LINGER: "lingering",
    Deadline.SEND: "sending",
}  # fmt: skip


def state_word(waiting: Deadline) -> str:
    """The state of a connection, for people, by what it waits for."""
    return STATES.get(waiting, "busy")


@final
class OpenFile:
    """An open file that several responses may be sending at once.

    The descriptor is closed with the last reference: when the last response has left or was dropped, and no cache has it.
    """

    __slots__ = ("_close", "fd")

    def __init__(self, fd: int, close: Callable[[int], None]) -> None:
        self.fd, self._close = fd, close

    def __del__(self) -> None:
        self._close(self.fd)


@final
class FileSlice:
    """`count` bytes of a file from `offset` on, sent by sendfile(2). Immutable."""

    __slots__ = ("count", "file", "offset")

    def __init__(self, file: OpenFile, offset: int, count: int) -> None:
        self.file, self.offset, self.count = file, offset, count


@final
class Urgent(bytes):
    """Bytes sent as TCP urgent data (MSG_OOB); on a unix socket, as ordinary bytes."""

    __slots__ = ()


@final
class ResponseEnd:
    """An empty chunk that marks the end of a response, for the access log.

    Once the bytes before it were sent, or lost, the core reports `record` with the number of bytes sent and the seconds since
    `started_at` (on the loop's clock; 0.0: since the response was queued).
    """

    __slots__ = ("record", "started_at")

    def __init__(self, record: object, started_at: float = 0.0) -> None:
        self.record, self.started_at = record, started_at


Chunk: TypeAlias = bytes | FileSlice | Urgent | ResponseEnd


class Protocol:
    """Base class of a conversation; each method does nothing by default.

    greeting:            bytes sent after the accept
    closing:             whether the connection is to be closed, see Closing
    waiting:             which deadline runs, see Deadline. TURN is ignored once `closing` is not KEEP
    steps:               of work done since the core last looked; the core sets it to 0, and reads the time after many steps
    hidden:              whether input must not be shown to anybody, such as a password that is being typed
    closable_when_idle:  whether the core may close the connection while it waits for IDLE, to make room for a new one. True
                         where clients reconnect by themselves, as those of HTTP do
    """

    greeting: bytes = b""
    closing: Closing = Closing.KEEP
    waiting: Deadline = Deadline.IDLE
    steps: int = 0
    hidden: bool = False
    closable_when_idle: bool = False

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        """The output for `data`, at least one byte of input. urgent: the mark of TCP urgent data comes after `data`."""
        return ()

    def resume(self) -> Sequence[Chunk]:
        """More output: a response that took its time, or the next part of much work.

        Called after `peer.wake()`, and while `waiting` is TURN, each time after all earlier output has left. So a protocol
        that takes a turn after HIGH_WATER bytes of output uses bounded memory, however much is asked of it. Several calls of
        `peer.wake()` may lead to one `resume`.
        """
        return ()

    def end(self) -> Sequence[Chunk]:
        """The peer has sent a FIN. The default closes the connection."""
        self.closing = Closing.CLOSE
        return ()

    def expire(self) -> Sequence[Chunk]:
        """The deadline `waiting` has passed. The default closes the connection, after lingering."""
        self.closing = Closing.LINGER
        return ()

    def drain(self) -> Sequence[Chunk]:
        """The server is stopping: finish soon. A connection that waits for IDLE is closed a second later."""
        return ()

    def connection_lost(self) -> ResponseEnd | None:
        """The connection is closed, for whatever reason; release references to this object. No other call follows.

        Returns the end of a response that was still being made, to be reported as what is lost; its bytes are not sent.
        """
        return None


class Refusal(Protocol):
    """A conversation that is over before it begins. last_words: sent before the connection is closed."""

    closing = Closing.LINGER

    def __init__(self, last_words: bytes = b"") -> None:
        self.greeting = last_words


class ServiceSpec:
    """A service: the settings that its connections share.

    name:      for messages and metrics
    start:     makes the protocol object of a new connection
    deadlines: in seconds; 0 or absent: no deadline
    report:    called at the end of each response with the peer, the record, the bytes sent and the seconds taken
    counters:  of all its connections
    client_first: whether its clients send before they expect anything, so that their input is received before `start`
    refuse_plain: makes the protocol object of a connection whose peer speaks without TLS where TLS is expected; by default one
               that closes it
    """

    __slots__ = ("client_first", "counters", "deadlines", "name", "refuse_plain", "report", "start")

    def __init__(
        self,
        name: str,
        start: Callable[[Peer], Protocol],
        deadlines: Mapping[Deadline, float],
        report: Callable[[Peer, object, int, float], None],
        counters: Counters | None = None,
        client_first: bool = False,
        refuse_plain: Callable[[Peer], Protocol] = lambda peer: Refusal(),
    ) -> None:
        self.name, self.start, self.deadlines, self.report = name, start, deadlines, report
        self.counters, self.client_first, self.refuse_plain = counters or Counters(), client_first, refuse_plain

    def for_plain(self) -> ServiceSpec:
        """The same service for a peer that speaks without TLS where TLS is expected."""
        return ServiceSpec(self.name, self.refuse_plain, self.deadlines, self.report, self.counters, self.client_first)
