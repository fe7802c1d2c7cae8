"""The access log: one line per response, written once per wake of the event loop.

Logging never blocks the server: lines that the reader does not accept are buffered up to a limit, then dropped (see `sink`),
and the error log says how many. The access log itself contains nothing but responses, so that programs can parse it.

There are two formats. "combined" is that of Apache and nginx, plus the seconds from the first byte of the request to the last
of the response; "json" is one object per line. Input from the peer is escaped, so that a line is printable ASCII, and
truncated, so that it fits into an atomic write to a pipe: lines of several processes are never interleaved.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from functools import cache

from rawservers.core.peer import Clock, Peer
from rawservers.core.record import Record
from rawservers.http.forwarded import TrustedProxies
from rawservers.http.response import AccessRecord, UserRecord
from rawservers.logs.sink import duplicate, open_sink
from rawservers.logs.trust import open_as_root

log = logging.getLogger("rawservers")

# Limits of fields, in characters after escaping. With the other fields, 200 characters at most, a line is shorter than BLOCK.
MAX_REQUEST = 2048
MAX_FIELD = 768
MAX_HOST = 256
MAX_USER = 64

OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

UNPRINTABLE = re.compile(r"[^ !#-\[\]-~]")  # also the quotation mark and the backslash
UNPRINTABLE_OR_SPACE = re.compile(r"[^!#-\[\]-~]")
WHOLE_ESCAPES = r'(?:[^\\]|\\["\\bfnrt]|\\x..|\\u....)*'  # up to a truncated escape


class AccessLog:
    """fd: a descriptor, owned by the log, -1 for none; style: a key of FORMATS. sink: its output; it counts dropped lines."""

    def __init__(self, fd: int, style: str, clock: Clock) -> None:
        self._format = FORMATS[style]
        self._clock = clock
        self._off = fd < 0
        self.sink = open_sink(fd)
        self._lines: list[str] = []  # of this wake
        self._second = -1
        self._time = self._host = self._start = ""
        self._record: object = None  # of the last line, if it was taken without seconds
        self._sent, self._line = -1, ""

    def add(self, peer: Peer, record: object, sent: int, seconds: float) -> None:
        """Add the line of a response. sent: bytes, with the head; seconds: taken until the last of them was sent."""
        if record is self._record and sent == self._sent and self._lines and not seconds and peer.address[0] == self._host:
            return self._lines.append(self._line)  # many responses of a wake are equal: 6 % less for each of them
        if self._off:
            return
        if type(record) is not AccessRecord:
            return self._add_with_user(peer, record, sent, seconds)
        host = peer.address[0]
        if host != self._host or not self._lines:
            self._begin(host)
        size = sent - record.head_size
        if seconds or size != record.body_size:
            text = self._format.text(record, max(0, size), seconds)
        elif not (text := record.text):  # formatted only once per record, which saves 27 % of a kept GET
            text = record.text = self._format.text(record, size, 0.0)
        self._record, self._sent, self._line = record, -1 if seconds else sent, self._start + text
        self._lines.append(self._line)

    def _add_with_user(self, peer: Peer, record: object, sent: int, seconds: float) -> None:
        """The same for the response to an authenticated user; does nothing for any other record."""
        if type(record) is not UserRecord:
            return
        style, host = self._format, peer.address[0]
        if host != self._host or not self._lines:
            self._begin(host)
            self._sent = -1  # the last line was of another host, or wake
        start = style.user_start.format(host_text(style, host), self._time, user=style.escape_user(record.user))
        self._lines.append(start + style.text(record, max(0, sent - record.head_size), seconds))

    def flush(self, now: float = 0.0) -> None:
        """Write the lines of this wake. Report dropped lines, at most once a second, and those that wait.

        now: in place of the clock's.
        """
        sink = self.sink
        if self._lines or sink.stalled:
            sink.write("".join(self._lines).encode("ascii", "backslashreplace"))
            self._lines.clear()
        if sink.waits and (report := sink.wait_report(now or self._clock.now)):
            log.warning("access log: %s", report)
        if (sink.refused or sink.failed) and (report := sink.drop_report(now or self._clock.now)):
            log.warning("access log: %s", report)

    def reopen(self, fd: int) -> None:
        """Change to another descriptor. Lines that were not completely written to the old one go to the new one, whole."""
        self.flush()
        self._off = fd < 0
        self.sink = self.sink.reopen(fd)

    def close(self) -> None:
        """Write pending lines, wait up to a second for a slow reader, and close the descriptor."""
        self.flush()
        self.sink.close()
        self._off = True
        self.flush(math.inf)

    def _begin(self, host: str) -> None:
        """Begin the first line of a wake, or the first of a host."""
        second = int(self._clock.time)
        if second != self._second:
            self._second = second
            self._time = time.strftime(self._format.time, time.localtime(second))
        elif host == self._host:
            return
        self._host = host
        self._start = self._format.start.format(host_text(self._format, host), self._time)


class ProxiedAccessLog(AccessLog):
    """A log with the clients that trusted proxies have named, in place of these proxies. Arguments: as for AccessLog."""

    def __init__(self, fd: int, style: str, clock: Clock, trusted_proxies: TrustedProxies) -> None:
        super().__init__(fd, style, clock)
        self._trusted_proxies = trusted_proxies

    def add(self, peer: Peer, record: object, sent: int, seconds: float) -> None:
        if isinstance(record, AccessRecord) and record.forwarded:
            peer = Peer(self._trusted_proxies.origin(peer.address, record.forwarded)[0], peer.clock, peer.counters)
        super().add(peer, record, sent, seconds)


def make_log(fd: int, style: str, clock: Clock, trusted_proxies: Sequence[str]) -> AccessLog:
    """The log that these trusted proxies need. The other arguments: as for AccessLog."""
    if not trusted_proxies:
        return AccessLog(fd, style, clock)
    return ProxiedAccessLog(fd, style, clock, TrustedProxies(trusted_proxies))


def open_target(target: str, uid: int = 0) -> int:
    """A descriptor for writing the log. target: the path of a file, "-" for standard output, or "off"; uid: of the workers.

    -1 for "off", and if standard output is closed. Raises OSError.
    """
    if target == "off":
        return -1
    if target == "-":
        return duplicate(1)
    return os.open(target, OPEN_FLAGS, 0o640) if os.geteuid() else open_as_root(target, OPEN_FLAGS, 0o640, uid)


def rotated(fd: int, target: str) -> bool:
    """Whether the file at `target`, opened as `fd`, was renamed, removed or replaced. False if that is unknown."""
    try:
        return fd >= 0 and target != "-" and not os.path.samestat(os.stat(target), os.fstat(fd))
    except OSError as error:
        return isinstance(error, (FileNotFoundError, NotADirectoryError))


def escaped(text: str, limit: int = MAX_FIELD, unprintable: re.Pattern[str] = UNPRINTABLE) -> str:
    """A field as printable ASCII of at most `limit` characters, other bytes as \\xHH; "-" for an empty one."""
    text = unprintable.sub(lambda match: f"\\x{ord(match[0]):02x}", text[:limit])
    return truncate(text, limit) if len(text) > limit else text or "-"


@cache
def json_encoder() -> Callable[[str], str]:
    """A function that makes a JSON string of a text."""
    import json  # here, since few logs are in JSON

    return json.encoder.encode_basestring_ascii


def quoted(text: str, limit: int = MAX_FIELD) -> str:
    """A field as a JSON string of printable ASCII, of at most `limit` characters between its quotation marks."""
    text = json_encoder()(text[:limit])
    return f'"{truncate(text[1:-1], limit)}"' if len(text) > limit + 2 else text


def truncate(text: str, limit: int) -> str:
    """At most `limit` characters of an escaped text, without an incomplete escape at the end."""
    return str(re.compile(WHOLE_ESCAPES).findall(text, 0, limit)[0])


class LineFormat(Record):
    """A line: `start`, with the host by `escape` and the time by strftime, and `rest`, with the fields of the record: status,
    size, seconds, and by name those that are escaped. user_start: `start` with the user, by `escape_user`."""

    escape: Callable[..., str]
    escape_user: Callable[[str], str]
    time: str
    start: str
    user_start: str
    rest: str

    def text(self, record: AccessRecord, size: int, seconds: float) -> str:
        """The line from the request on. size: bytes of the body."""
        line, referer, agent = self.escape(record.line, MAX_REQUEST), self.escape(record.referer), self.escape(record.agent)
        return self.rest.format(record.status, size, seconds, line=line, referer=referer, agent=agent)


def host_text(style: LineFormat, host: str) -> str:
    """The host of a peer. The path of a unix socket may have any bytes."""
    return style.escape(os.fsencode(host).decode("latin-1"), MAX_HOST)


FORMATS = {
    "combined": LineFormat(
        escaped, lambda user: escaped(user, MAX_USER, UNPRINTABLE_OR_SPACE), "[%d/%b/%Y:%H:%M:%S %z] ", "{} - - {}",
        "{} - {user} {}", '"{line}" {} {} "{referer}" "{agent}" {:.3f}\n',
    ),
    "json": LineFormat(
        quoted, lambda user: quoted(user, MAX_USER), '"%Y-%m-%dT%H:%M:%S%z", ', '{{"peer": {}, "time": {}',
        '{{"peer": {}, "user": {user}, "time": {}',
        '"request": {line}, "status": {}, "bytes": {}, "seconds": {:.3f}, "referer": {referer}, "agent": {agent}}}\n',
    ),
}  # fmt: skip
