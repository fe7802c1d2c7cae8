"""The client's side of `rawservers --reload PID`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from rawservers.core.errors import os_error_text
from rawservers.daemon.scoreboard import HISTORY, NAME, History
from rawservers.daemon.startup import CannotStart


def reload(pid: int, patience: float = 90) -> None:
    """Have the supervisor with this process id reload, and wait until it has. CannotStart if it has not, as its log says."""
    try:
        os.kill(pid, 0)
        before = history_of(pid)
        os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + patience
        while (now := history_of(pid)).reloads + now.failed <= before.begun:
            if time.monotonic() > deadline:
                raise CannotStart(f"process {pid} has not reloaded within {patience} seconds")
            time.sleep(0.02)
    except OSError as error:
        raise CannotStart(f"cannot have process {pid} reload: {os_error_text(error)}") from error
    if now.failed > before.failed:
        raise CannotStart(f"process {pid} has not taken the new configuration; its log says why")


def history_of(pid: int) -> History:
    """What the supervisor with this process id has noted. OSError if there is none, or if it may not be looked at."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(entry).startswith(f"/memfd:{NAME}"):
                with entry.open("rb") as file:
                    history = History(*HISTORY.unpack(file.read(HISTORY.size)))
                if history.pid == own_pid(pid):
                    return history
        except FileNotFoundError:  # closed meanwhile
            continue
    raise ProcessLookupError("it is no supervisor of rawservers")


def own_pid(pid: int) -> int:
    """What process `pid` takes for its process id, which may be in a namespace of its own."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))
