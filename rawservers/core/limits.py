"""How many connections there may be, and which one goes when there is no room.

No service can take the places of another: each has a share of its own. A connection that waits may be closed for a new one. In
this order, the oldest first of each kind:

- one that is kept and idle, whose peer loses nothing and connects again;
- one that lingers, whose peer has had its answer;
- one whose request head is unfinished: so many that trickle theirs never keep one out that says it at once;
- one whose request body is unfinished, for SLOW_BODY seconds already.

One that has something unread does not go: it is about to be served. What has begun to wait less than RECENT seconds ago comes
behind the rest of the first three: a client that is at work with its kept connection does not lose it to a flood of unfinished
heads. Sessions in which a person may be thinking (Telnet) never go.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

from rawservers.core.peer import Clock, Peer

UNLIMITED = 1 << 30  # places of a service that has no share
RECENT = 0.1  # seconds
SLOW_BODY = 5.0  # seconds
SCAN_PER_STEP = 16  # connections that are looked at in the time of a step of work


class EvictionRank(IntEnum):
    """Which connections are closed first to make room."""

    IDLE = 0
    LINGERING = 1
    HEAD = 2
    BODY = 3


class Member(Protocol):
    """A connection. service: its name; since: when it began to wait, on the loop's clock."""

    service: str
    timer_started: float
    peer: Peer

    @property
    def eviction_rank(self) -> EvictionRank | None: ...
    def has_unread(self) -> bool: ...


M = TypeVar("M", bound=Member)


class Connections(Generic[M]):
    """The open connections of one process.

    most: of all together (0: any number); most_per_address: from one host (0: any number); shares: of a service, by name;
    apart: the same for services that do not count among all.
    """

    def __init__(
        self,
        clock: Clock,
        most: int = 0,
        most_per_address: int = 0,
        shares: Mapping[str, int] = {},
        apart: Mapping[str, int] = {},
    ) -> None:
        self._clock = clock
        self._open: set[M] = set()
        self._most = most
        self._most_per_address = most_per_address
        self._apart = dict(apart)
        self._free = defaultdict(lambda: UNLIMITED, {**shares, **apart})  # places left to each service
        self.evictable_soon = False
        self._by_address: Counter[str] = Counter()
        self._candidates: dict[str, list[tuple[int, float, int, M]]] = {}  # see `evict`, the first to go last

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[M]:
        """Those that are open now; they may close meanwhile."""
        return iter(tuple(self._open))

    def free(self, service: str) -> int:
        """How many more connections `service` may have now; 0 or less: none."""
        free = self._free[service]
        if not self._most or service in self._apart:
            return free
        in_all = self._most - len(self._open)
        for name, share in self._apart.items():
            in_all += share - self._free[name]  # those do not count
        return free if free < in_all else in_all

    def allows(self, host: str) -> bool:
        """Whether this host may have one more. All that come by a unix socket are one host, to which that does not apply."""
        return self._most_per_address == 0 or self._by_address[host] < self._most_per_address or host.startswith("unix:")

    def add(self, connection: M) -> None:
        self._open.add(connection)
        self._free[connection.service] -= 1
        if self._most_per_address:
            self._by_address[connection.peer.address[0]] += 1

    def discard(self, connection: M) -> None:
        self._open.discard(connection)
        self._free[connection.service] += 1
        if self._most_per_address:
            host = connection.peer.address[0]
            self._by_address[host] -= 1
            if not self._by_address[host]:
                del self._by_address[host]

    def evict(self, service: str = "") -> M | None:
        """The connection to close first to make room for one of `service`, or for anything; None if there is none: then
        `evictable_soon` tells whether there will be in the next wake.

        All are looked through only when those that were found the last time are used up.
        """
        only = service if self._free[service] <= 0 else ""
        self.evictable_soon = False
        candidates = self._candidates.get(only)
        for scanned in (False, True):
            while candidates:
                _, since, _, connection = candidates.pop()
                why = connection.eviction_rank if connection.timer_started == since and connection in self._open else None
                if why is EvictionRank.LINGERING or (why is not None and not connection.has_unread()):
                    return connection
                self.evictable_soon |= why is not None
            if not scanned:
                candidates = self._candidates[only] = self._scan(only)
        return None

    def forget_candidates(self) -> None:
        """Once a second: drop what the last scans found, some of which may have been closed since."""
        self._candidates.clear()

    def _scan(self, only: str) -> list[tuple[int, float, int, M]]:
        """All that may go, of the service `only` if it has a name, the first to go last."""
        now = self._clock.now
        self._clock.work += len(self._open) // SCAN_PER_STEP
        found = []
        for connection in self._open:
            why = connection.eviction_rank
            if why is None or (connection.service != only if only else connection.service in self._apart):
                continue
            age = now - connection.timer_started
            if why is EvictionRank.HEAD and age <= 0:  # it came in this very wake, and may have had no time to say anything
                self.evictable_soon = True
                continue
            if why is EvictionRank.BODY and age < SLOW_BODY:
                continue
            late = why is EvictionRank.BODY or age < RECENT
            found.append((why + len(EvictionRank) * late, connection.timer_started, id(connection), connection))
        found.sort(key=lambda candidate: candidate[:3], reverse=True)
        return found
