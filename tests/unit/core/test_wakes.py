"""The times of wakes: which service is blamed for a long one, and the histograms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rawservers.core.loop import Loop
from rawservers.core.wakes import BOUNDS, LONG, WakeTimes
from tests.harness.core import Slow, run_wakes


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Loop, list[float]]]:
    """A loop, and the time that it reads, in a list of one."""
    loop = Loop()
    now = [loop.clock.now]
    monkeypatch.setattr("rawservers.core.loop.time.monotonic", lambda: now[0])
    yield loop, now
    loop.close()


def test_long_wakes_are_blamed_on_the_service_that_took_most(timed: tuple[Loop, list[float]]) -> None:
    loop, now = timed

    class Working(Slow):
        def ready(self, events: int) -> None:
            now[0] += self.steps / 1000
            self.ours.recv(1)

    sources = [Working("http", loop, 20, []), Working("telnet", loop, 45, []), Working("http", loop, 20, [])]
    run_wakes(loop, 1)
    assert loop.times.long == {"telnet": 1}
    assert loop.times.wall.counts[BOUNDS.index(0.1)] == 1
    assert loop.times.wall.max == pytest.approx(0.085)
    seconds, service = loop.times.slowest()
    assert (round(seconds, 3), service) == (0.085, "telnet")
    assert loop.times.slowest() == (0.0, "")
    for source in sources:
        source.close()


def test_a_long_turn_is_blamed_on_its_service(timed: tuple[Loop, list[float]]) -> None:
    loop, now = timed
    source = Slow("http", loop, 0, [])

    def work() -> None:
        now[0] += 2 * LONG

    loop.call_in_turn(source, work)
    run_wakes(loop, 2)
    assert loop.times.long == {"http": 1}
    source.close()


def test_the_histograms_have_every_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    times = WakeTimes()
    cpu = iter([1.0, 1.004])
    monkeypatch.setattr("rawservers.core.wakes.time.thread_time", lambda: next(cpu))
    times.short[:] = 10, 0.001
    times.add_short()
    times.add(0.002, None, 0.0)  # is not worth a look at the processor time
    times.read_cpu()
    times.add(0.3, None, 0.0)
    assert sum(times.wall.counts) == sum(times.cpu.counts) == 12
    assert times.wall.counts[BOUNDS.index(1.0)] == 1
    assert times.cpu.counts[BOUNDS.index(0.005)] == 1
    assert times.cpu.sum == pytest.approx(0.001 + 0.002 + 0.004)
    assert times.wall.sum == pytest.approx(0.303)
