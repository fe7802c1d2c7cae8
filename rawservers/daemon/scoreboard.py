"""The scoreboard: metrics and heartbeats of all workers, in memory that all processes of the server share.

The supervisor creates it before it forks. Each worker has a slot, and writes its metrics and a heartbeat there once a second.
The supervisor reads the heartbeats; the worker that answers a status request reads the metrics of all.

There are no locks, since a process may be killed while it holds one. Each slot has one writer and two buffers: the writer fills
the older buffer, then increments the sequence number, which selects the current one. A reader that finds the sequence number
changed reads again.

When a worker exits, its counters are merged into slot 0, so that totals never decrease. The memory is a memfd: `rawservers
--reload`, another process of the same user, reads it through /proc.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import mmap
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, replace

from rawservers import __version__
from rawservers.core.wakes import BOUNDS
from rawservers.status import STATES, WAKE_CLOCKS, Status, WakeHistogram

NAME = "rawservers-scoreboard"
SLOT_SIZE = 16384  # bytes
SLOTS = 2049  # slot 0, and two for each of the 1024 workers that may be configured; unused ones take no memory

# A slot: a heartbeat, or a ServerInfo in slot 0; the sequence number; two buffers, each a length and that much JSON.
HEARTBEAT = struct.Struct("qd")  # process id, 0 in a free slot; monotonic time of the last write
SERVER_INFO = struct.Struct("qdqqqq")
INTEGER = struct.Struct("q")
SEQUENCE_OFFSET = SERVER_INFO.size
BUFFERS_OFFSET = SEQUENCE_OFFSET + INTEGER.size
BUFFER_SIZE = (SLOT_SIZE - BUFFERS_OFFSET) // 2 // 8 * 8
MAX_TEXT = BUFFER_SIZE - INTEGER.size

MAX_NUMBER = 1 << 63  # of a counter
METRIC_NAME = re.compile(r"[\w .-]+")  # harmless in all formats of the status
MAX_READS = 100  # of a buffer that is written again and again


@dataclass(slots=True)
class Metrics:
    """Metrics by name, such as "http.accepted". counters: since the start; gauges: current numbers; maxima: since the start."""

    counters: Counter[str] = field(default_factory=Counter)
    gauges: Counter[str] = field(default_factory=Counter)
    maxima: Counter[str] = field(default_factory=Counter)

    def dump(self) -> bytes:
        return json.dumps([self.counters, self.gauges, self.maxima]).encode()

    def add(self, other: Metrics) -> None:
        self.counters.update(other.counters)
        self.gauges.update(other.gauges)
        self.maxima |= other.maxima


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """pid: of the supervisor; started: seconds since 1970; reloads_begun, reloads, reloads_failed: reloads that were begun,
    have succeeded, and have failed; slots: only slots below this number are in use."""

    pid: int
    started: float
    reloads_begun: int = 0
    reloads: int = 0
    reloads_failed: int = 0
    slots: int = 1


class Slot:
    """One worker's part of the scoreboard."""

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        self.number = number
        self._memory = memory
        self._start = number * SLOT_SIZE

    @property
    def heartbeat(self) -> tuple[int, float]:
        """Process id, 0 in a free slot, and monotonic time of the last write."""
        pid, time = HEARTBEAT.unpack_from(self._memory, self._start)
        return pid, time

    def assign(self, pid: int, time: float) -> None:
        """Clear the slot for this process, or free it with pid 0."""
        self.write(Metrics())
        self.write_heartbeat(pid, time)

    def write_heartbeat(self, pid: int, time: float) -> None:
        store(self._memory, self._start, HEARTBEAT.pack(pid, time))

    def write(self, metrics: Metrics) -> None:
        """Write these metrics, unless they do not fit."""
        text = metrics.dump()
        if len(text) <= MAX_TEXT:
            sequence = (self.sequence + 1) % MAX_NUMBER
            store(self._memory, self._buffer(sequence), INTEGER.pack(len(text)) + text)
            store(self._memory, self._start + SEQUENCE_OFFSET, INTEGER.pack(sequence))

    def read(self) -> Metrics:
        """The metrics written last; empty ones if they are malformed, or each of MAX_READS was interrupted by a write."""
        for _ in range(MAX_READS):
            sequence = self.sequence
            buffer = self._buffer(sequence)
            (length,) = INTEGER.unpack_from(self._memory, buffer)
            text = self._memory[buffer + INTEGER.size : buffer + INTEGER.size + min(max(0, length), MAX_TEXT)]
            if sequence == self.sequence:
                return parse_metrics(text)
        return Metrics()

    @property
    def sequence(self) -> int:
        """The number of writes so far."""
        return int(INTEGER.unpack_from(self._memory, self._start + SEQUENCE_OFFSET)[0])

    def _buffer(self, sequence: int) -> int:
        """The offset of the buffer that this write uses."""
        return self._start + BUFFERS_OFFSET + sequence % 2 * BUFFER_SIZE


class Scoreboard:
    """All slots. Created by the supervisor, inherited by its workers.

    info: the supervisor's own copy, as is what it has merged; from shared memory it reads neither.
    """

    def __init__(self, started: float) -> None:
        fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, SLOT_SIZE * SLOTS)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)  # reading beyond its end would be a SIGBUS
        self._memory = mmap.mmap(fd, SLOT_SIZE * SLOTS)  # duplicates the descriptor
        os.close(fd)
        self._used: set[int] = set()  # numbers of slots
        self._merged = Metrics()
        self.info = ServerInfo(os.getpid(), started)
        self.publish()

    def publish(self, **changes: int) -> None:
        """Change these fields of `info`, and write slot 0 anew, whatever another process has made of it."""
        self.info = replace(self.info, **changes)
        store(self._memory, 0, SERVER_INFO.pack(*astuple(self.info)))
        Slot(self._memory, 0).write(self._merged)

    def allocate(self) -> Slot:
        """A free slot. There are always enough."""
        number = next(number for number in range(1, SLOTS) if number not in self._used)
        self._used.add(number)
        self.publish(slots=max(self.info.slots, number + 1))
        return Slot(self._memory, number)

    def release(self, slot: Slot, pid: int) -> None:
        """Merge the counters of a worker that has exited, with this process id, into slot 0, and free its slot."""
        metrics = slot.read()
        merged = Metrics(self._merged.counters.copy(), Counter(merged_pid=pid), self._merged.maxima | metrics.maxima)
        merged.counters.update(metrics.counters)
        if parse_metrics(merged.dump()) == merged:  # else the worker has written too much
            self._merged = merged
        self.publish()
        slot.assign(0, 0.0)
        self._used.remove(slot.number)

    def slots(self) -> Iterator[Slot]:
        """The slots of all workers."""
        slots = (Slot(self._memory, number) for number in range(1, self.server_info.slots))
        return (slot for slot in slots if slot.heartbeat[0])

    def total(self) -> Metrics:
        """The sum over all workers, present and former."""
        merged = Slot(self._memory, 0)
        for _ in range(MAX_READS):
            sequence = merged.sequence
            total = merged.read()
            merged_pid = total.gauges.pop("merged_pid", 0)  # its slot is about to be freed
            for slot in self.slots():
                if slot.heartbeat[0] != merged_pid:
                    total.add(slot.read())
            if sequence == merged.sequence:  # else a worker was merged meanwhile
                break
        return total

    @property
    def server_info(self) -> ServerInfo:
        """As the supervisor has published it; as it was at the fork, if another process has overwritten it."""
        return parse_server_info(self._memory[: SERVER_INFO.size]) or self.info

    def close(self) -> None:
        self._memory.close()


def store(memory: mmap.mmap, offset: int, data: bytes) -> None:
    """Copy `data`; a concurrent reader sees each aligned number old or new, never torn. (pack_into() writes zeros first.)"""
    memory[offset : offset + len(data)] = data


# What is read may have been written by any worker, or by none


def parse_metrics(text: bytes) -> Metrics:
    """Metrics as `Metrics.dump` writes them; empty ones if `text` is anything else."""
    with contextlib.suppress(ValueError, RecursionError):
        tables = json.loads(text)
        counters, gauges, maxima = tables
        items = [*counters.items(), *gauges.items(), *maxima.items()]
        if len(text) <= MAX_TEXT and all(
            METRIC_NAME.fullmatch(name) and type(number) is int and 0 <= number < MAX_NUMBER for name, number in items
        ):
            return Metrics(Counter(counters), Counter(gauges), Counter(maxima))
    return Metrics()


def parse_server_info(data: bytes) -> ServerInfo | None:
    """What the supervisor has written; None if it is not."""
    if len(data) != SERVER_INFO.size:
        return None
    info = ServerInfo(*SERVER_INFO.unpack(data))
    counts = info.reloads_begun, info.reloads, info.reloads_failed
    valid = info.pid > 0 and 0 <= info.started < math.inf and min(counts) >= 0 and 0 < info.slots <= SLOTS
    return info if valid else None


def make_status(metrics: Metrics, info: ServerInfo, workers: int, now: float) -> Status:
    """The status from total metrics. now: seconds since 1970."""
    counters: dict[str, dict[str, int]] = {}
    for key, number in metrics.counters.items():
        service, _, name = key.partition(".")
        counters.setdefault(service, {})[name] = number
    log = counters.pop("log", {})
    wakes = counters.pop("wakes", {})
    return Status(
        version=__version__,
        uptime=round(max(0.0, now - info.started), 3),
        workers=workers,
        reloads=info.reloads,
        reloads_failed=info.reloads_failed,
        connections={name: {state: metrics.gauges[f"{name}.{state}"] for state in STATES} for name in counters},
        counters=counters,
        log_lines_dropped=log.get("dropped", 0),
        wakes={clock: make_histogram(clock, wakes, metrics.maxima) for clock in WAKE_CLOCKS},
    )


def make_histogram(clock: str, counters: dict[str, int], maxima: dict[str, int]) -> WakeHistogram:
    """The histogram by this clock, from total metrics."""
    counts = {f"{bound}": counters.get(f"{clock} {bound}", 0) for bound in (*BOUNDS, "more")}
    return WakeHistogram(counts, counters.get(f"{clock} us", 0) / 1e6, maxima.get(f"{clock} us", 0) / 1e6)
