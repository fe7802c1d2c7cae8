"""Durations of the event loop's wakes: histograms of wall time and processor time, and the services that made long ones long.

Reading a thread's processor time is a system call, so it is read only around wakes that may become long. Below MEASURED, the
wall time is recorded as processor time, of which it is the upper bound.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter

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

    __slots__ = ("_cpu_read", "_slowest", "cpu", "long", "short", "wall")

    def __init__(self) -> None:
        self.wall = Histogram()
        self.cpu = Histogram()
        self.long: Counter[str] = Counter()
        self.short = [0, 0.0]
        self._slowest = (0.0, "")
        self._cpu_read = 0.0  # the thread's processor time when it was last read

    def read_cpu(self) -> None:
        """Read the processor time: a wake begins that may become long."""
        self._cpu_read = time.thread_time()

    def add(self, seconds: float) -> None:
        """Count a wake of `seconds` wall time, SHORT or more.

        Its processor time is at most what was used since the last reading, which may include earlier wakes.
        """
        self.wall.add(seconds)
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

    def blame(self, seconds: float, service: str) -> None:
        """Count a LONG wake for `service`, which took most of it."""
        self.long[service] += 1
        self._slowest = max(self._slowest, (seconds, service))

    def slowest(self) -> tuple[float, str]:
        """The longest wake that was counted by `blame` since the last call: its seconds, and the service."""
        slowest, self._slowest = self._slowest, (0.0, "")
        return slowest
