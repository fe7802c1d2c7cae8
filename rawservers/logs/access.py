"""The access log: one line per response, written once per wake of the event loop.

Logging never blocks the server: lines that the reader does not accept are buffered up to a limit, then dropped (see `sink`),
and the error log says how many. The access log itself contains nothing but responses, so that programs can parse it.

There are two formats. "combined" is that of Apache and nginx, plus the seconds from the first byte of the request to the last
of the response; "json" is one object per line. Input from the peer is escaped, so that a line is printable ASCII, and
truncated, so that it fits into an atomic write to a pipe: lines of several processes are never interleaved.
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
from rawservers.logs.sink import Sink, reopen_nonblocking

log = logging.getLogger("rawservers")

# Limits of fields, in characters after escaping. With the other fields, 200 characters at most, a line is shorter than BLOCK.
MAX_REQUEST = 2048
MAX_FIELD = 768
MAX_HOST = 256

UNPRINTABLE = re.compile(r"[^ !#-\[\]-~]")  # also the quotation mark and the backslash
WHOLE_ESCAPES = re.compile(r'(?:[^\\]|\\["\\bfnrt]|\\x..|\\u....)*')  # up to a truncated escape

NO_RECORD = object()


class AccessLog:
    """fd: a descriptor, owned by the log, -1 for none; style: a key of FORMATS. dropped: number of lines dropped so far."""

    def __init__(self, fd: int, style: str, clock: Clock) -> None:
        self._format = FORMATS[style]
        self._clock = clock
        self._off = fd < 0
        self._sink = Sink(fd)
        self._lines: list[str] = []  # of this wake
        self._second = -1
        self._time = ""
        self._record: object = NO_RECORD  # of the last line
        self._line = ""
        self._sent = 0
        self._set_host("")

    @property
    def dropped(self) -> int:
        return self._sink.dropped

    def add(self, peer: Peer, record: object, sent: int, seconds: float) -> None:
        """Add the line of a response. sent: bytes, with the head; seconds: taken until the last of them was sent."""
        if record is self._record and sent == self._sent and peer.address[0] == self._host and not seconds:
            return self._lines.append(self._line)  # the same as the last one
        if self._off or type(record) is not AccessRecord:
            return
        if not self._lines:
            self._set_time()
        host = peer.address[0]
        if host != self._host:  # else pipelined, usually
            self._set_host(host)
        size = sent - record.head_size
        if size == record.body_size and not seconds:  # usually: formatted only once per record
            text = record.text = record.text or self._format.text(record, size, 0.0)
        else:
            text = self._format.text(record, max(0, size), seconds)
        self._line = f"{self._start}{self._time}{text}"
        self._lines.append(self._line)
        self._record = NO_RECORD if seconds else record
        self._sent = sent

    def flush(self) -> None:
        """Write the lines of this wake, after pending ones. Report dropped lines, at most once a second."""
        sink = self._sink
        if self._lines or sink.pending:
            lines = "".join(self._lines).encode("ascii", "backslashreplace")
            self._lines.clear()
            self._record = NO_RECORD  # the time of its line may be over in the next wake
            sink.write(lines)
        if sink.dropped:
            self._report_drops(sink.unreported_drops(self._clock.now))

    def reopen(self, fd: int) -> None:
        """Change to another descriptor. Lines that were not completely written to the old one go to the new one, whole."""
        self.flush()
        self._off = fd < 0
        self._sink.reopen(fd)

    def close(self) -> None:
        """Write pending lines, wait up to a second for a slow reader, and close the descriptor."""
        self.flush()
        self._sink.close()
        self._off = True
        self._report_drops(self._sink.unreported_drops(float("inf")))

    def _report_drops(self, drops: int) -> None:
        if drops:
            log.warning("access log: %d lines dropped (%s)", drops, self._sink.drop_reason)

    def _set_host(self, host: str) -> None:
        self._host = host
        if not host.isascii():  # the path of a unix socket
            host = os.fsencode(host).decode("latin-1")
        self._start = f"{self._format.prefix}{self._format.escape(host)}{self._format.separator}"

    def _set_time(self) -> None:
        second = int(self._clock.time)
        if second != self._second:
            self._second = second
            self._time = time.strftime(self._format.time, time.localtime(second))


def open_target(target: str) -> int:
    """A descriptor for writing the log. target: the path of a file, "-" for standard output, or "off".

    -1 for "off", and if standard output is closed. Raises OSError.
    """
    if target == "off":
        return -1
    if target == "-":
        return reopen_nonblocking(1)
    flags = os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if os.path.isfile(target) or not os.path.exists(target):
        with contextlib.suppress(PermissionError):
            return os.open(target, flags | os.O_RDWR, 0o640)  # readable: `sink.FileWriter` looks for partial lines
    return os.open(target, flags | os.O_WRONLY, 0o640)


def rotated(fd: int, target: str) -> bool:
    """Whether the file at `target`, opened as `fd`, was renamed, removed or replaced. False if that is unknown."""
    if fd < 0 or target in ("-", "off"):
        return False
    try:
        return not os.path.samestat(os.stat(target), os.fstat(fd))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def format_combined(record: AccessRecord, size: int, seconds: float) -> str:
    """The line from the request on, in the combined format."""
    line = escaped(record.line, MAX_REQUEST)
    referer, agent = escaped(record.referer, MAX_FIELD), escaped(record.agent, MAX_FIELD)
    return f'"{line}" {record.status} {size} "{referer}" "{agent}" {seconds:.3f}\n'


def format_json(record: AccessRecord, size: int, seconds: float) -> str:
    """The line from the request on, as the rest of a JSON object."""
    line = quoted(record.line, MAX_REQUEST)
    referer, agent = quoted(record.referer, MAX_FIELD), quoted(record.agent, MAX_FIELD)
    return (
        f'"request": {line}, "status": {record.status}, "bytes": {size}, "seconds": {seconds:.3f}, '
        f'"referer": {referer}, "agent": {agent}}}\n'
    )


def escaped(text: str, limit: int = MAX_HOST) -> str:
    """A field as printable ASCII of at most `limit` characters, other bytes as \\xHH; "-" for an empty one."""
    text = UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text[:limit])
    return truncate(text, limit) if len(text) > limit else text or "-"


def quoted(text: str, limit: int = MAX_HOST) -> str:
    """A field as a JSON string of printable ASCII, of at most `limit` characters between its quotation marks."""
    text = encode_basestring_ascii(text[:limit])
    return f'"{truncate(text[1:-1], limit)}"' if len(text) > limit + 2 else text


def truncate(text: str, limit: int) -> str:
    """At most `limit` characters of an escaped text, without an incomplete escape at the end."""
    match = WHOLE_ESCAPES.match(text, 0, limit)
    return match[0] if match else ""


class LineFormat(NamedTuple):
    """A line: prefix, host by `escape`, separator, time by strftime, and the rest by `text`."""

    prefix: str
    escape: Callable[[str], str]
    separator: str
    time: str
    text: Callable[[AccessRecord, int, float], str]


FORMATS = {
    "combined": LineFormat("", escaped, " - - ", "[%d/%b/%Y:%H:%M:%S %z] ", format_combined),
    "json": LineFormat('{"peer": ', quoted, ', "time": ', '"%Y-%m-%dT%H:%M:%S%z", ', format_json),
}
