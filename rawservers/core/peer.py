"""The other end of a connection, as a protocol sees it: its address, the loop's clock, and the counters of the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias


class Clock:
    """The loop's clock, the only one: read once per wake, shared by everything that runs in that wake.

    now:  seconds since some fixed point, never set back (for deadlines and durations)
    time: seconds since 1970, as the system's clock has it (for dates)
    wake: a number that changes whenever news may have come in from outside. What was looked up (a file's stat, say) under
          the same number was looked up after the bytes now being handled had begun to arrive, and so is still true for them
    work: steps of work done since the loop last looked at the time. Whoever does slow work adds to it: a step is a few
          microseconds. The loop only looks again when enough was done
    """

    __slots__ = ("now", "time", "wake", "work")

    def __init__(self, now: float = 0.0, time: float = 0.0) -> None:
        self.now = now
        self.time = time
        self.wake = 0
        self.work = 0  # steps of work done since the loop last looked at the time


Address: TypeAlias = "tuple[str, int]"  # host and port; ("unix:PATH", 0) for a unix socket


class Tally:
    """What one service of a process has done since it started, for those who look on.

    accepted: connections; turned_away: those closed at once, because their host has too many; sent: bytes; answers: requests
    or lines that were answered, of which refused were none that could be understood; remembered: those that were answered
    besides, from memory.
    """

    __slots__ = ("accepted", "answers", "refused", "remembered", "sent", "turned_away")

    def __init__(self) -> None:
        self.accepted = self.turned_away = self.sent = self.answers = self.refused = self.remembered = 0


def nowhere() -> Address:
    return "", 0


def nobody() -> None:
    pass


class Peer:
    """The other end of a connection, as a protocol sees it.

    address: the peer's own; `local`: ours, the one that it reached; secure: whether TLS protects the bytes; tally: where the
    protocol counts its answers.
    """

    __slots__ = ("_local", "_wake", "address", "clock", "secure", "tally")

    def __init__(
        self,
        address: Address,
        clock: Clock,
        local: Callable[[], Address] = nowhere,
        wake: Callable[[], None] = nobody,
        secure: bool = False,
        tally: Tally | None = None,
    ) -> None:
        self.address = address
        self.clock = clock
        self.secure = secure
        self.tally = tally or Tally()
        self._local = local
        self._wake = wake

    @property
    def local(self) -> Address:
        """Our address on this connection (asked of the system only when somebody wants it)."""
        return self._local()

    def wake(self) -> None:
        """Have the core call `resume` soon. From any thread; after the connection's end it does nothing."""
        self._wake()

    def let_go(self) -> None:
        """The connection has ended, and need not stay in memory for this."""
        self._local, self._wake = nowhere, nobody


def peer_address(address: tuple[Any, ...] | str) -> Address:
    """Host and port of what the socket calls of any family give as an address."""
    if isinstance(address, tuple):
        return address[0].removeprefix("::ffff:"), address[1]  # an IPv4 peer of a dual-stack socket
    return f"unix:{address}", 0
