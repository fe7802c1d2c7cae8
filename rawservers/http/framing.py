"""The boundaries of request heads in a byte stream: RFC 9112 §2.2 and §3, RFC 1945 §5.

The length of the body is a matter of the header fields, see request.py.
"""

from __future__ import annotations

import re

from rawservers.http.request import HTTPError, check_request_line, parse_simple

LINE_LIMIT = 8192  # bytes of a request line. RFC 9112 §3: at least 8000; nginx and Apache: 8 KiB
HEAD_LIMIT = 32768  # bytes of a whole head. nginx: 4 lines of 8 KiB
BLANK_LIMIT = 4  # empty lines ignored before a request line. RFC 9112 §2.2: at least one
BLANK_LINES = re.compile(rb"(?:\r?\n)*")
TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # `in` is also true for b""
HEAD_END = re.compile(rb"\n\r?\n")


class HeadReader:
    """A reader that cuts complete request heads off the front of a buffer, to which its owner appends input.

    skipped: bytes of empty lines that were dropped before the head; the owner resets it.
    """

    __slots__ = ("_buffer", "_line_end", "_scanned", "skipped")

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._line_end = 0  # length of the request line, once it is valid but the head is incomplete
        self._scanned = 0  # bytes already searched for the end of the head
        self.skipped = 0

    def read(self) -> bytes | None:
        """One complete head, removed from the buffer; None while it is incomplete. Raises HTTPError.

        An incomplete head is checked in the order in which it arrives, so that the result does not depend on how it was cut
        into packets, and each part only once, so that a head that arrives byte by byte costs no more than its bytes.
        """
        buffer = self._buffer
        line_end = self._line_end or self._find_line()
        if not line_end:
            return None
        if not self._line_end and parse_simple(bytes(buffer[:line_end])):
            return self._cut_simple(line_end)
        end = HEAD_END.search(buffer, max(line_end - 1, self._scanned - 2))
        size = end.end() if end else len(buffer)
        if end is None or size > HEAD_LIMIT:
            if not self._line_end:
                check_request_line(bytes(buffer[:line_end]))
            if size > HEAD_LIMIT:
                raise HTTPError(431, f"The request head is longer than {HEAD_LIMIT} bytes.")
            self._line_end = line_end
            self._scanned = len(buffer)
            return None
        return self._cut(end.end())

    def _find_line(self) -> int:
        """The length of the request line, after dropping the empty lines before it; 0 if it is incomplete."""
        buffer = self._buffer
        start = skip_blank_lines(buffer)
        line_end = buffer.find(b"\n", start) + 1
        if (line_end or len(buffer)) - start > LINE_LIMIT:
            raise HTTPError(414, f"The request line is longer than {LINE_LIMIT} bytes.")
        if line_end:
            del buffer[:start]
            line_end -= start
            self.skipped = start
        return line_end

    def _cut_simple(self, line_end: int) -> bytes:
        if bytes(self._buffer[line_end:]) not in {b"", b"\n", b"\r\n"}:
            raise HTTPError(400, "The request line has no HTTP version.")
        head = self._cut(line_end)
        self._buffer.clear()
        return head

    def _cut(self, end: int) -> bytes:
        head = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._line_end = self._scanned = 0
        return head


def skip_blank_lines(buffer: bytes | bytearray) -> int:
    """The offset of the request line. Raises HTTPError as soon as what is there cannot be one."""
    blank = BLANK_LINES.match(buffer)
    start = blank.end() if blank else 0
    if buffer.count(b"\n", 0, start) > BLANK_LIMIT:
        raise HTTPError(400, "The request begins with too many empty lines.")
    if buffer[start : start + 1] not in TOKEN_BYTES and buffer[start:] != b"\r":
        raise HTTPError(400, "This is not an HTTP request.")
    return start


def first_line(head: bytes) -> str:
    """The request line of a head that may be malformed or incomplete, for the access log."""
    try:
        start = skip_blank_lines(head)
    except HTTPError:
        start = 0
    return head[start:].partition(b"\n")[0].removesuffix(b"\r").decode("latin-1")
