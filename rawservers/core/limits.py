"""The open connections of a process: their limits, and which one is closed when a new one finds no room.

Each service has a share of the connections; no service can use the share of another. At the limit, an open connection may be
closed in favour of a new one. Candidates, in this order, the oldest of each kind first:

- idle HTTP connections: their clients lose nothing, and connect again;
- lingering ones: their clients have had their response;
- those with an incomplete request head: many slow heads never keep out a client that sends its head at once;
- those with an incomplete request body, SLOW_BODY seconds after its start.

A connection with unread input is never closed, unless it lingers: it is about to be served. Those whose timer was started less
than RECENT seconds ago come after the rest of the first three kinds, so a client that is using its idle connection does not
lose it to a flood of incomplete heads. TLS connections of this age with an incomplete handshake or head come last of all: a
handshake takes several packets, and a flood of new connections would close it between two of them. Telnet sessions, in which a
person may be thinking, are never closed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from rawservers.core.connection import Connection
from rawservers.core.peer import Clock
from rawservers.core.protocol import Deadline

IDLE, LINGER, HEAD, BODY = Deadline.IDLE, Deadline.LINGER, Deadline.HEAD, Deadline.BODY

UNLIMITED = 1 << 30  # the share of a service that has none
RECENT = 0.1  # seconds
SLOW_BODY = 5.0  # seconds
SCAN_PER_STEP = 16  # connections examined in a step of work
SCAN_PAUSE = 5e-6  # seconds for each connection, after none was found to close: about twice as long as the scan has taken

# The order of candidates, the first to be closed first. That of a recent one is higher by AFTER_OTHERS.
RANKS = {IDLE: 0, LINGER: 1, HEAD: 2, BODY: 6}
AFTER_OTHERS = 3
RECENT_TLS = 7  # the order of a recent TLS connection with an incomplete handshake or head


Candidates: TypeAlias = list[tuple[int, float, Connection]]  # order, start of the timer


class Connections:
    """The open connections of one process.

    max_total: of all services (0: no limit); max_per_address: of one client address (0: no limit); shares: maximum by service;
    uncounted: maximum by service, for services outside `max_total`. evictable_soon: see `evict`.
    """

    def __init__(
        self, clock: Clock, max_total: int = 0, max_per_address: int = 0,
        shares: Mapping[str, int] = {}, uncounted: Mapping[str, int] = {},
    ) -> None:  # fmt: skip
        self._clock = clock
        self._open: set[Connection] = set()
        self._max_total = max_total
        self._max_per_address = max_per_address
        self._uncounted = uncounted
        self._remaining = defaultdict(lambda: UNLIMITED, {**shares, **uncounted})  # by service: how many it may add
        self._by_address: defaultdict[str, int] = defaultdict(int)
        self._candidates: dict[str, Candidates] = {}  # see `_scan`
        self.evictable_soon = False
        self._next_scans: dict[str, tuple[float, bool]] = {}  # after one in vain: its time, and `evictable_soon` until then

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """A snapshot: connections may close during the iteration."""
        return iter(tuple(self._open))

    def free(self, service: str) -> int:
        """The number of connections that `service` may add now; none if 0 or less."""
        free = self._remaining[service]
        if not self._max_total or service in self._uncounted:
            return free
        in_total = self._max_total - len(self._open)
        for name, share in self._uncounted.items():
            in_total += share - self._remaining[name]  # the connections of uncounted services
        return free if free < in_total else in_total

    def allows(self, host: str) -> bool:
        """Whether this address may have one more connection. The limit does not apply to unix sockets."""
        return self._max_per_address == 0 or self._by_address[host] < self._max_per_address or host.startswith("unix:")

    def add(self, connection: Connection) -> None:
        self._open.add(connection)
        self._remaining[connection.service] -= 1
        if self._max_per_address:
            self._by_address[connection.host] += 1

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._remaining[connection.service] += 1
        if self._max_per_address:
            self._by_address[connection.host] -= 1
            if not self._by_address[connection.host]:
                del self._by_address[connection.host]

    def evict(self, service: str = "") -> Connection | None:
        """The connection to close in favour of a new one of `service` ("": of any service); None if there is none.

        `evictable_soon` then says whether a connection was only passed over because it has unread input or was accepted in this
        wake, so that there may be one in the next wake. All connections are examined only when the candidates found the last
        time are used up.
        """
        only, now = service if self._remaining[service] <= 0 else "", self._clock.now
        self.evictable_soon = False
        if found := self._next_candidate(self._candidates.get(only, [])):
            return found
        scan_at, evictable_soon = self._next_scans.get(only, (0.0, False))
        if now < scan_at:
            self.evictable_soon = evictable_soon
        elif (found := self._next_candidate(self._scan(only))) is None:
            self._next_scans[only] = now + len(self._open) * SCAN_PAUSE, self.evictable_soon
        return found

    def _next_candidate(self, candidates: Candidates) -> Connection | None:
        """The first that may still be closed; it and those before it are removed from the list."""
        while candidates:
            _, started, connection = candidates.pop()
            if connection.timer_started == started and connection in self._open and (rank := rank_of(connection)) is not None:
                if rank == RANKS[LINGER] or not connection.has_unread():
                    return connection
                self.evictable_soon = True
        return None

    def forget_candidates(self) -> None:
        """Drop the candidates of the last scans, some of which may have been closed. Called at each tick."""
        self._candidates.clear()

    def _scan(self, only: str) -> Candidates:
        """Find all candidates of service `only` ("": of all), the first to be closed last, and keep them."""
        now = self._clock.now
        self._clock.work += len(self._open) // SCAN_PER_STEP
        found: Candidates = []
        for connection in self._open:
            rank = rank_of(connection)
            if rank is None or (connection.service != only if only else connection.service in self._uncounted):
                continue
            age = now - connection.timer_started
            if rank == RANKS[HEAD] and age <= 0:  # accepted in this wake, and perhaps not read yet
                self.evictable_soon = True
            elif rank != RANKS[BODY] or age >= SLOW_BODY:
                spared = rank == RANKS[HEAD] and age < RECENT and connection.has_begun_handshake
                order = RECENT_TLS if spared else rank + AFTER_OTHERS * (age < RECENT)
                found.append((order, connection.timer_started, connection))
        others = [candidate for candidate in found if candidate[0] != RECENT_TLS]
        if others or self.evictable_soon:
            found = others  # when they are used up, there may be others again
        self._candidates[only] = sorted(found, key=lambda candidate: candidate[:2], reverse=True)
        return self._candidates[only]


def rank_of(connection: Connection) -> int | None:
    """The rank among the connections that may be closed to make room; None: it may not be closed."""
    waits_for = connection.waits_for
    return RANKS.get(waits_for) if waits_for is not IDLE or connection.closable_when_idle else None
