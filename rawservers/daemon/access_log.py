"""One line per answer, gathered, and written once per wake of the loop.

The servers never wait for their log. A pipe or a terminal is opened anew in non-blocking mode (not switched to it: the
shell holds the same one, and would be surprised); what its reader does not take is kept up to a bound, then dropped in
whole lines, and how many were dropped is said as soon as there is room.

The format is Apache's and nginx's "combined". The peer's bytes are escaped, so that an answer is always one line of
printable ASCII, and cut, so that it stays a short one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import time

from rawservers.core.protocol import Clock, Peer
from rawservers.http.response import Record

log = logging.getLogger("rawservers")

KEPT = 1 << 20  # bytes that wait for a reader, at the most; a pipe itself holds 64 KiB more
FIELD = 2048  # characters of one field, at the most
UNPRINTABLE = re.compile(r"[^ !#-\[\]-~]")  # and the two that would end the field or begin an escape


class AccessLog:
    """target: a file's path, "-" for standard output, or "off". OSError if the file cannot be opened."""

    def __init__(self, target: str, clock: Clock) -> None:
        self._clock = clock
        self._fd = open_target(target)
        self._lines: list[str] = []
        self._kept = b""
        self._dropped = 0
        self._second = -1
        self._time = ""

    def answered(self, peer: Peer, record: object, sent: int, seconds: float) -> None:
        """Note one answer: `sent` of its bytes have left, the last of them after `seconds`."""
        if self._fd < 0 or not isinstance(record, Record):
            return
        size = sent - record.head
        if size != record.size:
            text = combined(record, max(0, size))
        elif record.text:
            text = record.text
        else:
            text = record.text = combined(record, size)
        if not self._lines:
            self._set_time()
        self._lines.append(f"{peer.address[0]} - - {self._time}{text}")

    def flush(self) -> None:
        """Write what was noted in this wake."""
        if not self._lines and not self._kept:
            return
        data = self._kept + "".join(self._lines).encode()
        self._lines.clear()
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            written = 0
        except OSError:  # the reader is gone, the disk is full: the servers go on
            self._drop(data)
            data = b""
            written = 0
        self._kept = data[written:]
        if len(self._kept) > KEPT:
            end = self._kept.rindex(b"\n", 0, KEPT) + 1
            self._drop(self._kept[end:])
            self._kept = self._kept[:end]
        elif self._dropped and not self._kept:
            log.warning("the access log was not taken: %d lines dropped", self._dropped)
            self._dropped = 0

    def close(self) -> None:
        """Write what is left, as far as that goes, and close."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _drop(self, data: bytes) -> None:
        self._dropped += data.count(b"\n")

    def _set_time(self) -> None:
        second = int(self._clock.time)
        if second != self._second:
            self._second = second
            self._time = time.strftime("[%d/%b/%Y:%H:%M:%S %z] ", time.localtime(second))


def open_target(target: str) -> int:
    """A descriptor to write the log to, -1 for none."""
    if target == "off":
        return -1
    if target != "-":
        return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
    try:
        mode = os.fstat(1).st_mode
    except OSError:
        return -1  # started with standard output closed
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):  # somebody else's terminal, say
            return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return os.dup(1)


def combined(record: Record, size: int) -> str:
    """The part of a line that does not depend on the peer and the time."""
    line = escaped(record.line)
    return f'"{line}" {record.status} {size} "{escaped(record.referer)}" "{escaped(record.agent)}"\n'


def escaped(text: str) -> str:
    """A field as printable ASCII, other bytes as \\xHH; "-" for an empty one."""
    text = UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text[:FIELD])
    return text or "-"
