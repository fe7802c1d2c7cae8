"""The phases of a connection, and the protocols of those before and after the conversation.

    accepted -> preamble -> open -> lingering -> closed

A preamble is what comes before the conversation, such as a PROXY header. A listener may have several. They are pure, as
protocols are: bytes in, and in the end a Done, whose left-over bytes go to the next preamble or to the conversation. All of
them together run under the head deadline. Without preambles a connection is open at once. A lingering one has sent its FIN and
waits for the peer's. Any phase may be skipped on the way to the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias
from typing import Protocol as Interface

from rawservers.core.peer import Address, Peer, address_text
from rawservers.core.protocol import Chunk, Closing, Deadline, Protocol

log = logging.getLogger("rawservers")

LINGER_BYTES = 16 << 20  # discarded while lingering: a client that uploads 10 MB before it reads still gets the error response


class Phase(Enum):
    """Where a connection is in its life."""

    ACCEPTED, PREAMBLE, OPEN, LINGERING, CLOSED = range(5)


class Done(NamedTuple):
    """A preamble is complete. rest: the input after it; address: the client's, if the peer connects on its behalf."""

    rest: bytes
    address: Address | None = None


class PreambleError(Exception):
    """The input is not the preamble that was expected: the connection is closed."""


class Preamble(Interface):
    """One preamble of one connection. name: of what it expects, for messages."""

    name: str

    def feed(self, data: bytes) -> Done | None:
        """Take input, at least one byte. None: more is needed. Raises PreambleError, also when it becomes too long."""


Preambles: TypeAlias = Sequence[Callable[[], Preamble]]  # what makes those of one connection


class Introduction(Protocol):
    """The protocol of a connection until its preambles are complete. on_done: called with the input after the last one;
    on_drain: afterwards, if the server is stopping."""

    waiting = Deadline.HEAD

    def __init__(
        self, peer: Peer, preambles: Preambles, on_done: Callable[[bytes], None], on_drain: Callable[[], None]
    ) -> None:
        self._peer = peer
        self._preambles = [make() for make in preambles]
        self._on_done, self._on_drain = on_done, on_drain
        self._draining = self._has_begun = False

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        self._has_begun = True
        try:
            while self._preambles:
                done = self._preambles[0].feed(data) if data else None
                if done is None:
                    return ()
                data = done.rest
                self._peer.address = done.address or self._peer.address
                del self._preambles[0]
        except PreambleError as error:
            self._reject(f"{error}")
        else:
            self._on_done(data)
            if self._draining:
                self._on_drain()
        return ()

    def end(self) -> Sequence[Chunk]:
        self.closing = Closing.CLOSE
        if self._has_begun:  # else it has only tried whether somebody listens
            self._reject(f"FIN before the end of the {self._preambles[0].name}")
        return ()

    def expire(self) -> Sequence[Chunk]:
        self._reject(f"no {self._preambles[0].name} in time")
        return ()

    def _reject(self, reason: str) -> None:
        self.closing = Closing.LINGER
        self._peer.counters.rejected += 1
        log.info("connection from %s closed: %s", address_text(self._peer.address), reason)

    def drain(self) -> Sequence[Chunk]:
        self._draining = True  # the conversation is told of it as soon as it begins
        return ()


class Lingering(Protocol):
    """The protocol of a lingering connection: discards input, LINGER_BYTES at most."""

    waiting = Deadline.LINGER

    def __init__(self) -> None:
        self._left = LINGER_BYTES

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        self._left -= len(data)
        if self._left < 0:
            self.closing = Closing.CLOSE
        return ()
