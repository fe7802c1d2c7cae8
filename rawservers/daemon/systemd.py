"""The interface to systemd: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

Only this file reads those environment variables. It removes them at once, so that child processes do not take them for their
own. Without systemd there are no inherited sockets, and notifications are not sent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import defaultdict
from collections.abc import Collection

log = logging.getLogger("rawservers")

FIRST_FD = 3  # SD_LISTEN_FDS_START
SEND_TIMEOUT = 0.5  # seconds: systemd may be busy, and READY=1 must not be lost


def listen_fds(services: Collection[str]) -> dict[str, list[int]]:
    """Descriptors of listening sockets inherited from systemd, by service.

    FileDescriptorName= of each is one of `services`, or a unit name that contains it: rawservers-http.socket. Raises ValueError
    for any other name.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    found: dict[str, list[int]] = defaultdict(list)
    if not count.isdecimal() or pid != str(os.getpid()):
        return found
    given = dict(enumerate(names.split(":"), FIRST_FD))
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        name = given.get(fd, "")
        service = name.removeprefix("rawservers-").removesuffix(".socket")
        if service not in services:
            raise ValueError(f"socket {name!r} from systemd: its FileDescriptorName= is none of {', '.join(services)}")
        found[service].append(fd)
    return found


class Notifier:
    """Notifications to the service manager. watchdog_time: WatchdogSec= in seconds, 0.0 if the watchdog is off; unsent: the
    last message had READY=1, and could not be sent: without it, a start or a reload never ends for the service manager."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        self._has_warned = False  # that the service manager cannot be notified
        self.unsent = False
        microseconds, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        enabled = pid in {"", str(os.getpid())} and microseconds.isdecimal()
        self.watchdog_time = int(microseconds) / 1e6 if enabled else 0.0

    def send(self, *lines: str) -> None:
        """Send NAME=VALUE lines, such as READY=1 or STATUS=text. A failure is logged once, until a send succeeds again."""
        if not self._address:
            return
        self.unsent = "READY=1" in lines
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_TIMEOUT)
                sock.sendto("\n".join(lines).encode(), address)
        except TimeoutError:
            return
        except OSError as error:  # keep trying: a service manager that is back expects watchdog messages
            if not self._has_warned:
                log.warning("cannot notify the service manager at %s: %s", self._address, error.strerror)
            self._has_warned = True
        else:
            self._has_warned = self.unsent = False
