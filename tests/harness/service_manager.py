"""A service manager, as systemd: the sockets that it hands over, and the socket on which it is told of a server."""

from __future__ import annotations

import os
import socket
import sys
from typing import IO, Any

from tests.harness.waiting import DEADLINE

HAND_OVER = """
import fcntl, os, sys
given = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[2].split(",")]
for place, fd in enumerate(given):
    os.dup2(fd, 3 + place)
os.closerange(3 + len(given), 200)
whom = {"right": os.getpid(), "wrong": 1}[sys.argv[1]]
os.environ |= {"LISTEN_FDS": str(len(given)), "LISTEN_PID": str(whom)}
os.execv(sys.argv[3], sys.argv[3:])
"""


def handing_over(*given: IO[bytes] | socket.socket, names: str, whom: str = "right") -> dict[str, Any]:
    """Options to start a server with these as systemd gives sockets; whom: the "right" process or a "wrong" one."""
    fds = [each.fileno() for each in given]
    return {
        "before": (sys.executable, "-c", HAND_OVER, whom, ",".join(map(str, fds))),
        "pass_fds": fds,
        "env": os.environ | {"LISTEN_FDNAMES": names},
    }


class Manager:
    """The socket that a service manager listens on."""

    def __init__(self, address: str) -> None:
        self.environment = os.environ | {"NOTIFY_SOCKET": address.replace("\0", "@")}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(address)
        self._sock.settimeout(DEADLINE)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *failure: object) -> None:
        self._sock.close()

    def hear(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self._sock.recv(65536).decode().splitlines())

    def hear_of(self, name: str) -> dict[str, str]:
        """The next message that says something of it."""
        while name not in (said := self.hear()):
            pass
        return said
