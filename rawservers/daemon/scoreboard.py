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

import json
import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, replace

from rawservers import __version__
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

MAX_READS = 100  # of a buffer that is written again and again


@dataclass(slots=True)
class Metrics:
    """Metrics by name, such as "http.accepted". counters: since the start; gauges: current numbers; maxima: since the start."""

    counters: Counter[str] = field(default_factory=Counter)
    gauges: Counter[str] = field(default_factory=Counter)
    maxima: Counter[str] = field(default_factory=Counter)

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
        text = json.dumps([metrics.counters, metrics.gauges, metrics.maxima]).encode()
        sequence = self.sequence + 1
        store(self._memory, self._buffer(sequence), INTEGER.pack(len(text)) + text)
        store(self._memory, self._start + SEQUENCE_OFFSET, INTEGER.pack(sequence))

    def read(self) -> Metrics:
        """The metrics written last; empty ones if each of MAX_READS was interrupted by a write."""
        for _ in range(MAX_READS):
            sequence = self.sequence
            buffer = self._buffer(sequence)
            (length,) = INTEGER.unpack_from(self._memory, buffer)
            buffer += INTEGER.size
            text = self._memory[buffer : buffer + length]
            if sequence == self.sequence:
                return Metrics(*map(Counter, json.loads(text or "[{}, {}, {}]")))
        return Metrics()

    @property
    def sequence(self) -> int:
        """The number of writes so far."""
        (sequence,) = INTEGER.unpack_from(self._memory, self._start + SEQUENCE_OFFSET)
        return int(sequence)

    def _buffer(self, sequence: int) -> int:
        """The offset of the buffer that this write uses."""
        return self._start + BUFFERS_OFFSET + sequence % 2 * BUFFER_SIZE


class Scoreboard:
    """All slots. Created by the supervisor, inherited by its workers."""

    def __init__(self, started: float) -> None:
        fd = os.memfd_create(NAME)
        os.ftruncate(fd, SLOT_SIZE * SLOTS)
        self._memory = mmap.mmap(fd, SLOT_SIZE * SLOTS)  # duplicates the descriptor
        os.close(fd)
        self._merged = self._slot(0)
        self._merged.write(Metrics())
        self.server_info = ServerInfo(os.getpid(), started)

    def _slot(self, number: int) -> Slot:
        return Slot(self._memory, number)

    def allocate(self) -> Slot:
        """A free slot. There are always enough."""
        used = self.server_info.slots
        number = next(number for number in range(1, SLOTS) if number >= used or not self._slot(number).heartbeat[0])
        self.server_info = replace(self.server_info, slots=max(used, number + 1))
        return self._slot(number)

    def release(self, slot: Slot) -> None:
        """Merge the counters of a worker that has exited into slot 0, and free its slot."""
        merged = self._merged.read()
        metrics = slot.read()
        merged.counters.update(metrics.counters)
        merged.maxima |= metrics.maxima
        merged.gauges = Counter({"merged_pid": slot.heartbeat[0]})  # readers skip its slot until it is free
        self._merged.write(merged)
        slot.assign(0, 0.0)

    def slots(self) -> Iterator[Slot]:
        """The slots of all workers."""
        return (slot for slot in map(self._slot, range(1, self.server_info.slots)) if slot.heartbeat[0])

    def total(self) -> Metrics:
        """The sum over all workers, present and former."""
        for _ in range(MAX_READS):
            sequence = self._merged.sequence
            total = self._merged.read()
            merged_pid = total.gauges.pop("merged_pid", 0)
            for slot in self.slots():
                if slot.heartbeat[0] != merged_pid:
                    total.add(slot.read())
            if sequence == self._merged.sequence:  # else a worker was merged meanwhile
                break
        return total

    @property
    def server_info(self) -> ServerInfo:
        return ServerInfo(*SERVER_INFO.unpack_from(self._memory, 0))

    @server_info.setter
    def server_info(self, info: ServerInfo) -> None:
        store(self._memory, 0, SERVER_INFO.pack(*astuple(info)))

    def close(self) -> None:
        self._memory.close()


def store(memory: mmap.mmap, offset: int, data: bytes) -> None:
    """Copy `data`; a concurrent reader sees each aligned number old or new, never torn. (pack_into() writes zeros first.)"""
    memory[offset : offset + len(data)] = data


def make_status(metrics: Metrics, info: ServerInfo, workers: int, now: float) -> Status:
    """The status from total metrics. now: seconds since 1970."""
    counters: dict[str, dict[str, int]] = {}
    for key, number in metrics.counters.items():
        service, _, name = key.partition(".")
        counters.setdefault(service, {})[name] = number
    log = counters.pop("log", {})
    wakes = {clock: make_histogram(clock, counters.get("wakes", {}), metrics.maxima) for clock in WAKE_CLOCKS}
    counters.pop("wakes", None)
    connections = {service: {state: metrics.gauges[f"{service}.{state}"] for state in STATES} for service in counters}
    return Status(
        __version__,
        round(max(0.0, now - info.started), 3),
        workers,
        info.reloads,
        info.reloads_failed,
        connections,
        counters,
        log.get("dropped", 0),
        wakes,
    )


def make_histogram(clock: str, counters: dict[str, int], maxima: dict[str, int]) -> WakeHistogram:
    """The histogram by this clock, from total metrics."""
    counts = {name.partition(" ")[2]: number for name, number in counters.items() if name.startswith(f"{clock} ")}
    return WakeHistogram(counts, counts.pop("us", 0) / 1e6, maxima.get(f"{clock} us", 0) / 1e6)
