"""Control of a running server from another process: `rawservers --reload PID`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from rawservers.core.errors import os_error_text
from rawservers.daemon.scoreboard import NAME, SERVER_INFO, ServerInfo, parse_server_info
from rawservers.daemon.startup import CannotStart

POLL_INTERVAL = 0.02  # seconds


def reload(pid: int, timeout: float = 90) -> None:
    """Reload the server whose supervisor has this process id, and wait for the result.

    timeout: in seconds. Raises CannotStart if there is no such server, or if its reload has failed; its log has the reason.
    """
    try:
        os.kill(pid, 0)
        before = read_server_info(pid)
        os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + timeout
        while (now := read_server_info(pid)).reloads + now.reloads_failed <= before.reloads_begun:
            if time.monotonic() > deadline:
                raise CannotStart(f"process {pid} has not reloaded within {timeout} seconds")
            time.sleep(POLL_INTERVAL)
    except OSError as error:
        raise CannotStart(f"cannot reload process {pid}: {os_error_text(error)}") from error
    if now.reloads_failed > before.reloads_failed:
        raise CannotStart(f"process {pid} has rejected the new configuration; see its log")


def read_server_info(pid: int) -> ServerInfo:
    """The ServerInfo of the supervisor with this process id, read through /proc. Raises OSError."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(entry).startswith(f"/memfd:{NAME}"):
                with entry.open("rb") as file:
                    info = parse_server_info(file.read(SERVER_INFO.size))
                if info and info.pid == pid_in_namespace(pid):  # else a worker, which has the memory of its supervisor
                    return info
        except FileNotFoundError:  # closed meanwhile
            continue
    raise ProcessLookupError("not a rawservers supervisor")


def pid_in_namespace(pid: int) -> int:
    """The process id of `pid` inside its own PID namespace."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))
