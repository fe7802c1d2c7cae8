"""What a process and all its descendants take, as /proc tells it: a server may well be a supervisor and its workers."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds; the resolution of a process's times
DESCRIPTORS = 65536  # for ten thousand connections or files, and then some


class Memory(NamedTuple):
    """Bytes. pss: shared pages are divided by those who share them; rss: each process counts them in full."""

    pss: int
    rss: int


def tree(pid: int) -> Iterator[int]:
    """The process `pid` and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from tree(int(child))


def cpu_seconds(pid: int) -> float:
    """Of the processor, in user and system mode, by the tree of `pid` so far."""
    ticks = 0
    for process in tree(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * TICK


def memory(pid: int) -> Memory:
    """Resident, of the tree of `pid`."""
    rollups = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in tree(pid)]
    return Memory(*(sum(kilobytes(field, rollup) for rollup in rollups) << 10 for field in ("Pss", "Rss")))


def resident(pid: int) -> int:
    """Bytes of memory of this process alone; 0 if it has ended."""
    with contextlib.suppress(OSError, AssertionError):
        return kilobytes("VmRSS", Path(f"/proc/{pid}/status").read_text()) << 10
    return 0


def sockets(pid: int) -> int:
    """The number of sockets that this process has open."""
    count = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                count += os.readlink(entry.path).startswith("socket:")
    return count


def kilobytes(field: str, text: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert match, text
    return int(match[1])


def raise_descriptor_limit() -> None:
    """For this process and all that it starts; as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        return resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, max(hard, DESCRIPTORS)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
