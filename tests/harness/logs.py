"""What logs are written to: pipes, sockets and terminals, with a reader that reads when it is told to."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import tty
from pathlib import Path


def drain(fd: int) -> bytes:
    """All that can be read at once."""
    taken = b""
    with contextlib.suppress(OSError):  # EIO from a terminal that nobody else has open
        while select.select([fd], [], [], 0)[0] and (more := os.read(fd, 1 << 20)):
            taken += more
    return taken


def pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    return reader, writer


def connection() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def terminal() -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave


def own_terminal() -> tuple[int, int]:
    master, slave = terminal()
    os.set_blocking(slave, False)
    return master, slave


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
