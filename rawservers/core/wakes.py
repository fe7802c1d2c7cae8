"""How long the loop's wakes take: histograms of their wall time and processor time, and who made the long ones long.

The processor time of a thread costs a system call to read, so it is read only around a wake that may become long. A wake of
less than MEASURED by the clock on the wall has taken no more of the processor, and is taken to have taken all of that.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter

SHORT = 0.001  # seconds, of the first bucket: wakes up to here are only counted, and added once a second
MEASURED = 0.020  # seconds from which on the processor time is measured
LONG = 0.050  # seconds from which on a wake is counted as long, for the service that took most of it
BOUNDS = (SHORT, 0.002, 0.005, 0.010, 0.020, LONG, 0.100, 0.250, 1.0, 10.0)  # seconds: the upper bounds of the buckets


class Histogram:
    """Durations in seconds. counts: by bucket of BOUNDS, and one more for what is longer; sum; max."""

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
    """wall, cpu: histograms of all wakes; long: how many were LONG by the clock on the wall, by the service that took most of
    each ("": the loop itself).
    """

    __slots__ = ("_mark", "_slowest", "cpu", "long", "wall")

    def __init__(self) -> None:
        self.wall = Histogram()
        self.cpu = Histogram()
        self.long: Counter[str] = Counter()
        self._slowest = (0.0, "")
        self._mark = 0.0  # the thread's processor time when it was last read

    def mark(self) -> None:
        """A wake begins that may become long."""
        self._mark = time.thread_time()

    def blame(self, seconds: float, service: str) -> None:
        """A wake was LONG, and `service` took most of it."""
        self.long[service] += 1
        self._slowest = max(self._slowest, (seconds, service))

    def slowest(self) -> tuple[float, str]:
        """The longest of the wakes that were blamed on a service since the last call."""
        slowest, self._slowest = self._slowest, (0.0, "")
        return slowest

    def add(self, seconds: float) -> None:
        """A wake of SHORT or more has ended, after so many seconds by the clock on the wall.

        Its processor time is at most what was used since the last mark, which counts wakes between that and this one as well.
        """
        self.wall.add(seconds)
        if seconds >= MEASURED:
            before = self._mark
            self.mark()
            seconds = min(seconds, self._mark - before)
        self.cpu.add(seconds)

    def add_short(self, number: int, seconds: float) -> None:
        """So many wakes were SHORT, together so long."""
        for histogram in (self.wall, self.cpu):
            histogram.counts[0] += number
            histogram.sum += seconds
