"""What a trace shows of bytes: the first line, in printable ASCII, without secrets.

A secret is the value of a header field that authenticates (Authorization, Proxy-Authorization, Cookie, Set-Cookie, and others
whose name says so), with its folded lines, and the userinfo of a URL. It is found however its line is cut into pieces, since
the beginning of an unfinished line is kept. Where the rest of a line would have to decide, it counts as a secret.
"""

from __future__ import annotations

import re

MAX_SHOWN = 100  # bytes of a piece that are shown
MAX_LINE = 2048  # bytes of an unfinished line that are kept; nothing is shown of those that follow
MAX_SKIPPED = 1024  # bytes behind the first line that are looked at: a field may begin in them whose rest comes later
MARK = "***"  # in place of a secret

LINE_END = re.compile(rb"\r\n|\r|\n")
FIELD_NAME = re.compile(rb"([^\s:]++)[ \t]*+:")
SECRET_NAME = re.compile(rb"auth|cookie|token|secret|passw|api-?key", re.IGNORECASE)
URL = re.compile(rb"(?:/|%2f){2}(\S*)", re.IGNORECASE)
USERINFO = re.compile(rb"\S*(?:@|%40)", re.IGNORECASE)
UNPRINTABLE = re.compile(rb"[^ -\[\]-~]")  # the backslash, too, since it begins an escape


class Redactor:
    """One direction of one connection."""

    __slots__ = ("_is_secret", "_line")

    def __init__(self) -> None:
        self._line = b""  # the unfinished line so far
        self._is_secret = False  # whether the field is a secret that the last line belongs to

    def show(self, data: bytes) -> str:
        """The first line of `data`, the next bytes of the stream, as printable ASCII of at most about MAX_SHOWN characters."""
        first, *more = LINE_END.split(data, maxsplit=1)
        start, line = len(self._line), self._add(first)
        end = start + len(first.partition(b"\0")[0])  # a NUL is part of a Telnet line end, and the next line may be a password
        shown = self._redact(line, start, end, not more) if start <= MAX_LINE else "..."
        if more:
            self._skip(more[0])
        return shown

    def _skip(self, data: bytes) -> None:
        """Take what is behind the first line. Of many bytes only the last ones are looked at, as if a secret came before."""
        if len(data) > MAX_SKIPPED:
            self._is_secret = True
            data = b" " + data[-MAX_SKIPPED:]
        for text in LINE_END.split(data):
            self._line = b""
            self._add(text)

    def _add(self, text: bytes) -> bytes:
        """The unfinished line, with this part of it."""
        line = self._line + text
        self._line = line[: MAX_LINE + 1]
        if line[:1] not in (b" ", b"\t", b""):  # those are folded, or the rest of a line end
            field = FIELD_NAME.match(line)
            self._is_secret = field is not None and SECRET_NAME.search(field[1]) is not None
        return line

    def _redact(self, line: bytes, start: int, end: int, is_unfinished: bool) -> str:
        """line[start:end], as `show` returns it."""
        secrets = []
        shown, at, last = "", start, min(end, start + MAX_SHOWN)
        if self._is_secret:
            secrets.append((line.find(b":") + 1 if line[:1] not in b" \t" else 0, len(line)))
        for url in URL.finditer(line):
            if url.start(1) >= last:
                break
            if is_unfinished and url.end() == len(line):
                secrets.append(url.span(1))
            elif url.end() > start and (userinfo := USERINFO.match(line, url.start(1))):
                secrets.append((url.start(1), userinfo.end()))
        for begin, stop in secrets:
            if begin < last and stop > at:
                shown += escape(line[at : max(at, begin)]) + MARK
                at = stop
        return shown + escape(line[at:last]) + "..." * (last < end)


def escape(text: bytes) -> str:
    """Printable ASCII; other bytes, and the backslash, as \\xHH."""
    return UNPRINTABLE.sub(lambda match: b"\\x%02x" % match[0][0], text).decode("ascii")
