"""Processes as /proc shows them: their children, states, descriptors and memory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.process import kilobytes
from tests.harness.waiting import until


def children(pid: int) -> list[int]:
    """The process ids of the children of this one, oldest first; of one that has ended, none."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def state(pid: int) -> str:
    """Its letter in proc(5): R, S, T for a stopped one; "" and Z are those that have ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def has_ended(pid: int) -> bool:
    return state(pid) in {"", "Z"}


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """They do nothing meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(state(pid) == "T" for pid in pids), "they have stopped")
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def opened(pid: int) -> dict[int, str]:
    """What is open there, by descriptor."""
    found = {}
    with contextlib.suppress(FileNotFoundError, PermissionError):  # it has ended, or is about to: then this is root's
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def kinds(pid: int) -> Counter[str]:
    """The same without what differs from one process to the next."""
    return Counter(re.sub(r":\[\d+\]$", "", what) for what in opened(pid).values())


def memory(pid: int, field: str = "VmRSS") -> int:
    """Bytes of memory: VmRSS now, VmHWM at its peak."""
    return kilobytes(field, Path(f"/proc/{pid}/status").read_text()) << 10
