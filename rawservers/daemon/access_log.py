"""One line per answer, gathered, and written once per wake of the loop.

The servers never wait for their log. A pipe or a terminal is opened anew in non-blocking mode (not switched to it: the
shell holds the same one, and would be surprised); what its reader does not take is kept up to a bound, then dropped in
whole lines, and how many were dropped is said as soon as there is room.

There are two formats. "combined" is Apache's and nginx's, with the seconds from the request's first byte to the answer's last
behind it; "json" is an object a line. The peer's bytes are escaped, so that an answer is always one line of printable ASCII,
and cut, so that it stays a short one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from rawservers.core.protocol import Clock, Peer
from rawservers.http.response import Record

log = logging.getLogger("rawservers")

KEPT = 1 << 20  # bytes that wait for a reader, at the most; a pipe itself holds 64 KiB more
FIELD = 2048  # characters of one field, at the most
UNPRINTABLE = re.compile(r"[^ !#-\[\]-~]")  # and the two that would end the field or begin an escape


class AccessLog:
    """target: a file's path, "-" for standard output, or "off"; style: one of FORMATS. OSError if the file cannot be opened."""

    def __init__(self, target: str, style: str, clock: Clock) -> None:
        self._format = FORMATS[style]
        self._clock = clock
        self._fd = open_target(target)
        self._lines: list[str] = []
        self._kept: deque[bytes] = deque()  # blocks of lines, of the first of which a part may have been written
        self._size = 0  # bytes in them
        self._dropped = 0
        self._second = -1
        self._time = ""

    def answered(self, peer: Peer, record: object, sent: int, seconds: float) -> None:
        """Note one answer: `sent` of its bytes have left, the last of them after `seconds`."""
        if self._fd < 0 or not isinstance(record, Record):
            return
        size = sent - record.head
        if size == record.size and not seconds:  # the usual case, of which the text is made once
            text = record.text = record.text or self._format.text(record, size, 0.0)
        else:
            text = self._format.text(record, max(0, size), seconds)
        if not self._lines:
            self._set_time()
        self._lines.append(f"{self._format.before}{escaped(peer.address[0])}{self._format.between}{self._time}{text}")

    def flush(self) -> None:
        """Write what was noted in this wake, behind what was not taken in earlier ones."""
        if self._lines:
            self._keep("".join(self._lines).encode("ascii", "backslashreplace"))
            self._lines.clear()
        while self._kept:
            try:
                written = os.write(self._fd, self._kept[0])
            except BlockingIOError:
                return
            except OSError:  # the reader is gone, the disk is full: the servers go on
                written = len(self._kept[0])
                self._dropped += self._kept[0].count(b"\n")
            self._size -= written
            rest = self._kept.popleft()[written:]
            if rest:
                self._kept.appendleft(rest)
        if self._dropped:
            log.warning("the access log was not taken: %d lines dropped", self._dropped)
            self._dropped = 0

    def close(self) -> None:
        """Write what is left, as far as that goes, and close."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _keep(self, block: bytes) -> None:
        """Have whole lines wait for their turn; or drop them, when too many wait already."""
        if self._size + len(block) > KEPT:
            self._dropped += block.count(b"\n")
        else:
            self._kept.append(block)
            self._size += len(block)

    def _set_time(self) -> None:
        second = int(self._clock.time)
        if second != self._second:
            self._second = second
            self._time = time.strftime(self._format.time, time.localtime(second))


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


def combined(record: Record, size: int, seconds: float) -> str:
    """The part of a line that does not depend on the peer and the time of day."""
    line = escaped(record.line)
    return f'"{line}" {record.status} {size} "{escaped(record.referer)}" "{escaped(record.agent)}" {seconds:.3f}\n'


def as_json(record: Record, size: int, seconds: float) -> str:
    """The same, for an object that has begun already."""
    told = {
        "request": record.line[:FIELD],
        "status": record.status,
        "bytes": size,
        "seconds": round(seconds, 3),
        "referer": record.referer[:FIELD],
        "agent": record.agent[:FIELD],
    }
    return json.dumps(told)[1:] + "\n"


def escaped(text: str) -> str:
    """A field as printable ASCII, other bytes as \\xHH; "-" for an empty one."""
    text = UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text[:FIELD])
    return text or "-"


class Format(NamedTuple):
    """A line is `before`, the peer's host, `between`, the time of day by `time`, and what `text` makes of the rest."""

    before: str
    between: str
    time: str
    text: Callable[[Record, int, float], str]


FORMATS = {
    "combined": Format("", " - - ", "[%d/%b/%Y:%H:%M:%S %z] ", combined),
    "json": Format('{"peer": "', '", "time": ', '"%Y-%m-%dT%H:%M:%S%z", ', as_json),
}
