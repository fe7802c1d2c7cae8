"""What a protocol sees of its connection: the peer's address, the loop's clock, and the counters of the service."""

from __future__ import annotations

from typing import Any, TypeAlias

Address: TypeAlias = "tuple[str, int]"  # host and port; ("unix:PATH", 0) for a unix socket


class Clock:
    """The event loop's clock, read once per iteration and shared by everything that runs in it.

    now:   monotonic time in seconds, for deadlines and durations
    time:  wall clock time in seconds since 1970, for dates
    epoch: freshness epoch, for caches of file metadata: a result of stat(2) may be used again while the number is the same.
           It changes whenever younger input is about to be handled, so each request sees a stat made after it had arrived
    work:  steps of work done since the loop last read the time. Slow work adds to it (a step is a few microseconds); the loop
           reads the time again only when enough was added
    """

    __slots__ = ("epoch", "now", "time", "work")

    def __init__(self, now: float = 0.0, time: float = 0.0) -> None:
        self.now, self.time = now, time
        self.epoch = self.work = 0


class Counters:
    """Per-service counters, shown by the status service. All of them only grow.

    accepted:     connections accepted
    rejected:     connections closed before their conversation: too many from their address, no valid PROXY header
                  or TLS handshake
    sent:         bytes sent
    answers:      requests or lines answered, not counting cache hits
    bad_requests: malformed requests, also counted in answers
    cache_hits:   requests answered from the response cache
    """

    __slots__ = ("accepted", "answers", "bad_requests", "cache_hits", "rejected", "sent")

    def __init__(self) -> None:
        self.accepted = self.rejected = self.sent = self.answers = self.bad_requests = self.cache_hits = 0


class Peer:
    """The other end of a connection, as a protocol sees it. This class is one without a connection, for tests of protocols;
    the one of a connection is the connection itself (connection.py), of which a protocol uses no more than is declared here.

    address: the remote address, or the one that a preamble has given; host: that of the accept, whatever a preamble gives;
    clock: the loop's; counters: those of the service, which the protocol increments; secure: whether the connection uses TLS.
    """

    __slots__ = ("address", "clock", "counters", "host", "secure")

    def __init__(self, address: Address, clock: Clock, counters: Counters | None = None) -> None:
        self.address = address
        self.host = address[0]
        self.clock = clock
        self.counters = counters or Counters()
        self.secure = False

    @property
    def local(self) -> Address:
        """The local address of the connection. One getsockname call for each use."""
        return "", 0

    def wake(self) -> None:
        """Schedule a call of the protocol's `resume`. Thread-safe; does nothing once the connection is closed."""

    def call_later(self, seconds: float) -> None:
        """Schedule a call of the protocol's `resume` in `seconds`, in place of an earlier request. Not thread-safe."""


def address_text(address: Address) -> str:
    """HOST:PORT, [IPV6]:PORT or unix:PATH."""
    host, port = address
    return host if host.startswith("unix:") else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_address(address: tuple[Any, ...] | str) -> Address:
    """The (host, port) of a socket address of any family. IPv4-mapped IPv6 addresses become IPv4 ones."""
    if isinstance(address, tuple):
        return address[0].removeprefix("::ffff:"), address[1]  # an IPv4 peer of a dual-stack socket
    return f"unix:{address}", 0
