"""One line per answer, gathered, and written once per wake of the loop.

The servers never wait for their log: what its reader does not take is kept up to a bound, then dropped in whole lines (see
`outlet`). How many were dropped is said on the error log. The access log itself holds nothing but answers: those who read it
are programs, which know one kind of line.

There are two formats. "combined" is Apache's and nginx's, with the seconds from the request's first byte to the answer's last
behind it; "json" is an object a line. The peer's bytes are escaped, so that an answer is always one line of printable ASCII,
and cut, so that a line is never longer than a pipe takes in one piece: whatever other processes write there, lines stay whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

from rawservers.core.peer import Clock, Peer
from rawservers.http.response import AccessRecord
from rawservers.logs.sink import Outlet, open_anew

log = logging.getLogger("rawservers")

# The longest fields, in characters after escaping: with the others, 200 of them at the most, a line has less than BLOCK.
REQUEST = 2048
FIELD = 768
HOST = 256

UNPRINTABLE = re.compile(r"[^ !#-\[\]-~]")  # and the two that would end the field or begin an escape
WHOLE = re.compile(r'(?:[^\\]|\\["\\bfnrt]|\\x..|\\u....)*')  # without an escape that was cut


NONE = object()  # no record


class AccessLog:
    """fd: where to write, taken over, -1 for nowhere; style: one of FORMATS. dropped: how many lines are lost."""

    def __init__(self, fd: int, style: str, clock: Clock) -> None:
        self._format = FORMATS[style]
        self._clock = clock
        self._off = fd < 0
        self._outlet = Outlet(fd)
        self._gathered: list[str] = []
        self._second = -1
        self._time = ""
        self._record: object = NONE  # of the last line
        self._line = ""
        self._sent = 0
        self._set_host("")

    @property
    def dropped(self) -> int:
        return self._outlet.dropped

    def answered(self, peer: Peer, record: object, sent: int, seconds: float) -> None:
        """Note one answer: `sent` of its bytes have left, the last of them after `seconds`."""
        if record is self._record and sent == self._sent and peer.address[0] == self._host and not seconds:
            return self._gathered.append(self._line)  # what one client asks for again and again
        if self._off or type(record) is not AccessRecord:
            return
        if not self._gathered:
            self._set_time()
        host = peer.address[0]
        if host != self._host:  # answers to one peer often come in a row
            self._set_host(host)
        size = sent - record.head_size
        if size == record.body_size and not seconds:  # the usual case, of which the text is made once
            text = record.text = record.text or self._format.text(record, size, 0.0)
        else:
            text = self._format.text(record, max(0, size), seconds)
        self._line = f"{self._start}{self._time}{text}"
        self._gathered.append(self._line)
        self._record = NONE if seconds else record
        self._sent = sent

    def flush(self) -> None:
        """Write what was noted in this wake, behind what was not taken in earlier ones. Once a second, say what is lost."""
        outlet = self._outlet
        if self._gathered or outlet.kept:
            lines = "".join(self._gathered).encode("ascii", "backslashreplace")
            self._gathered.clear()
            self._record = NONE  # the time of day may be another in the next wake
            outlet.write(lines)
        if outlet.dropped:
            self._say(outlet.loss(self._clock.now))

    def reopen(self, fd: int) -> None:
        """Go on with another descriptor. Lines that the old one does not take go to the new one, whole."""
        self.flush()
        self._off = fd < 0
        self._outlet.move(fd)

    def close(self) -> None:
        """Write what is left, for at most a second while nobody takes it, and close."""
        self.flush()
        self._outlet.close()
        self._off = True
        self._say(self._outlet.loss(float("inf")))

    def _say(self, lost: int) -> None:
        if lost:
            log.warning("the access log was not taken: %d lines dropped (%s)", lost, self._outlet.why)

    def _set_host(self, host: str) -> None:
        self._host = host
        if not host.isascii():  # a unix socket's path
            host = os.fsencode(host).decode("latin-1")
        self._start = f"{self._format.before}{self._format.field(host)}{self._format.between}"

    def _set_time(self) -> None:
        second = int(self._clock.time)
        if second != self._second:
            self._second = second
            self._time = time.strftime(self._format.time, time.localtime(second))


def open_target(target: str) -> int:
    """A descriptor to write the log to: a file's path, "-" for standard output, or "off" for none, which is -1.

    OSError if the file cannot be opened. Standard output that is closed is none, too.
    """
    if target == "off":
        return -1
    if target == "-":
        return open_anew(1)
    flags = os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if os.path.isfile(target) or not os.path.exists(target):
        with contextlib.suppress(PermissionError):
            return os.open(target, flags | os.O_RDWR, 0o640)  # what it ends with is of interest when its disk was full
    return os.open(target, flags | os.O_WRONLY, 0o640)


def rotated(fd: int, target: str) -> bool:
    """Whether `target`, opened as `fd`, names another file by now, or none. False if that cannot be known."""
    if fd < 0 or target in ("-", "off"):
        return False
    try:
        return not os.path.samestat(os.stat(target), os.fstat(fd))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def combined(record: AccessRecord, size: int, seconds: float) -> str:
    """The part of a line that does not depend on the peer and the time of day."""
    line, referer, agent = escaped(record.line, REQUEST), escaped(record.referer, FIELD), escaped(record.agent, FIELD)
    return f'"{line}" {record.status} {size} "{referer}" "{agent}" {seconds:.3f}\n'


def as_json(record: AccessRecord, size: int, seconds: float) -> str:
    """The same, for an object that has begun already."""
    line, referer, agent = quoted(record.line, REQUEST), quoted(record.referer, FIELD), quoted(record.agent, FIELD)
    return (
        f'"request": {line}, "status": {record.status}, "bytes": {size}, "seconds": {seconds:.3f}, '
        f'"referer": {referer}, "agent": {agent}}}\n'
    )


def escaped(text: str, limit: int = HOST) -> str:
    """A field as printable ASCII of at most `limit` characters, other bytes as \\xHH; "-" for an empty one."""
    text = UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text[:limit])
    return cut(text, limit) if len(text) > limit else text or "-"


def quoted(text: str, limit: int = HOST) -> str:
    """A field as a JSON string of printable ASCII, of at most `limit` characters between its quotes."""
    text = encode_basestring_ascii(text[:limit])
    return f'"{cut(text[1:-1], limit)}"' if len(text) > limit + 2 else text


def cut(text: str, limit: int) -> str:
    """The beginning of an escaped text, up to an escape that does not fit."""
    match = WHOLE.match(text, 0, limit)
    return match[0] if match else ""


class Format(NamedTuple):
    """A line: `before`, the peer's host as `field`, `between`, the time of day by `time`, and what `text` makes of the rest."""

    before: str
    field: Callable[[str], str]
    between: str
    time: str
    text: Callable[[AccessRecord, int, float], str]


FORMATS = {
    "combined": Format("", escaped, " - - ", "[%d/%b/%Y:%H:%M:%S %z] ", combined),
    "json": Format('{"peer": ', quoted, ', "time": ', '"%Y-%m-%dT%H:%M:%S%z", ', as_json),
}
