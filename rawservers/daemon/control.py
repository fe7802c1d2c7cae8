"""Control of a running server from another process: `rawservers --reload PID`, `rawservers --status`.

It is found, and read, by way of the scoreboard: shared memory that the supervisor has open, which /proc shows to processes of
the same user, and to root. So a server needs neither a file nor a listener for this.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import time
from pathlib import Path

from rawservers.daemon.scoreboard import NAME, SLOT_SIZE, SLOTS, Scoreboard, Slot, make_status
from rawservers.daemon.startup import CannotStart, errors_as
from rawservers.status import Status

BEGUN, RELOADS, FAILED = "server.reloads_begun", "server.reloads", "server.reloads_failed"  # counters of the supervisor
POLL_INTERVAL = 0.02  # seconds
MAX_COMMAND = 200  # characters of a command line that is shown


def reload(pid: int, timeout: float = 90) -> None:
    """Reload the server whose supervisor has this process id, and wait for the result.

    timeout: in seconds. Raises CannotStart if there is no such server, or if its reload has failed; its log has the reason.
    """
    with errors_as(CannotStart, f"cannot reload process {pid}: "):
        os.kill(pid, 0)
        slot = supervisor_slot(pid)
        deadline = time.monotonic() + timeout
        before = slot.read().counters
        while before[RELOADS] + before[FAILED] < before[BEGUN] and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)  # another one is under way, and may fail
            os.kill(pid, 0)
            before = slot.read().counters
        os.kill(pid, signal.SIGHUP)
        while (now := slot.read().counters)[RELOADS] + now[FAILED] <= before[BEGUN]:
            if time.monotonic() > deadline:
                raise CannotStart(f"process {pid} has not reloaded within {timeout} seconds")
            time.sleep(POLL_INTERVAL)
            os.kill(pid, 0)
    if now[FAILED] > before[FAILED]:
        raise CannotStart(f"process {pid} has rejected the new configuration; see its log")


def find_servers() -> list[int]:
    """The process ids of the supervisors that run as the user of this process."""
    found = []
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        with contextlib.suppress(OSError):  # it has exited, or may not be looked into
            if Path(f"/proc/{pid}").stat().st_uid == os.geteuid():
                supervisor_slot(pid)
                found.append(pid)
    return sorted(found)


def command_line(pid: int) -> str:
    """The command line of a process, on one line; "" if it has exited."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        return "".join(letter if letter.isprintable() else "?" for letter in " ".join(words))[:MAX_COMMAND]
    return ""


def read_status(pid: int) -> Status:
    """The status of the server whose supervisor has this process id. Raises OSError if there is none."""
    return make_status(Scoreboard.of(scoreboard_memory(pid)).total(), time.time())


def supervisor_slot(pid: int) -> Slot:
    """Slot 0 of the scoreboard of the supervisor with this process id. Raises OSError."""
    return Slot(scoreboard_memory(pid), 0)


def scoreboard_memory(pid: int) -> mmap.mmap:
    """The scoreboard of the supervisor with this process id, through /proc. Raises OSError."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    own = int(status.partition("NSpid:")[2].splitlines()[0].split()[-1])  # its process id inside its own PID namespace
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError, ValueError):  # closed meanwhile; too small for a scoreboard
            if os.readlink(entry).startswith(f"/memfd:{NAME}"):
                with entry.open("rb") as file:
                    memory = mmap.mmap(file.fileno(), SLOT_SIZE * SLOTS, access=mmap.ACCESS_READ)
                if Slot(memory, 0).heartbeat[0] == own:  # else a worker, which has the memory of its supervisor
                    return memory
    raise ProcessLookupError("not a rawservers supervisor")
