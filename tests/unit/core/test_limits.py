"""Room for connections: the shares of services, and which connection is closed to make room for another (eviction)."""

from __future__ import annotations

from typing import Any

from rawservers.core.limits import RECENT, SCAN_PAUSE, SLOW_BODY, Connections
from rawservers.core.peer import Clock
from rawservers.core.protocol import Deadline


class Held:
    """A connection that waits; for the books alone."""

    def __init__(
        self,
        name: str,
        why: Deadline | None,
        since: float,
        service: str = "http",
        unread: bool = False,
        has_begun_handshake: bool = False,
    ) -> None:
        self.name = name
        self.service = service
        self.timer_started = since
        self.waits_for = why or Deadline.IDLE
        self.closable_when_idle = why is not None
        self.unread, self.has_begun_handshake = unread, has_begun_handshake
        self.host = "h"

    def has_unread(self) -> bool:
        return self.unread


def evicted(books: Any, service: str = "http") -> str:
    """The names of those that go for new ones, in order."""
    names = ""
    while (held := books.evict(service)) is not None:
        names += held.name
        books.discard(held)
    return names


def test_who_goes_when_there_is_no_room() -> None:
    clock = Clock(now=1000.0)
    books: Any = Connections(clock)
    long_ago, recently = clock.now - 60, clock.now - RECENT / 2
    for held in (
        Held("h", Deadline.HEAD, long_ago),
        Held("i", Deadline.IDLE, long_ago + 1),
        Held("j", Deadline.IDLE, long_ago + 2),
        Held("g", Deadline.HEAD, long_ago - 1),
        Held("l", Deadline.LINGER, long_ago, unread=True),
        Held("k", Deadline.IDLE, recently),
        Held("m", Deadline.HEAD, recently),
        Held("b", Deadline.BODY, clock.now - SLOW_BODY),
        Held("c", Deadline.BODY, clock.now - SLOW_BODY + 1),  # not yet
        Held("n", Deadline.HEAD, clock.now),  # came in this very wake
        Held("u", Deadline.HEAD, long_ago, unread=True),  # is about to be heard
        Held("t", None, long_ago),
    ):
        books.add(held)
    assert evicted(books) == "ijlghkmb"


def test_a_handshake_under_way_is_closed_last() -> None:
    """However many connections begin meanwhile. After a while it is as slow as any other."""
    clock = Clock(now=1000.0)
    books: Any = Connections(clock)
    secure, slow = (Held("s", Deadline.HEAD, clock.now - RECENT * part, has_begun_handshake=True) for part in (0.5, 1.5))
    for held in (secure, slow, Held("b", Deadline.BODY, 1.0), Held("h", Deadline.HEAD, clock.now - RECENT / 4)):
        books.add(held)
    assert books.evict() is slow
    books.discard(slow)
    for number in range(9):  # in each wake another one comes
        clock.now += RECENT / 100
        books.add(Held("n", Deadline.HEAD, clock.now))
        assert (evicted(books), books.evictable_soon) == ("n" if number else "hb", True)
    clock.now += RECENT / 100
    assert evicted(books) == "ns"


def test_who_has_spoken_since_it_was_looked_at_stays() -> None:
    clock = Clock(now=1000.0)
    books: Any = Connections(clock)
    first, second, third = (Held(name, Deadline.IDLE, number) for number, name in enumerate("abc", 1))
    for held in (first, second, third):
        books.add(held)
    found = books.evict()
    assert found is first
    books.discard(first)
    second.timer_started = 500.0
    assert books.evict() is third


def test_all_are_looked_through_once_for_many_that_go() -> None:
    class Counting(Held):
        looked = 0

        @property
        def waits_for(self) -> Deadline:  # type: ignore[override]
            Counting.looked += 1
            return Deadline.IDLE

        @waits_for.setter
        def waits_for(self, value: object) -> None:
            pass

    clock = Clock(now=1000.0)
    books: Any = Connections(clock)
    for number in range(1000):
        books.add(Counting(str(number), Deadline.IDLE, 1 + number / 1000))
    for _ in range(500):
        held = books.evict()
        assert held
        books.discard(held)
    assert Counting.looked <= 1000 + 500


def test_a_look_in_vain_at_all_is_not_repeated_at_once() -> None:
    """It takes milliseconds where they are many, and each connection that finds no room asks for one."""
    clock = Clock(now=1.0)
    books: Any = Connections(clock)
    for number in range(1000):
        books.add(Held(str(number), None, 0.5))
    assert books.evict() is None
    work = clock.work
    assert work > 0
    assert books.evict("http") is None
    assert (clock.work, books.evictable_soon) == (work, False)
    late = Held("late", Deadline.IDLE, 0.5)
    books.add(late)
    clock.now += 1001 * SCAN_PAUSE
    assert books.evict() is late
    assert clock.work > work
    books.discard(late)
    books.add(Held("unread", Deadline.IDLE, 0.5, unread=True))
    for _ in range(3):
        clock.now += SCAN_PAUSE
        assert (books.evict(), books.evictable_soon) == (None, True)


def test_a_service_has_its_share_and_no_more() -> None:
    books: Any = Connections(Clock(now=9.0), 10, 0, {"http": 6, "telnet": 6}, {"status": 2})
    for number in range(6):
        books.add(Held(f"t{number}", None, 1.0, "telnet"))
    assert books.free("telnet") <= 0
    assert books.free("http") == 4
    assert books.evict("telnet") is None
    kept = [Held(f"h{number}", Deadline.IDLE, 1.0 + number) for number in range(4)]
    for held in kept:
        books.add(held)
    assert books.free("http") <= 0
    assert books.free("daytime") <= 0  # it has no share, but there are no more in all
    assert books.free("status") == 2
    assert books.evict("http") is kept[0]
    assert books.evict("telnet") is None  # nobody else's place would be of any use
    status = Held("s", Deadline.IDLE, 1.0, "status")
    books.add(status)
    assert books.free("status") == 1
    assert books.evict("daytime") is not status
