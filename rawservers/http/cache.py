"""What is remembered: within bounds, and never beyond the moment it stops being true.

A Cache holds as many entries, and as many bytes, as it was told. What to forget is decided as a clock's hand goes round (the
CLOCK algorithm): the entry under the hand goes, unless it was used since the hand last passed. That needs no work when an
entry is used but a note of when, which its confirmation makes anyway.

Answers are whole answers, found again by the request's bytes. There are two ways to find one:

- by the exact bytes. Clients repeat themselves to the byte, so that a repeated request needs no parsing at all;
- by the essence of a head that differs in nothing else than a cookie, say (see `request.essence`). The same answer goes out,
  but the access log is told of this request.

Half the room is for any answer. The rest is for those whose request came before, so that requests that are never repeated
cannot drive out the others.

Each entry names the sources that it depends on: files, and names that must not exist. Before it is used, each source must
confirm that nothing has changed; once per wake of the loop is enough, since what was confirmed in this wake was confirmed
after the request had begun to arrive. An answer holds no content: it lends that of its file, and ends with it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from rawservers.core.peer import Clock
from rawservers.http.framing import HEAD_LIMIT
from rawservers.http.request import FIELD, FIELD_LIMIT, TOKEN, VALUE, Request, collect_fields
from rawservers.http.response import PreparedResponse

ENTRY_OVERHEAD = 800  # bytes that Python takes for an entry besides its content
ADMISSION_FILTER_SIZE = 8192  # requests, or twice as many, of which no more is kept than that they came once
LOG_BYTES = 6  # bytes for each one that the log is told: as it came, as text, and in the line, where it may take four
LOG_LINES_LIMIT = 384  # bytes of Referer and User-Agent that are kept in turn with an answer found by its essence

# The fields that an answer from a file may depend on: whoever looks at one more of them adds it here.
KEY_FIELDS = (
    "accept-encoding", "authorization", "connection", "content-length", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "range", "transfer-encoding",
)  # fmt: skip
IGNORED_LINES = re.compile(rf"\n(?!(?i:{'|'.join(KEY_FIELDS)}):){TOKEN}+:{VALUE}+\r(?=\n)".encode("latin-1"))
LOG_LINES = re.compile(rb"\n(?i:referer|user-agent):[^\r\n]*")


class Evictable(Protocol):
    """cost: the bytes it takes; epoch: the loop's wake it was last used in; passed: the one it had when the hand passed."""

    cost: int
    epoch: int
    clock_mark: int

    def on_evict(self) -> None:
        """It is forgotten."""


class Dependency(Protocol):
    """Something that an answer depends on. epoch: the one in which it was last known to be as it was."""

    epoch: int

    def is_fresh(self, epoch: int) -> bool:
        """Whether it is as it was, looked up at most once per wake."""


E = TypeVar("E", bound=Evictable)


class Cache(Generic[E]):
    """At most `entries` of them, and `size` bytes. `get` is the dictionary's own."""

    SECOND_CHANCES = 8  # per insertion: bounds the work, at the price of losing a useful entry now and then

    def __init__(self, entries: int, size: int) -> None:
        self._entries: OrderedDict[Hashable, E] = OrderedDict()
        self._max_entries = entries
        self._max_bytes = size
        self.used_bytes = 0  # bytes taken
        self.get = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def half_empty(self) -> bool:
        """Whether more than half of it is free."""
        return 2 * self.used_bytes < self._max_bytes and 2 * len(self._entries) < self._max_entries

    def put(self, key: Hashable, entry: E) -> bool:
        """Remember `entry`, and forget others for it if need be; not one larger than an eighth of the whole."""
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
        """Forget the entry of `key`, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used_bytes -= entry.cost
            entry.on_evict()


class CacheEntry:
    """An answer, and what it depends on; asked: who asked last, as `logged` tells."""

    __slots__ = ("_dependencies", "answer", "clock_mark", "cost", "epoch", "log_lines")

    def __init__(
        self, answer: PreparedResponse, log_lines: list[bytes], dependencies: Iterable[Dependency], cost: int, epoch: int
    ) -> None:
        self.answer = answer
        self.log_lines = log_lines
        self.cost = cost
        self.epoch = self.clock_mark = epoch
        self._dependencies = tuple(dependencies)

    def is_fresh(self, epoch: int) -> bool:
        """Whether it is still true."""
        for dependency in self._dependencies:
            if dependency.epoch != epoch and not dependency.is_fresh(epoch):
                return False
        self.epoch = epoch
        return True

    def on_evict(self) -> None:
        pass


class ResponseCache:
    """Whole answers, at most `entries` of them, and `size` bytes besides the content of files."""

    def __init__(self, clock: Clock, entries: int, size: int) -> None:
        self._clock = clock
        self._cache: Cache[CacheEntry] = Cache(entries, size)
        self._get = self._cache.get
        self._admission_filter: set[int] = set()  # hashes of what came once
        self._previous_filter: set[int] = set()

    def __len__(self) -> int:
        return len(self._cache)

    def lookup(self, head: bytes) -> PreparedResponse | None:
        """The answer to the request that is exactly `head`, if it is remembered and still true."""
        entry = self._get(head)
        if entry is None:
            return self._lookup_normalized(head)
        epoch = self._clock.epoch
        if entry.epoch == epoch or entry.is_fresh(epoch):
            return entry.answer
        self._cache.discard(head)
        return None

    def _lookup_normalized(self, head: bytes) -> PreparedResponse | None:
        """The same, if a request of the same essence is remembered."""
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
            entry.answer.set_log_fields(parse_log_lines(log_lines))
        entry.answer.epoch = -1  # it is no repetition
        return entry.answer

    def store(self, request: Request, answer: PreparedResponse, dependencies: Iterable[Dependency]) -> None:
        """Keep the answer to a request, if there is room for any, or if it came before."""
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
            + len(answer.status_line)
            + len(answer.header_tail)
            + LOG_BYTES * (len(answer.line) + log_bytes)
        )
        self._cache.put(key, CacheEntry(answer, log_lines, dependencies, cost, self._clock.epoch))

    def _seen_before(self, key: Hashable) -> bool:
        """Whether `key` came before; notes that it came."""
        hashed = hash(key)
        if hashed in self._admission_filter or hashed in self._previous_filter:
            return True
        if len(self._admission_filter) >= ADMISSION_FILTER_SIZE:
            self._previous_filter, self._admission_filter = self._admission_filter, set()
        self._admission_filter.add(hashed)
        return False


def normalized_key(head: bytes) -> tuple[bytes] | None:
    """What is left of `head` without the lines that decide nothing; None if it is not one whole head with the usual line ends.

    In a tuple: so it is never mistaken for the bytes of a request, which nobody has checked.
    """
    size = len(head)
    if size > HEAD_LIMIT or not head.endswith(b"\r\n\r\n") or (size > FIELD_LIMIT and head.count(b"\n") > FIELD_LIMIT):
        return None
    return (IGNORED_LINES.sub(b"", head),)


def find_log_lines(head: bytes) -> list[bytes]:
    """The lines of a good head that name what the access log tells of it besides the request line."""
    return LOG_LINES.findall(head)


def parse_log_lines(lines: list[bytes]) -> dict[str, str]:
    """The fields that `logged` lines hold, as `parse` would give them."""
    fields: dict[str, str] = {}
    collect_fields(FIELD.findall(b"".join(lines).decode("latin-1")), fields)
    return fields
