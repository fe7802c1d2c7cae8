"""A bounded memory for what is looked up often: as many entries, and as many bytes, as it was told, never more.

What to forget is decided as a clock's hand goes round (the CLOCK algorithm): the entry under the hand goes, unless it was
used since the hand last passed. That needs no work when an entry is used but a note of when, which `site` makes anyway.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """cost: the bytes it takes; wake: the loop's wake it was last used in; passed: the one it had when the hand passed."""

    cost: int
    wake: int
    passed: int


E = TypeVar("E", bound=Entry)


class Cache(Generic[E]):
    """Keys are bytes. `get` is the dictionary's own."""

    SECOND_CHANCES = 8  # per insertion: bounds the work, at the price of losing a useful entry now and then

    def __init__(self, entries: int, size: int) -> None:
        self._entries: OrderedDict[bytes, E] = OrderedDict()
        self._most = entries
        self._size = size
        self._used = 0
        self.get = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used(self) -> int:
        """Bytes taken."""
        return self._used

    def put(self, key: bytes, entry: E) -> None:
        """Remember `entry`, and forget others for it if need be. One larger than an eighth of the whole is not worth that."""
        self.drop(key)
        if entry.cost > self._size // 8:
            return
        self._entries[key] = entry
        self._used += entry.cost
        chances = self.SECOND_CHANCES
        while self._used > self._size or len(self._entries) > self._most:
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
            self._used -= entry.cost
