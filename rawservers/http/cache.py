"""Bounded caches, and the cache of serialized responses, whose entries are never stale.

A Cache is bounded in entries and in bytes. It evicts by the CLOCK algorithm: the oldest entry is evicted, or moved to the end
if it was used since it was last considered. Using an entry costs nothing for that, since its freshness check sets `epoch`
anyway.

The ResponseCache finds whole responses by the bytes of the request, in two ways:

- by the exact head. Clients repeat requests byte for byte, and such a request is not parsed at all;
- by the head without the fields that no response depends on, such as Cookie and User-Agent (`normalized_key`). The same
  response is sent, but logged with the Referer and User-Agent of this request.

Why a normalized key is safe: only whole lines are removed, each of them as well formed as `parse` demands, and none after the
end of the head. So if the rest equals what a valid head leaves, the head is valid, and asks for the same.

Admission: one half of the cache takes any response, the other half only responses to requests that came before. So requests
that are never repeated cannot evict the others.

Freshness: an entry lists its dependencies, which are files, directories, and names that must not exist. Before it is used, each
of them is checked by stat, at most once per freshness epoch: a check of the present epoch was made after the request had
arrived. An entry holds no content of its own. It shares that of its File, and is invalid once the file is evicted.
"""

from __future__ import annotations

import re
import typing
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from rawservers.core.peer import Clock
from rawservers.http.framing import HEAD_LIMIT
from rawservers.http.request import FIELD, FIELD_LIMIT, TOKEN, VALUE, Request, collect_fields
from rawservers.http.response import PreparedResponse

ENTRY_OVERHEAD = 800  # bytes of Python objects for an entry, besides its content
ADMISSION_FILTER_SIZE = 8192  # hashes in each of the two generations of the admission filter
LOG_BYTES = 6  # bytes of memory per logged byte: as received, as text, and in the log line, escaped to up to four
LOG_LINES_LIMIT = 384  # bytes of Referer and User-Agent lines up to which an entry is shared by its normalized key

# The fields that a response from a file may depend on. Code that reads another one must add it here.
KEY_FIELDS = (
    "accept-encoding", "authorization", "connection", "content-length", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "range", "transfer-encoding",
)  # fmt: skip
IGNORED_LINES = re.compile(rf"\n(?!(?i:{'|'.join(KEY_FIELDS)}):){TOKEN}+:{VALUE}+\r(?=\n)".encode("latin-1"))
LOG_LINES = re.compile(rb"\n(?i:referer|user-agent):[^\r\n]*")


class Evictable(typing.Protocol):
    """An entry of a Cache.

    cost: its size in bytes; epoch: freshness epoch of its last use; clock_mark: `epoch` as it was when last considered for
    eviction.
    """

    cost: int
    epoch: int
    clock_mark: int

    def on_evict(self) -> None:
        """The entry was removed: release its content."""


class Dependency(typing.Protocol):
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
    """A response with its dependencies. log_lines: Referer and User-Agent lines of the request it was last sent for."""

    __slots__ = ("_dependencies", "clock_mark", "cost", "epoch", "log_lines", "response")

    def __init__(
        self, response: PreparedResponse, log_lines: list[bytes], dependencies: Iterable[Dependency], cost: int, epoch: int
    ) -> None:
        self.response = response
        self.log_lines = log_lines
        self.cost = cost
        self.epoch = self.clock_mark = epoch
        self._dependencies = tuple(dependencies)

    def is_fresh(self, epoch: int) -> bool:
        """Whether all dependencies are fresh."""
        for dependency in self._dependencies:
            if dependency.epoch != epoch and not dependency.is_fresh(epoch):
                return False
        self.epoch = epoch
        return True

    def on_evict(self) -> None:
        pass


class ResponseCache:
    """Serialized responses by request: at most `entries`, and `size` bytes without the content of files."""

    def __init__(self, clock: Clock, entries: int, size: int) -> None:
        self._clock = clock
        self._cache: Cache[CacheEntry] = Cache(entries, size)
        self._get = self._cache.get
        self._admission_filter: set[int] = set()  # hashes of requests that came once
        self._previous_filter: set[int] = set()

    def __len__(self) -> int:
        return len(self._cache)

    def lookup(self, head: bytes) -> PreparedResponse | None:
        """The response to the request with exactly this head, if it is cached and fresh."""
        entry = self._get(head)
        if entry is None:
            return self._lookup_normalized(head)
        epoch = self._clock.epoch
        if entry.epoch == epoch or entry.is_fresh(epoch):
            return entry.response
        self._cache.discard(head)
        return None

    def _lookup_normalized(self, head: bytes) -> PreparedResponse | None:
        """The same by the normalized key."""
        key = normalized_key(head)
        entry = self._get(key)
        if entry is None:
            return None
        epoch = self._clock.epoch
        if entry.epoch != epoch and not entry.is_fresh(epoch):
            self._cache.discard(key)
            return None
        log_lines = find_log_lines(head)
        if log_lines != entry.log_lines:
            if sum(map(len, log_lines)) > LOG_LINES_LIMIT:
                return None
            entry.log_lines = log_lines
            entry.response.set_log_fields(parse_log_lines(log_lines))
        entry.response.epoch = -1  # not a repeated request: keep it out of the epoch cache
        return entry.response

    def store(self, request: Request, response: PreparedResponse, dependencies: Iterable[Dependency]) -> None:
        """Insert the response to a request, unless the cache is half full and the request is new."""
        head = request.head
        log_lines = find_log_lines(head)
        log_bytes = sum(map(len, log_lines))
        normalized = normalized_key(head)
        key: Hashable = head
        if not self._seen_before(head):
            if normalized and normalized[0] != head and log_bytes <= LOG_LINES_LIMIT and self._seen_before(normalized):
                key, log_bytes = normalized, LOG_LINES_LIMIT
            elif not self._cache.half_empty:
                return
        cost = (
            ENTRY_OVERHEAD
            + len(head)
            + len(response.status_line)
            + len(response.header_tail)
            + LOG_BYTES * (len(response.line) + log_bytes)
        )
        self._cache.put(key, CacheEntry(response, log_lines, dependencies, cost, self._clock.epoch))

    def _seen_before(self, key: Hashable) -> bool:
        """Whether `key` is in the admission filter; adds it."""
        hashed = hash(key)
        if hashed in self._admission_filter or hashed in self._previous_filter:
            return True
        if len(self._admission_filter) >= ADMISSION_FILTER_SIZE:
            self._previous_filter, self._admission_filter = self._admission_filter, set()
        self._admission_filter.add(hashed)
        return False


def normalized_key(head: bytes) -> tuple[bytes] | None:
    """`head` without the lines of fields that no response depends on; None unless it is one whole head with CRLF line ends.

    In a tuple, so that it never equals the exact bytes of a request, which are not yet validated.
    """
    size = len(head)
    if size > HEAD_LIMIT or not head.endswith(b"\r\n\r\n") or (size > FIELD_LIMIT and head.count(b"\n") > FIELD_LIMIT):
        return None
    return (IGNORED_LINES.sub(b"", head),)


def find_log_lines(head: bytes) -> list[bytes]:
    """The Referer and User-Agent lines of a valid head."""
    return LOG_LINES.findall(head)


def parse_log_lines(lines: list[bytes]) -> dict[str, str]:
    """The fields of lines that `find_log_lines` found, as `parse` would give them."""
    fields: dict[str, str] = {}
    collect_fields(FIELD.findall(b"".join(lines).decode("latin-1")), fields)
    return fields
