"""What systemd hands over, and what it is told: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

The only reader of those variables. They are taken out of the environment at once, so that no child thinks they are meant for
it. Everything here works just as well without systemd: then nothing is inherited, and nobody is told.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import defaultdict
from collections.abc import Collection

log = logging.getLogger("rawservers")

FIRST_FD = 3  # SD_LISTEN_FDS_START


def inherited(services: Collection[str]) -> dict[str, list[int]]:
    """The descriptors of listening sockets that are meant for this process, by the service that each one's name names.

    A name is one of `services`, or a unit's that contains it: rawservers-http.socket. ValueError for any other.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    found: dict[str, list[int]] = defaultdict(list)
    if not count.isdecimal() or pid != str(os.getpid()):
        return found
    named = names.split(":")
    for place in range(int(count)):
        name = named[place] if place < len(named) else ""
        service = name.removeprefix("rawservers-").removesuffix(".socket")
        if service not in services:
            raise ValueError(f"socket {name!r} from systemd: its FileDescriptorName= is none of {', '.join(services)}")
        found[service].append(FIRST_FD + place)
    return found


class Notifier:
    """Tells the service manager how things stand. patience: seconds within which it wants to hear, 0.0 for no matter when."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        self._missed = False  # whether it was said that nobody listens
        microseconds, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        meant = pid in {"", str(os.getpid())} and microseconds.isdecimal()
        self.patience = int(microseconds) / 1e6 if meant else 0.0

    def tell(self, *lines: str) -> None:
        """NAME=VALUE lines, such as READY=1 or STATUS=text. That nobody listens is no reason to fail, or to say it twice."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.5)  # it may be busy; without it READY=1 might be lost
                sock.sendto("\n".join(lines).encode(), address)
        except TimeoutError:
            return
        except OSError as error:  # it may be back later, and would end a service that is silent
            if not self._missed:
                log.warning("cannot tell the service manager at %s: %s", self._address, error.strerror)
            self._missed = True
        else:
            self._missed = False

    def tell_reloading(self) -> None:
        """A reload has begun; READY=1 is to follow."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
