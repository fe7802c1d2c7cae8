"""The scoreboard: metrics and heartbeats of all workers, in memory that all processes of the server share.

The supervisor creates it before it forks. Each worker has a slot, and writes its metrics and a heartbeat there once a second.
The supervisor reads the heartbeats; the worker that answers a status request reads the metrics of all.

There are no locks, since a process may be killed while it holds one. Each slot has one writer, and a `DoubleBuffer`. So has the
table of a worker's connections, which it only writes while somebody asks for it, see `socket_table.py`.

Slot 0 is the supervisor's. When a worker exits, its counters are merged there, so that totals never decrease; and the reloads
are counted there. The memory is a memfd: `rawservers --reload`, another process of the same user, reads it through /proc.

Any worker can write anything anywhere. So metrics are checked when they are read, and the supervisor believes only its own copy
of what it has written.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING

from rawservers import __version__
from rawservers.core.wakes import BOUNDS
from rawservers.daemon.double_buffer import INTEGER, MAX_READS, DoubleBuffer, store

if TYPE_CHECKING:
    from rawservers.status import Status

NAME = "rawservers-scoreboard"
SLOT_SIZE = 16384  # bytes
SLOTS = (
    8193  # slot 0, and eight for each of the 1024 workers that may be configured, as many retire; unused ones take no memory
)

# A slot: a heartbeat, and a double buffer of text.
HEARTBEAT = struct.Struct("qd")  # process id, 0 in a free slot; monotonic time of the last write
BUFFER_SIZE = (SLOT_SIZE - HEARTBEAT.size - INTEGER.size) // 2 // 8 * 8
MAX_TEXT = BUFFER_SIZE - INTEGER.size

# Behind the slots: when somebody has asked for the tables last; the tables, a double buffer of JSON for each slot.
ASKED_AT = struct.Struct("d")  # monotonic time
ASKED_OFFSET = SLOT_SIZE * SLOTS
TABLES_OFFSET = ASKED_OFFSET + ASKED_AT.size
TABLE_SIZE = 81920  # bytes
MEMORY_SIZE = TABLES_OFFSET + TABLE_SIZE * SLOTS

NUMBER = "[0-9]{1,19}"  # of a metric, with as many digits as MAX_NUMBER
MAX_NUMBER = 1 << 63
SERVER_METRIC = r"[\w .-]+"  # of slot 0: names that are harmless in all formats of the status
WORKER_METRIC = r"(?!server\.)[\w .-]+"  # of the other slots


class Metrics:
    """Metrics by name, such as "http.accepted". counters: since the start; gauges: current numbers; maxima: since the start."""

    __slots__ = ("counters", "gauges", "maxima")

    def __init__(
        self, counters: Counter[str] | None = None, gauges: Counter[str] | None = None, maxima: Counter[str] | None = None
    ) -> None:
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.gauges: Counter[str] = Counter() if gauges is None else gauges
        self.maxima: Counter[str] = Counter() if maxima is None else maxima

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metrics) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def add(self, other: Metrics) -> None:
        self.counters.update(other.counters)
        self.gauges.update(other.gauges)
        self.maxima |= other.maxima

    def dump(self) -> bytes:
        """As text: a line for each metric, its number and its name, and a blank line between two of the tables."""
        tables = [table.items() for table in (self.counters, self.gauges, self.maxima)]
        return "\n\n".join(["\n".join([f"{number} {name}" for name, number in table]) for table in tables]).encode()

    @classmethod
    def parse(cls, text: bytes, names: str) -> Metrics:
        """The metrics of `dump`, all of whose names match; empty ones for anything else."""
        tables: list[Counter[str]] = []
        for table in text.decode("ascii", "replace").split("\n\n"):
            rows = [line.partition(" ") for line in table.splitlines()]
            if not all(re.fullmatch(NUMBER, number) and re.fullmatch(names, name) for number, _, name in rows):
                return cls()
            tables.append(Counter({name: int(number) for number, _, name in rows}))
        valid = len(tables) == 3 and all(number < MAX_NUMBER for table in tables for number in table.values())
        return cls(*tables) if valid else cls()


class Slot:
    """One process's part of the scoreboard."""

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        self.number = number
        self._memory = memory
        self._start = number * SLOT_SIZE
        self._text = DoubleBuffer(memory, self._start + HEARTBEAT.size, SLOT_SIZE - HEARTBEAT.size)

    @property
    def heartbeat(self) -> tuple[int, float]:
        """Process id, 0 in a free slot, and monotonic time of the last write."""
        return HEARTBEAT.unpack_from(self._memory, self._start)

    def write_heartbeat(self, pid: int, now: float) -> None:
        store(self._memory, self._start, HEARTBEAT.pack(pid, now))

    def write(self, metrics: Metrics) -> None:
        """Write these metrics, unless they do not fit."""
        self._text.write(metrics.dump())

    def publish(self, metrics: Metrics) -> None:
        """Write these metrics, and a heartbeat of this process."""
        self.write(metrics)
        self.write_heartbeat(os.getpid(), time.monotonic())

    def read(self) -> Metrics:
        """The metrics written last; empty ones if they are malformed, or each of MAX_READS was interrupted by a write."""
        return Metrics.parse(self._text.read(), WORKER_METRIC if self.number else SERVER_METRIC)

    @property
    def sequence(self) -> int:
        """The number of writes of metrics so far."""
        return self._text.sequence


class Scoreboard:
    """All slots. Created by the supervisor, inherited by its workers. server: what the supervisor writes to slot 0."""

    def __init__(self) -> None:
        fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, MEMORY_SIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)  # reading beyond its end: SIGBUS
            self._memory = mmap.mmap(fd, MEMORY_SIZE)  # duplicates the descriptor
        finally:
            os.close(fd)
        self._own = Slot(self._memory, 0)
        self._used = {0}  # numbers of slots
        started = {"server.started_ms": int(time.time() * 1000), "server.process": os.getpid()}
        self.server = Metrics(gauges=Counter({**started, "server.slots": 1}))
        self.publish()

    @classmethod
    def of(cls, memory: mmap.mmap) -> Scoreboard:
        """That of another process, to be read."""
        board = cls.__new__(cls)
        board._memory, board._own = memory, Slot(memory, 0)
        return board

    def publish(self) -> None:
        """Write slot 0, whatever another process has made of it."""
        self._own.publish(self.server)

    def count(self, name: str) -> None:
        """Increment a counter of the server: reloads_begun, reloads or reloads_failed."""
        self.server.counters[f"server.{name}"] += 1
        self.publish()

    def announce_stop(self) -> None:
        """Tell all workers that the server is about to stop."""
        self.server.gauges["server.stopping"] = 1
        self.publish()

    def is_stopping(self) -> bool:
        """Whether a stop was announced."""
        return bool(self._own.read().gauges["server.stopping"])

    def allocate(self) -> Slot:
        """A free slot, in the name of this process. Raises OSError if there is none."""
        number = next((number for number in range(SLOTS) if number not in self._used), None)
        if number is None:
            raise OSError(errno.ENOSPC, "too many workers")
        self._used.add(number)
        slot = Slot(self._memory, number)
        slot.publish(Metrics())
        self.server.gauges["server.slots"] = max(self._used) + 1
        self.publish()
        return slot

    def release(self, slot: Slot, pid: int) -> None:
        """Merge the counters of a worker that has exited, with this process id, and free its slot."""
        merged = slot.read()
        merged.gauges.clear()
        merged.add(self.server)
        if Metrics.parse(merged.dump()[:MAX_TEXT], SERVER_METRIC) == merged:  # else the worker has written too much
            self.server = merged
        self.server.gauges["server.merged_pid"] = pid
        self.publish()
        slot.write_heartbeat(0, 0.0)
        self._used.remove(slot.number)

    def total(self) -> Metrics:
        """The sum over all workers, present and former. Gauge "server.workers": the number of present ones."""
        for _ in range(MAX_READS):
            sequence = self._own.sequence
            total = self._own.read()
            merged_pid = total.gauges["server.merged_pid"]  # its slot is about to be freed
            for number in range(1, min(total.gauges["server.slots"], SLOTS)):
                slot = Slot(self._memory, number)
                if slot.heartbeat[0] not in {0, merged_pid}:
                    total.add(slot.read())
                    total.gauges["server.workers"] += 1
            if sequence == self._own.sequence:  # else a worker was merged meanwhile
                break
        return total

    def workers(self) -> dict[int, int]:
        """The process ids of the present workers, by slot."""
        slots = min(self._own.read().gauges["server.slots"], SLOTS)
        found = {number: Slot(self._memory, number).heartbeat[0] for number in range(1, slots)}
        return {number: pid for number, pid in found.items() if pid}

    def table(self, number: int) -> DoubleBuffer:
        """Where the worker with this slot writes the table of its connections."""
        return DoubleBuffer(self._memory, TABLES_OFFSET + number * TABLE_SIZE, TABLE_SIZE)

    @property
    def asked_at(self) -> float:
        """The monotonic time at which somebody asked for the tables last; any number, if another process has written it."""
        return float(ASKED_AT.unpack_from(self._memory, ASKED_OFFSET)[0])

    def ask(self, now: float) -> None:
        """Ask all workers to write their tables."""
        store(self._memory, ASKED_OFFSET, ASKED_AT.pack(now))

    def close(self) -> None:
        self._memory.close()


def make_status(metrics: Metrics, now: float) -> Status:
    """The status from total metrics, whatever is missing in them. now: seconds since 1970."""
    from rawservers.status import COUNTERS, STATES, WAKE_CLOCKS, Status, WakeHistogram  # here: few servers are asked for it

    counters, gauges = metrics.counters, metrics.gauges
    services = [name.removesuffix(".answers") for name in counters if name.endswith(".answers")]
    wakes: dict[str, WakeHistogram] = {}
    for clock in WAKE_CLOCKS:
        counts = {f"{bound}": counters[f"wakes.{clock} {bound}"] for bound in (*BOUNDS, "more")}
        wakes[clock] = WakeHistogram(counts, counters[f"wakes.{clock} us"] / 1e6, metrics.maxima[f"{clock} us"] / 1e6)
    return Status(
        version=__version__,
        process=gauges["server.process"],
        uptime=round(max(0.0, now - gauges["server.started_ms"] / 1000), 3),
        workers=gauges["server.workers"],
        reloads=counters["server.reloads"],
        reloads_failed=counters["server.reloads_failed"],
        connections={service: {state: gauges[f"{service}.{state}"] for state in STATES} for service in services},
        counters={service: {name: counters[f"{service}.{name}"] for name in COUNTERS} for service in services},
        log_lines_dropped=counters["log.dropped"],
        wakes=wakes,
    )
