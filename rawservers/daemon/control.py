"""Control of a running server from another process: `rawservers --reload PID`."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from pathlib import Path

from rawservers.daemon.scoreboard import NAME, SLOT_SIZE, Slot
from rawservers.daemon.startup import CannotStart, errors_as

BEGUN, RELOADS, FAILED = "server.reloads_begun", "server.reloads", "server.reloads_failed"  # counters of the supervisor
POLL_INTERVAL = 0.02  # seconds


def reload(pid: int, timeout: float = 90) -> None:
    """Reload the server whose supervisor has this process id, and wait for the result.

    timeout: in seconds. Raises CannotStart if there is no such server, or if its reload has failed; its log has the reason.
    """
    with errors_as(CannotStart, f"cannot reload process {pid}: "):
        os.kill(pid, 0)
        slot = supervisor_slot(pid)
        before = slot.read().counters
        os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + timeout
        while (now := slot.read().counters)[RELOADS] + now[FAILED] <= before[BEGUN]:
            if time.monotonic() > deadline:
                raise CannotStart(f"process {pid} has not reloaded within {timeout} seconds")
            time.sleep(POLL_INTERVAL)
            os.kill(pid, 0)
    if now[FAILED] > before[FAILED]:
        raise CannotStart(f"process {pid} has rejected the new configuration; see its log")


def supervisor_slot(pid: int) -> Slot:
    """Slot 0 of the scoreboard of the supervisor with this process id, through /proc. Raises OSError."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(status.partition("NSpid:")[2].splitlines()[0].split()[-1])  # its process id inside its own PID namespace
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError, ValueError):  # closed meanwhile; too small for a scoreboard
            if os.readlink(entry).startswith(f"/memfd:{NAME}"):
                with entry.open("rb") as file:
                    slot = Slot(mmap.mmap(file.fileno(), SLOT_SIZE, access=mmap.ACCESS_READ), 0)
                if slot.heartbeat[0] == own:  # else a worker, which has the memory of its supervisor
                    return slot
    raise ProcessLookupError("not a rawservers supervisor")
