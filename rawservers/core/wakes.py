"""Durations of the event loop's wakes: histograms of wall time and processor time, and the services that made long ones long.

Reading a thread's processor time is a system call, so it is read only around wakes that may become long. Below MEASURED, the
wall time is recorded as processor time, of which it is the upper bound.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict

SHORT = 0.001  # seconds; shorter wakes are only counted, and added to the histograms once a second
MEASURED = 0.020  # seconds of wall time from which on the processor time is measured
LONG = 0.050  # seconds from which on a wake is counted as long, for the service that took most of it
BOUNDS = (SHORT, 0.002, 0.005, 0.010, 0.020, LONG, 0.100, 0.250, 1.0, 10.0)  # seconds: upper bounds of the buckets


class Histogram:
    """Durations in seconds. counts: one for each bucket of BOUNDS, and one for longer durations; sum; max."""

    __slots__ = ("counts", "max", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0
        self.max = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds
        self.max = max(self.max, seconds)


class WakeTimes:
    """The durations of all wakes of one loop.

    wall, cpu: histograms. long: the number of wakes of LONG or more wall time, by the service that took most of each ("": the
    loop itself). short: the number of wakes shorter than SHORT that are not yet in the histograms, and their seconds
    together; a list, since the loop adds to it in every wake.
    """

    def __init__(self) -> None:
        self.wall = Histogram()
        self.cpu = Histogram()
        self.long: Counter[str] = Counter()
        self.short = [0, 0.0]
        self._slowest = (0.0, "")
        self._cpu_read = 0.0  # the thread's processor time when it was last read
        # Seconds of this wake by service; filled when several services work in it, and for ticks, turns and LONG wakes.
        self._charged: defaultdict[str, float] = defaultdict(float)
        self._charged_until = 0.0  # when `_charged` was last updated

    def read_cpu(self) -> None:
        """Read the processor time: a wake begins that may become long."""
        self._cpu_read = time.thread_time()

    def charge(self, service: str | None, began: float) -> float:
        """Account the time since the last call in the wake that began then, or since it began; returns the time.

        service: None, or "", for the loop itself.
        """
        if self._charged_until < began:
            self._charged_until = began
            self._charged.clear()
        now = time.monotonic()
        self._charged[service or ""] += now - self._charged_until
        self._charged_until = now
        return now

    def add(self, seconds: float, service: str | None, began: float) -> None:
        """Count a wake of `seconds` wall time, SHORT or more. service, began: as for `charge`.

        Its processor time is at most what was used since the last reading, which may include earlier wakes.
        """
        self.wall.add(seconds)
        if seconds >= LONG:
            self.charge(service, began)
            service = max(self._charged, key=self._charged.__getitem__)
            self.long[service] += 1
            self._slowest = max(self._slowest, (seconds, service))
        if seconds >= MEASURED:
            before = self._cpu_read
            self.read_cpu()
            seconds = min(seconds, self._cpu_read - before)
        self.cpu.add(seconds)

    def add_short(self) -> None:
        """Add the short wakes to the histograms."""
        number, seconds = self.short
        for histogram in (self.wall, self.cpu):
            histogram.counts[0] += int(number)
            histogram.sum += seconds
        self.short[:] = 0, 0.0

    def slowest(self) -> tuple[float, str]:
        """The longest of the LONG wakes since the last call: its seconds, and the service that took most of it."""
        slowest, self._slowest = self._slowest, (0.0, "")
        return slowest
