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
from rawservers.http.response import Answer

OVERHEAD = 800  # bytes that Python takes for an entry besides its content
SIGHTED = 8192  # requests, or twice as many, of which no more is kept than that they came once
TELLING = 6  # bytes for each one that the log is told: as it came, as text, and in the line, where it may take four
ASKER = 384  # bytes of Referer and User-Agent that are kept in turn with an answer found by its essence

# The fields that an answer from a file may depend on: whoever looks at one more of them adds it here.
DECISIVE = (
    "accept-encoding", "authorization", "connection", "content-length", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "range", "transfer-encoding",
)  # fmt: skip
INDECISIVE = re.compile(rf"\n(?!(?i:{'|'.join(DECISIVE)}):){TOKEN}+:{VALUE}+\r(?=\n)".encode("latin-1"))
LOGGED = re.compile(rb"\n(?i:referer|user-agent):[^\r\n]*")


class Entry(Protocol):
    """cost: the bytes it takes; epoch: the loop's wake it was last used in; passed: the one it had when the hand passed."""

    cost: int
    epoch: int
    passed: int

    def leave(self) -> None:
        """It is forgotten."""


class Source(Protocol):
    """Something that an answer depends on. epoch: the one in which it was last known to be as it was."""

    epoch: int

    def confirm(self, epoch: int) -> bool:
        """Whether it is as it was, looked up at most once per wake."""


E = TypeVar("E", bound=Entry)


class Cache(Generic[E]):
    """At most `entries` of them, and `size` bytes. `get` is the dictionary's own."""

    SECOND_CHANCES = 8  # per insertion: bounds the work, at the price of losing a useful entry now and then

    def __init__(self, entries: int, size: int) -> None:
        self._entries: OrderedDict[Hashable, E] = OrderedDict()
        self._most = entries
        self._size = size
        self.used = 0  # bytes taken
        self.get = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def roomy(self) -> bool:
        """Whether more than half of it is free."""
        return 2 * self.used < self._size and 2 * len(self._entries) < self._most

    def put(self, key: Hashable, entry: E) -> bool:
        """Remember `entry`, and forget others for it if need be; not one larger than an eighth of the whole."""
        self.drop(key)
        if entry.cost > self._size // 8 or not self._most:
            return False
        chances = self.SECOND_CHANCES
        while self.used + entry.cost > self._size or len(self._entries) >= self._most:
            oldest, candidate = next(iter(self._entries.items()))
            if chances and candidate.passed != candidate.epoch:
                chances -= 1
                candidate.passed = candidate.epoch
                self._entries.move_to_end(oldest)
            else:
                self.drop(oldest)
        self._entries[key] = entry
        self.used += entry.cost
        return True

    def drop(self, key: Hashable) -> None:
        """Forget the entry of `key`, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used -= entry.cost
            entry.leave()


class Remembered:
    """An answer, and what it depends on; asked: who asked last, as `logged` tells."""

    __slots__ = ("_sources", "answer", "asked", "cost", "epoch", "passed")

    def __init__(self, answer: Answer, asked: list[bytes], sources: Iterable[Source], cost: int, epoch: int) -> None:
        self.answer = answer
        self.asked = asked
        self.cost = cost
        self.epoch = self.passed = epoch
        self._sources = tuple(sources)

    def confirm(self, epoch: int) -> bool:
        """Whether it is still true."""
        for source in self._sources:
            if source.epoch != epoch and not source.confirm(epoch):
                return False
        self.epoch = epoch
        return True

    def leave(self) -> None:
        pass


class Answers:
    """Whole answers, at most `entries` of them, and `size` bytes besides the content of files."""

    def __init__(self, clock: Clock, entries: int, size: int) -> None:
        self._clock = clock
        self._cache: Cache[Remembered] = Cache(entries, size)
        self._get = self._cache.get
        self._sighted: set[int] = set()  # hashes of what came once
        self._sighted_before: set[int] = set()

    def __len__(self) -> int:
        return len(self._cache)

    def recall(self, head: bytes) -> Answer | None:
        """The answer to the request that is exactly `head`, if it is remembered and still true."""
        entry = self._get(head)
        if entry is None:
            return self._recall_alike(head)
        epoch = self._clock.epoch
        if entry.epoch == epoch or entry.confirm(epoch):
            return entry.answer
        self._cache.drop(head)
        return None

    def _recall_alike(self, head: bytes) -> Answer | None:
        """The same, if a request of the same essence is remembered."""
        key = essence(head)
        entry = self._get(key)
        if entry is None:
            return None
        epoch = self._clock.epoch
        if entry.epoch != epoch and not entry.confirm(epoch):
            self._cache.drop(key)
            return None
        asked = logged(head)
        if asked != entry.asked:
            if sum(map(len, asked)) > ASKER:
                return None
            entry.asked = asked
            entry.answer.ask(tell(asked))
        entry.answer.epoch = -1  # it is no repetition
        return entry.answer

    def remember(self, request: Request, answer: Answer, sources: Iterable[Source]) -> None:
        """Keep the answer to a request, if there is room for any, or if it came before."""
        head = request.head
        asked = logged(head)
        told = sum(map(len, asked))
        alike = essence(head)
        key: Hashable = head
        if not self._is_sighted(head):
            if alike and alike[0] != head and told <= ASKER and self._is_sighted(alike):
                key, told = alike, ASKER
            elif not self._cache.roomy:
                return
        cost = OVERHEAD + len(head) + len(answer.before) + len(answer.behind) + TELLING * (len(answer.line) + told)
        self._cache.put(key, Remembered(answer, asked, sources, cost, self._clock.epoch))

    def _is_sighted(self, key: Hashable) -> bool:
        """Whether `key` came before; notes that it came."""
        sighted = hash(key)
        if sighted in self._sighted or sighted in self._sighted_before:
            return True
        if len(self._sighted) >= SIGHTED:
            self._sighted_before, self._sighted = self._sighted, set()
        self._sighted.add(sighted)
        return False


def essence(head: bytes) -> tuple[bytes] | None:
    """What is left of `head` without the lines that decide nothing; None if it is not one whole head with the usual line ends.

    In a tuple: so it is never mistaken for the bytes of a request, which nobody has checked.
    """
    size = len(head)
    if size > HEAD_LIMIT or not head.endswith(b"\r\n\r\n") or (size > FIELD_LIMIT and head.count(b"\n") > FIELD_LIMIT):
        return None
    return (INDECISIVE.sub(b"", head),)


def logged(head: bytes) -> list[bytes]:
    """The lines of a good head that name what the access log tells of it besides the request line."""
    return LOGGED.findall(head)


def tell(lines: list[bytes]) -> dict[str, str]:
    """The fields that `logged` lines hold, as `parse` would give them."""
    fields: dict[str, str] = {}
    collect_fields(FIELD.findall(b"".join(lines).decode("latin-1")), fields)
    return fields
