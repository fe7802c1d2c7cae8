"""The contract between the core and what is spoken over it.

A protocol is one conversation: bytes in, chunks out. The core owns the socket, the readiness, the deadlines and the
memory; the protocol owns the meaning. It never sees a socket or a clock of its own, so that a test of it is one line:

    assert protocol.receive(b"abc\\r\\n") == (b"abc\\r\\n",)

The life of a conversation, as the core drives it:

    start(peer) -> protocol          accepted
    protocol.greeting                said at once
    protocol.receive(data)           whenever bytes arrive; returns what to say
    protocol.resume()                its turn has come, or somebody called peer.wake(): what more is there to say?
    protocol.end()                   the peer has said its last byte (a FIN); it may still be listening
    protocol.expire()                the deadline that `protocol.waiting` names has passed
    protocol.drain()                 the server is stopping: come to an end soon
    protocol.connection_lost()       the conversation is over: nothing is heard or said any more

After each call the core sends what was returned, then looks at `closing` and `waiting`. None of the calls may raise: bad
input becomes an answer and a `closing`. However the same input is cut into pieces, the output is the same.

Each call does a bounded amount of work, counted in steps: a request that is answered, a command that is obeyed. A protocol
with more to do than that rests: it returns what it has so far and sets `waiting` to TURN. Its connection is not read then.
It stands in a queue, and `resume` is called when its turn has come and its output has left. So a peer that asks for little
never waits behind one that asks for much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeAlias, final


class Closing(Enum):
    """What the core does with the connection once everything said has left."""

    KEEP = "keep"  # listen on
    CLOSE = "close"  # close it; right when the peer is not expected to say more
    LINGER = "linger"  # FIN, then read and drop for a while, then close: a peer that is still sending can read the answer
    # (closing with input unread makes the kernel send a RST, and a RST wipes out what the peer has not yet read)


TURN = "turn"  # what a protocol waits for that has more to do, and has done enough for now


@final
class OpenFile:
    """An open file that several answers may be sending at once.

    Python counts who still refers to it: its descriptor is closed when the last answer has left or was dropped, and
    whoever else kept it (a cache, say) has let go.
    """

    __slots__ = ("_close", "fd")

    def __init__(self, fd: int, close: Callable[[int], None]) -> None:
        self.fd = fd
        self._close = close

    def __del__(self) -> None:
        self._close(self.fd)


@final
class FileSlice:
    """`count` bytes of a file from `offset` on, sent by the kernel straight from its cache. Never changes."""

    __slots__ = ("count", "file", "offset")

    def __init__(self, file: OpenFile, offset: int, count: int) -> None:
        self.file = file
        self.offset = offset
        self.count = count


@final
class Urgent(bytes):
    """Bytes that leave as TCP urgent data (MSG_OOB), where there is such a thing; else in their place among the others."""

    __slots__ = ()


@final
class Answered:
    """An empty chunk that ends an answer.

    When what stands before it was sent, or lost, the core reports `record` with the bytes that really left and the
    seconds since `since` (on the loop's clock; 0.0 means since the core was handed the answer).
    """

    __slots__ = ("record", "since")

    def __init__(self, record: object, since: float = 0.0) -> None:
        self.record = record
        self.since = since


Chunk: TypeAlias = bytes | FileSlice | Urgent | Answered


class Protocol:
    """One conversation. Derive from it and override what you need: every default does nothing.

    waiting: the deadline that runs, "head", "body" or "idle", while the peer's next words are waited for; "": nothing is, and
    the peer is not read, until `peer.wake()`; TURN: the same until its turn has come, unless `closing` says that it is over.

    expendable: whether the core may close the connection while it is `waiting` "idle", when descriptors run out. True
    where the peer is ready to connect again at any time, as HTTP's clients are.
    """

    greeting: bytes = b""
    closing: Closing = Closing.KEEP
    waiting: str = "idle"
    expendable: bool = False

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        """`data` arrived, at least one byte. `urgent`: it lies before the mark of a TCP urgent notification."""
        return ()

    def resume(self) -> Sequence[Chunk]:
        """Say what has become ready: an answer that took its time, or the next part of much work.

        Called after `peer.wake()`, and while `waiting` is TURN, each time once all that was said before has left. So a
        protocol that rests when it has said more than `HIGH_WATER` bytes uses bounded memory, whatever is asked of it.
        """
        return ()

    def end(self) -> Sequence[Chunk]:
        """The peer will say no more. The default has nothing to add and closes."""
        self.closing = Closing.CLOSE
        return ()

    def expire(self) -> Sequence[Chunk]:
        """The deadline named by `waiting` has passed. The default hangs up."""
        self.closing = Closing.LINGER
        return ()

    def drain(self) -> Sequence[Chunk]:
        """The server is stopping. A connection that is waiting "idle" is closed a second later."""
        return ()

    def connection_lost(self) -> None:
        """The conversation is over, however that came, and no other method is called: release what refers to it."""


# Unsent output above which the core stops reading from a connection, in bytes. Two or three times a small answer with its
# head, so that pipelining pays, and small enough that 10,000 stalled peers cost 640 MB at the very worst.
HIGH_WATER = 65536
