"""The event loop: its wakes and turns, wake-ups by other threads, and callbacks that fail."""

from __future__ import annotations

import random
import select
import socket
import threading
from collections.abc import Callable, Sequence

import pytest

from rawservers.core.loop import STEPS_PER_CHECK, TIMERS_PER_WAKE, EventHandler, Loop
from rawservers.core.protocol import Chunk
from tests.harness.core import Recording, Running, Slow, run_wakes
from tests.harness.sockets import receive_until
from tests.harness.waiting import until

# Wakes and turns


def always_late(loop: Loop) -> Callable[[], bool]:
    """What says that the wake is late whenever it is asked."""

    def is_late() -> bool:
        loop.clock.work = 0
        return True

    return is_late


def test_a_late_wake_leaves_the_rest_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """All were reported by one poll: those that are left are not reported again, and nobody is handled twice."""
    loop = Loop()
    heard: list[str] = []
    slow = [Slow(str(number), loop, STEPS_PER_CHECK + 1, heard) for number in range(10)]
    monkeypatch.setattr(loop, "is_late", always_late(loop))
    run_wakes(loop, 10)
    assert sorted(heard) == sorted(map(str, range(10)))
    for source in slow:
        source.close()
    loop.close()


def test_the_time_is_looked_at_only_when_work_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    heard: list[str] = []
    sources = [Slow(str(number), loop, steps, heard) for number, steps in enumerate([0] * 30 + [STEPS_PER_CHECK // 2] * 5)]
    looked: list[int] = []

    def is_late() -> bool:
        looked.append(loop.clock.work)
        loop.clock.work = 0
        return False

    monkeypatch.setattr(loop, "is_late", is_late)
    run_wakes(loop, 1)
    assert len(heard) == 35
    assert looked == [STEPS_PER_CHECK // 2 * 3]
    for source in sources:
        source.close()
    loop.close()


def test_turns_are_taken_in_order_and_one_that_comes_again_stands_behind() -> None:
    loop = Loop()
    heard: list[str] = []

    def take(name: str, times: int) -> None:
        heard.append(name)
        if times > 1:
            loop.call_in_turn(loop, lambda: take(name, times - 1))

    for name in "abc":
        loop.call_in_turn(loop, lambda name=name: take(name, 3))  # type: ignore[misc]
    run_wakes(loop, 3)
    assert "".join(heard) == "abcabcabc"
    loop.close()


def test_new_clients_have_every_other_turn() -> None:
    """However many others wait; and none is left out if there are only those of one kind."""
    loop = Loop()
    taken = ""

    def take(name: str, times: int, call: Callable[[EventHandler, Callable[[], None]], None]) -> None:
        nonlocal taken
        taken += name
        if times > 1:
            call(loop, lambda: take(name, times - 1, call))
        if len(taken) == 11:
            loop.stop()

    for name in "abcd":
        loop.call_in_turn(loop, lambda name=name: take(name, 1, loop.call_in_turn))  # type: ignore[misc]
    for name, times in (("X", 3), ("Y", 4)):
        loop.call_in_early_turn(loop, lambda name=name, times=times: take(name, times, loop.call_in_early_turn))  # type: ignore[misc]
    loop.run()
    loop.close()
    assert taken == "XaYbXcYdXYY"


def test_a_turn_that_fails_costs_its_source_alone() -> None:
    class Failing(Slow):
        failures = 0

        def failed(self) -> None:
            self.failures += 1

    loop = Loop()
    source = Failing("x", loop, 0, [])
    done: list[int] = []
    loop.call_in_turn(source, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    loop.call_in_turn(source, lambda: done.append(1))
    run_wakes(loop, 2)
    assert (source.failures, done) == (1, [1])
    source.close()
    loop.close()


def test_an_event_for_a_closed_descriptor_is_not_taken_for_its_successor() -> None:
    """Both are reported; the first one closes the second, whose number a new source gets within the wake."""
    loop = Loop()
    heard: list[str] = []
    pairs = [socket.socketpair() for _ in range(3)]

    class First(Slow):
        def ready(self, events: int) -> None:
            if not heard:
                old = next(source for source in sources if source is not self)
                number = old.ours.fileno()
                loop.discard(number)
                old.close()
                pairs.append(socket.socketpair())
                while all(end.fileno() != number for pair in pairs for end in pair):
                    pairs.append(socket.socketpair())
                new = next(end for pair in pairs for end in pair if end.fileno() == number)
                heard.append(self.service)
                loop.watch(number, Slow.__new__(Slow), select.EPOLLIN)
                loop._new_handlers[number].__dict__.update(service="new", loop=loop, steps=0, heard=heard, ours=new, theirs=new)
            self.ours.recv(1, socket.MSG_DONTWAIT) if self.theirs.fileno() >= 0 else None

    sources = [First("a", loop, 0, heard), First("b", loop, 0, heard)]
    run_wakes(loop, 1)
    assert len(heard) == 1  # the new source has heard nothing of what was the old one's
    for source in sources:
        source.close()
    for pair in pairs:
        for end in pair:
            end.close()
    loop.close()


# Timers


def test_timers_are_called_in_order_and_not_before_their_time() -> None:
    loop = Loop()
    called: list[str] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: called.append(f"{name} {loop.clock.now >= due[name]}")

    start = loop.clock.now
    due = {name: start + seconds for name, seconds in {"c": 0.03, "a": -1.0, "b": 0.01, "d": 0.03}.items()}
    for name, when in due.items():
        loop.call_at(when, loop, note(name))
    loop.call_at(start + 0.05, loop, loop.stop)
    loop.run()
    assert called == ["a True", "b True", "c True", "d True"]
    loop.close()


def test_a_cancelled_timer_is_not_called_and_takes_no_room() -> None:
    loop = Loop()
    called: list[int] = []
    for number in range(10_000):
        timer = loop.call_at(loop.clock.now + 60, loop, lambda number=number: called.append(number))  # type: ignore[misc]
        loop.cancel(timer)
        loop.cancel(timer)
        assert len(loop._schedule) <= 200
    loop.cancel(loop.call_at(loop.clock.now, loop, lambda: called.append(-1)))
    loop.call_at(loop.clock.now + 0.01, loop, loop.stop)
    loop.run()
    assert called == []
    assert loop._timers == {}
    loop.close()


def test_timers_keep_their_order_when_cancelled_ones_are_dropped() -> None:
    loop = Loop()
    called: list[int] = []
    start = loop.clock.now
    order = random.Random(1).sample(range(1000), 1000)
    for when in order:
        timer = loop.call_at(start + when / 1e6, loop, lambda when=when: called.append(when))  # type: ignore[misc]
        if when % 3:
            loop.cancel(timer)
    loop.call_at(start + 1, loop, loop.stop)
    loop.run()
    assert called == list(range(0, 1000, 3))
    loop.close()


def test_a_timer_does_not_wait_for_the_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawservers.core.loop.TICK", 3600.0)
    loop = Loop()
    loop.call_at(loop.clock.now, loop, lambda: None)
    loop.call_at(loop.clock.now + 0.05, loop, lambda: loop.call_at(loop.clock.now + 0.05, loop, loop.stop) and None)
    loop.run()
    loop.close()


def test_many_timers_that_are_due_at_once_are_called_over_several_wakes() -> None:
    loop = Loop()
    called: list[int] = []
    for number in range(3 * TIMERS_PER_WAKE):
        loop.call_at(loop.clock.now, loop, lambda number=number: called.append(number))  # type: ignore[misc]
    run_wakes(loop, 1)
    assert len(called) <= TIMERS_PER_WAKE
    loop._running = True
    loop.call_at(loop.clock.now, loop, loop.stop)
    loop.run()
    assert called == list(range(3 * TIMERS_PER_WAKE))
    loop.close()


def test_a_protocol_is_resumed_when_it_has_asked_for_it() -> None:
    class Countdown(Recording):
        left = 3

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.peer.call_later(60)  # replaced by the next
            return self.resume()

        def resume(self) -> Sequence[Chunk]:
            self.left -= 1
            if self.left:
                self.peer.call_later(0.02)
            return (b"%d\n" % self.left,)

    with Running(Countdown) as running, running.connect() as sock:
        sock.sendall(b"go")
        received = b""
        while not received.endswith(b"0\n"):
            received += receive_until(sock, b"\n")
        assert received == b"2\n1\n0\n"
        running.call(lambda: running.begun[0].peer.call_later(60))  # type: ignore[attr-defined]
        sock.close()
        running.until_closed()
        assert running.loop._timers == {}


# Other threads


def test_a_thread_may_wake_a_conversation() -> None:
    class Late(Recording):
        said: Sequence[Chunk] = ()

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            threading.Thread(target=self.answer, args=(data,)).start()
            return ()

        def answer(self, data: bytes) -> None:
            self.said = (data.upper(),)
            self.peer.wake()

        def resume(self) -> Sequence[Chunk]:
            said, self.said = self.said, ()
            return said

    with Running(Late) as running, running.connect() as sock:
        for _ in range(100):
            sock.sendall(b"x\n")
            assert receive_until(sock, b"\n") == b"X\n"
        sock.close()
        running.until_closed()
        running.begun[0].peer.wake()  # type: ignore[attr-defined]  # too late, and harmless


def test_ten_thousand_wake_ups_from_four_threads_are_all_served() -> None:
    class Counting(Recording):
        resumed = seen = 0

        def resume(self) -> Sequence[Chunk]:
            self.resumed += 1
            self.seen = woken
            return ()

    woken, lock = 0, threading.Lock()
    with Running(Counting) as running, running.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"."
        (protocol,) = running.begun
        assert isinstance(protocol, Counting)

        def wake() -> None:
            nonlocal woken
            for _ in range(2500):
                with lock:
                    woken += 1
                protocol.peer.wake()

        threads = [threading.Thread(target=wake) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: protocol.seen == 10_000, "the last one was served")
        assert protocol.resumed <= 10_000


# Failures


@pytest.mark.parametrize("when", ["at_wake_end", "at_tick"])
def test_what_fails_beside_the_connections_ends_none_of_them(when: str, caplog: pytest.LogCaptureFixture) -> None:
    failures = [RuntimeError("as told"), RuntimeError("as told")]

    def fail() -> None:
        if failures:
            raise failures.pop()

    with Running(Recording) as running:
        getattr(running.loop, when).append(fail)
        running.loop.tick_within(0)
        with running.connect() as sock:
            for _ in range(3):
                sock.sendall(b"x")
                assert receive_until(sock, b".") == b"."
            until(lambda: not failures, "both have failed")
    assert caplog.text.count("RuntimeError: as told") == 2
