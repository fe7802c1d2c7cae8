"""What is remembered: within bounds, and never beyond the moment it stops being true.

A Cache holds as many entries, and as many bytes, as it was told. What to forget is decided as a clock's hand goes round (the
CLOCK algorithm): the entry under the hand goes, unless it was used since the hand last passed. That needs no work when an
entry is used but a note of when, which its confirmation makes anyway.

Answers are whole answers by the exact bytes of the request. Clients repeat themselves to the byte, so that a repeated request
needs no parsing at all. Each entry names the sources that it depends on: files, and names that must not exist. Before it is
used, each source must confirm that nothing has changed; once per wake of the loop is enough, since what was confirmed in this
wake was confirmed after the request had begun to arrive.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from rawservers.core.protocol import Clock
from rawservers.http.request import Request
from rawservers.http.response import Answer

OVERHEAD = 600  # bytes that Python takes for an entry besides its content
SIGHTED = 8192  # requests of which no more is kept than that they came once


class Entry(Protocol):
    """cost: the bytes it takes; wake: the loop's wake it was last used in; passed: the one it had when the hand passed."""

    cost: int
    wake: int
    passed: int


class Source(Protocol):
    """Something that an answer depends on. held: what it costs to keep it from being let go, as bytes."""

    held: int

    def confirm(self, wake: int) -> bool:
        """Whether it is as it was, looked up at most once per wake."""


E = TypeVar("E", bound=Entry)


class Cache(Generic[E]):
    """At most `entries` of them, and `size` bytes. Keys are bytes; `get` is the dictionary's own."""

    SECOND_CHANCES = 8  # per insertion: bounds the work, at the price of losing a useful entry now and then

    def __init__(self, entries: int, size: int) -> None:
        self._entries: OrderedDict[bytes, E] = OrderedDict()
        self._most = entries
        self._size = size
        self.used = 0  # bytes taken
        self.get = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: bytes, entry: E) -> None:
        """Remember `entry`, and forget others for it if need be. One larger than an eighth of the whole is not worth that."""
        self.drop(key)
        if entry.cost > self._size // 8:
            return
        self._entries[key] = entry
        self.used += entry.cost
        chances = self.SECOND_CHANCES
        while self.used > self._size or len(self._entries) > self._most:
            oldest, candidate = next(iter(self._entries.items()))
            if chances and candidate.passed != candidate.wake:
                chances -= 1
                candidate.passed = candidate.wake
                self._entries.move_to_end(oldest)
            else:
                self.drop(oldest)

    def drop(self, key: bytes) -> None:
        """Forget the entry of `key`, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used -= entry.cost


class Remembered:
    """An answer, and what it depends on."""

    __slots__ = ("answer", "cost", "passed", "sources", "wake")

    def __init__(self, head: bytes, answer: Answer, sources: Sequence[Source], wake: int) -> None:
        self.answer = answer
        self.sources = sources
        self.wake = self.passed = wake
        self.cost = OVERHEAD + len(head) + len(answer.before) + len(answer.behind)
        self.cost += sum(source.held for source in sources)  # an answer keeps its files open


class Answers:
    """Whole answers by the exact bytes of the request, at most `entries` of them, and `size` bytes."""

    def __init__(self, clock: Clock, entries: int, size: int) -> None:
        self._clock = clock
        self._cache: Cache[Remembered] = Cache(entries, size)
        self._sighted: set[int] = set()

    def __len__(self) -> int:
        return len(self._cache)

    def recall(self, data: bytes) -> Answer | None:
        """The answer to a request whose bytes are exactly `data`, if it is remembered and still true."""
        entry = self._cache.get(data)
        if entry is None:
            return None
        wake = self._clock.wake
        if entry.wake != wake:
            for source in entry.sources:
                if not source.confirm(wake):
                    self._cache.drop(data)
                    return None
            entry.wake = wake
        return entry.answer

    def remember(self, request: Request, answer: Answer, sources: Iterable[Source]) -> None:
        """Keep the answer to a request that came a second time: one that never comes again must not drive out others."""
        sighted = hash(request.head)
        if sighted in self._sighted:
            self._cache.put(request.head, Remembered(request.head, answer, tuple(sources), self._clock.wake))
            return
        if len(self._sighted) >= SIGHTED:
            self._sighted.clear()
        self._sighted.add(sighted)
