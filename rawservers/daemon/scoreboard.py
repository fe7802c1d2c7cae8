"""What every worker does, in memory that all processes of the server share.

The supervisor makes it before it forks. Each worker has a row of its own, which it writes once a second, and so says that it
is alive. The supervisor reads the rows, and so does whichever worker is asked for the status. There are no locks, since who
holds one may be killed. A row has one writer, and two places for its figures: the writer fills the one that is out of date,
and then says that it counts. A reader who finds that this has changed meanwhile reads again.

What a worker has counted is added to the first row when it has ended, so that what is counted since the start never falls.
The memory is a memfd, so that another process of the same user (`rawservers --reload`) can look at it through /proc.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, replace

from rawservers import __version__
from rawservers.status import STATES, WAKES, Status, Wakes

NAME = "rawservers-scoreboard"
SIZE = 16384  # bytes of a row
ROWS = 2049  # the first one, and twice as many workers as there may be; what is not used takes no memory
ALIVE = struct.Struct("qd")  # process id (0: the row is free), and when it last wrote, on the monotonic clock
HISTORY = struct.Struct("qdqqqq")  # in the first row: a History
NUMBER = struct.Struct("q")
TURN = HISTORY.size  # where a row has how often it was written, and so which of the two places counts
PLACES = TURN + NUMBER.size
PLACE = (SIZE - PLACES) // 2 // 8 * 8  # bytes of each: a length, and a text of JSON


@dataclass(slots=True)
class Figures:
    """By names such as "http.accepted". counted: what has happened so often since the start; now: how many there are; highest:
    the most that there ever was."""

    counted: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)
    highest: Counter[str] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        self.counted.update(other.counted)
        self.now.update(other.now)
        self.highest |= other.highest


@dataclass(frozen=True, slots=True)
class History:
    """Of the whole server. started: seconds since 1970; begun, reloads, failed: how many reloads have begun, came to a good
    end, or were not taken; rows: the rows in use are among the first so many."""

    pid: int
    started: float
    begun: int = 0
    reloads: int = 0
    failed: int = 0
    rows: int = 1


class Row:
    """One worker's."""

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        self._memory = memory
        self._start = number * SIZE

    @property
    def alive(self) -> tuple[int, float]:
        """The process id, 0 for none, and when it last wrote, in seconds on the monotonic clock."""
        pid, beat = ALIVE.unpack_from(self._memory, self._start)
        return pid, beat

    def begin(self, pid: int, beat: float) -> None:
        """The row belongs to this process from now on (0: to none)."""
        self.write(Figures())
        self.beat(pid, beat)

    def beat(self, pid: int, beat: float) -> None:
        """Process `pid`, whose row this is, is alive at `beat`."""
        put(self._memory, self._start, ALIVE.pack(pid, beat))

    def write(self, figures: Figures) -> None:
        text = json.dumps([figures.counted, figures.now, figures.highest]).encode()
        turn = self.turn + 1
        at = self._place(turn)
        put(self._memory, at, NUMBER.pack(len(text)) + text)
        put(self._memory, self._start + TURN, NUMBER.pack(turn))

    def read(self) -> Figures:
        """What was written last; nothing, if it is being written time and again."""
        for _ in range(100):
            turn = self.turn
            at = self._place(turn)
            (length,) = NUMBER.unpack_from(self._memory, at)
            at += NUMBER.size
            text = self._memory[at : at + length]
            if turn == self.turn:
                return Figures(*map(Counter, json.loads(text or "[{}, {}, {}]")))
        return Figures()

    @property
    def turn(self) -> int:
        """How often it was written."""
        (turn,) = NUMBER.unpack_from(self._memory, self._start + TURN)
        return int(turn)

    def _place(self, turn: int) -> int:
        return self._start + PLACES + turn % 2 * PLACE


class Scoreboard:
    """The whole of it. For the supervisor, who makes it, and for its workers, who inherit it."""

    def __init__(self, started: float) -> None:
        fd = os.memfd_create(NAME)
        os.ftruncate(fd, SIZE * ROWS)
        self._memory = mmap.mmap(fd, SIZE * ROWS)  # which keeps a descriptor of its own
        os.close(fd)
        self._past = self._row(0)
        self._past.write(Figures())
        self.history = History(os.getpid(), started)

    def _row(self, number: int) -> Row:
        return Row(self._memory, number)

    def take(self) -> Row:
        """A free row. There are enough."""
        number = next(number for number in range(1, ROWS) if number >= self.history.rows or not self._row(number).alive[0])
        self.history = replace(self.history, rows=max(self.history.rows, number + 1))
        return self._row(number)

    def give_back(self, row: Row) -> None:
        """The worker of this row has ended: what it has counted is part of history."""
        past = self._past.read()
        figures = row.read()
        past.counted.update(figures.counted)
        past.highest |= figures.highest
        past.now = Counter({"buried": row.alive[0]})  # until its row is empty, this says not to count it twice
        self._past.write(past)
        row.begin(0, 0.0)

    def rows(self) -> Iterator[Row]:
        """Those of the workers."""
        return (row for row in map(self._row, range(1, self.history.rows)) if row.alive[0])

    def total(self) -> Figures:
        """The sum of what all workers do, and of what those that have ended did."""
        for _ in range(100):
            turn = self._past.turn
            total = self._past.read()
            buried = total.now.pop("buried", 0)
            for row in self.rows():
                if row.alive[0] != buried:
                    total.add(row.read())
            if turn == self._past.turn:  # else somebody has ended meanwhile
                break
        return total

    @property
    def history(self) -> History:
        return History(*HISTORY.unpack_from(self._memory, 0))

    @history.setter
    def history(self, history: History) -> None:
        put(self._memory, 0, HISTORY.pack(*astuple(history)))

    def close(self) -> None:
        self._memory.close()


def put(memory: mmap.mmap, at: int, data: bytes) -> None:
    """Write so that each number is either the old or the new one at any time. (pack_into() would make it 0 in between.)"""
    memory[at : at + len(data)] = data


def status_of(figures: Figures, history: History, workers: int, now: float) -> Status:
    """The status that the workers' figures make. now: seconds since 1970."""
    counted: dict[str, dict[str, int]] = {}
    for key, number in figures.counted.items():
        service, _, name = key.partition(".")
        counted.setdefault(service, {})[name] = number
    log = counted.pop("log", {})
    wakes = {kind: wakes_of(kind, counted.get("wakes", {}), figures.highest) for kind in WAKES}
    counted.pop("wakes", None)
    open_now = {service: {state: figures.now[f"{service}.{state}"] for state in STATES} for service in counted}
    return Status(
        __version__,
        round(max(0.0, now - history.started), 3),
        workers,
        history.reloads,
        history.failed,
        open_now,
        counted,
        log.get("dropped", 0),
        wakes,
    )


def wakes_of(kind: str, counted: dict[str, int], highest: dict[str, int]) -> Wakes:
    """The histogram of this kind, from the workers' figures."""
    counts = {name.partition(" ")[2]: number for name, number in counted.items() if name.startswith(f"{kind} ")}
    return Wakes(counts, counts.pop("us", 0) / 1e6, highest.get(f"{kind} us", 0) / 1e6)
