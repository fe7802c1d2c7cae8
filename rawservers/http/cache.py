"""Bounded caches, and the cache of serialized responses, whose entries are never stale.

A Cache is bounded in entries and in bytes. It evicts by the CLOCK algorithm: the oldest entry is evicted, or moved to the end
if it was used since it was last considered. Using an entry costs nothing for that, since its freshness check sets `epoch`
anyway.

The ResponseCache finds whole responses by the bytes of the request, in two ways:

- by the exact head. Clients repeat requests byte for byte, and such a request is not parsed at all;
- by the head without the fields that no response depends on, such as Cookie and User-Agent (`normalized.py`).

Freshness: an entry lists its dependencies, which are files, directories, and names that must not exist. Before it is used, each
of them is checked by stat, at most once per freshness epoch: a check of the present epoch was made after the request had
arrived. An entry holds no content of its own. It shares that of its File, and is invalid once the file is evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from rawservers.core.peer import Clock
from rawservers.http.admission import AdmissionFilter
from rawservers.http.normalized import LOG_LINES, LOG_LINES_LIMIT, PROXIED_LOG_LINES, normalized_key
from rawservers.http.request import Request, parse_fields
from rawservers.http.response import PreparedResponse

ENTRY_OVERHEAD = 900  # bytes of Python objects for an entry, besides its content
LOG_BYTES = 6  # bytes of memory per logged byte: as received, as text, and in the log line, escaped to up to four


class FreshnessClock:
    """The loop's clock, with a freshness epoch of HTTP's own: a stat made in the present epoch need not be repeated.

    The epoch is the sum of two counters that only grow: that of the loop, which counts wakes, turns and new connections, and
    `rechecks`, which counts requests that may be younger than the wake's poll.
    """

    __slots__ = ("loop_clock", "rechecks")

    def __init__(self, loop_clock: Clock) -> None:
        self.loop_clock = loop_clock
        self.rechecks = 0

    @property
    def epoch(self) -> int:
        """The freshness epoch."""
        return self.loop_clock.epoch + self.rechecks

    def recheck(self) -> None:
        """Begin another epoch: the next stat is made anew."""
        self.rechecks += 1


class Evictable(Protocol):
    """An entry of a Cache.

    cost: its size in bytes; epoch: freshness epoch of its last use; clock_mark: `epoch` as it was when last considered for
    eviction.
    """

    cost: int
    epoch: int
    clock_mark: int

    def on_evict(self) -> None:
        """The entry was removed: release its content."""


class Dependency(Protocol):
    """A condition that a cached response depends on. epoch: freshness epoch of its last successful check."""

    epoch: int

    def is_fresh(self, epoch: int) -> bool:
        """Whether the condition still holds; checked at most once per epoch."""


E = TypeVar("E", bound=Evictable)


class Cache(Generic[E]):
    """A mapping of at most `entries` entries and `size` bytes, with CLOCK eviction. `get` is the dictionary's own method."""

    SECOND_CHANCES = 8  # per insertion: bounds the work; an entry in use is evicted now and then

    def __init__(self, entries: int, size: int) -> None:
        self._entries: OrderedDict[Hashable, E] = OrderedDict()
        self._max_entries = entries
        self._max_bytes = size
        self.used_bytes = 0
        self.get = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def half_empty(self) -> bool:
        """Whether less than half of the entries, and of the bytes, are used."""
        return 2 * self.used_bytes < self._max_bytes and 2 * len(self._entries) < self._max_entries

    def put(self, key: Hashable, entry: E) -> bool:
        """Insert `entry`, evicting others as needed. Returns False for one larger than an eighth of the cache."""
        self.discard(key)
        if entry.cost > self._max_bytes // 8 or not self._max_entries:
            return False
        chances = self.SECOND_CHANCES
        while self.used_bytes + entry.cost > self._max_bytes or len(self._entries) >= self._max_entries:
            oldest, candidate = next(iter(self._entries.items()))
            if chances and candidate.clock_mark != candidate.epoch:
                chances -= 1
                candidate.clock_mark = candidate.epoch
                self._entries.move_to_end(oldest)
            else:
                self.discard(oldest)
        self._entries[key] = entry
        self.used_bytes += entry.cost
        return True

    def discard(self, key: Hashable) -> None:
        """Remove the entry of `key`, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used_bytes -= entry.cost
            entry.on_evict()


class CacheEntry:
    """A response with its dependencies. log_lines: header lines for the access log, of the request it was last sent for."""

    __slots__ = ("clock_mark", "cost", "dependencies", "epoch", "log_lines", "response")

    def __init__(
        self, response: PreparedResponse, dependencies: tuple[Dependency, ...], log_lines: list[bytes], cost: int, epoch: int
    ) -> None:
        self.response, self.dependencies, self.log_lines, self.cost = response, dependencies, log_lines, cost
        self.epoch = self.clock_mark = epoch

    def is_fresh(self, epoch: int) -> bool:
        """Whether all dependencies are fresh."""
        for dependency in self.dependencies:
            if dependency.epoch != epoch and not dependency.is_fresh(epoch):
                return False
        self.epoch = epoch
        return True

    def response_to(self, log_lines: list[bytes], proxied: bool) -> PreparedResponse | None:
        """The response, logged with the fields in `log_lines` of the request; None if these are too long."""
        if log_lines != self.log_lines:
            if sum(map(len, log_lines)) > LOG_LINES_LIMIT:
                return None
            self.log_lines = log_lines
            fields = parse_fields(b"".join(log_lines).decode("latin-1"))
            self.response.set_log_fields(fields, fields if proxied else None)
        self.response.epoch = -1  # not a repeated request: keep it out of the epoch cache
        return self.response

    def on_evict(self) -> None:
        pass


class ResponseCache:
    """Serialized responses by request: at most `entries`, and `size` bytes without the content of files.

    proxied: whether the access log depends on the fields of proxies.
    """

    def __init__(self, clock: FreshnessClock, entries: int, size: int, proxied: bool = False) -> None:
        self._clock = clock
        self._loop_clock = clock.loop_clock
        self._cache: Cache[CacheEntry] = Cache(entries, size)
        self._get = self._cache.get
        self._admission = AdmissionFilter()
        self._proxied = proxied
        self._find_log_lines = (PROXIED_LOG_LINES if proxied else LOG_LINES).findall

    def lookup(self, head: bytes, recheck: bool = False) -> PreparedResponse | None:
        """The response to the request with this head, if it is cached and fresh. recheck: whether no earlier stat counts."""
        if recheck:
            self._clock.recheck()
        key: Hashable = head
        entry = self._get(head)
        if entry is None:
            key = normalized_key(head)
            entry = self._get(key)
            if entry is None:
                return None
        epoch = self._loop_clock.epoch + self._clock.rechecks
        if entry.epoch != epoch and not entry.is_fresh(epoch):
            self._cache.discard(key)
            return None
        return entry.response if key is head else entry.response_to(self._find_log_lines(head), self._proxied)

    def store(
        self, request: Request, response: PreparedResponse, dependencies: Iterable[Dependency], exact: bool = False
    ) -> None:
        """Insert the response to a request, unless the cache is half full and the request is new.

        exact: by its exact head alone, since the response may depend on a field that is not one of KEY_FIELDS.
        """
        head = request.head
        log_lines = self._find_log_lines(head)
        log_bytes = sum(map(len, log_lines))
        key: Hashable = head
        if not self._admission.seen_before(head):
            normalized = None if exact else normalized_key(head)
            if normalized not in (None, (head,)) and log_bytes <= LOG_LINES_LIMIT and self._admission.seen_before(normalized):
                key, log_bytes = normalized, LOG_LINES_LIMIT
            elif not self._cache.half_empty:
                return
        size = len(head) + len(response.status_line) + len(response.header_tail)
        cost = ENTRY_OVERHEAD + size + LOG_BYTES * (len(response.record.line) + log_bytes)
        epoch = self._clock.epoch
        self._cache.put(key, CacheEntry(response, tuple(dependencies), log_lines, cost, epoch))
