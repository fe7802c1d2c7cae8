"""The boundaries of request heads in a byte stream: RFC 9112 §2.2 and §3, RFC 1945 §5.

The length of the body is a matter of the header fields, see request.py.
"""

from __future__ import annotations

import re

from rawservers.http.request import check_request_line, require

LINE_LIMIT = 8192  # bytes of a request line. RFC 9112 §3: at least 8000; nginx and Apache: 8 KiB
HEAD_LIMIT = 32768  # bytes of a whole head. nginx: 4 lines of 8 KiB
BLANK_LINES = re.compile(rb"(?:\r?\n){0,4}")  # ignored before a request line. RFC 9112 §2.2: at least one
TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # `in` is also true for b""
TLS_HANDSHAKE = b"\x16"  # the first byte of a client that speaks TLS (RFC 8446 §5.1)
HEAD_END = re.compile(rb"\n\r?\n")


def cut_head(buffer: bytearray, scanned: int = 0) -> bytes:
    """One complete head, removed from the front of `buffer`; b"" while it is incomplete. Raises HTTPError.

    scanned: bytes of the buffer that were there when the head was last found incomplete. An incomplete head is checked in the
    order in which it arrives, so that the result does not depend on how it was cut into packets, and each part only once, so
    that a head that arrives byte by byte costs no more than its bytes.
    """
    blank = BLANK_LINES.match(buffer)
    start = blank.end() if blank else 0
    require(buffer[start : start + 1] != TLS_HANDSHAKE, 400, "This port does not use TLS. Use http:// in the URL.")
    require(buffer[start : start + 1] in TOKEN_BYTES or buffer[start:] == b"\r", 400, "This is not an HTTP request.")
    line_end = buffer.find(b"\n", start) + 1
    require((line_end or len(buffer)) - start <= LINE_LIMIT, 414, f"The request line is longer than {LINE_LIMIT} bytes.")
    if not line_end:
        return b""
    line = bytes(buffer[start:line_end]) if line_end > scanned else b""  # b"": it was checked
    del buffer[:start]
    if line and check_request_line(line.decode("latin-1"))[3] is None:
        require(bytes(buffer[len(line) :]) in {b"", b"\n", b"\r", b"\r\n"}, 400, "The request line has no HTTP version.")
        buffer.clear()
        return line
    end = HEAD_END.search(buffer, len(line) - 1 if line else scanned - 2)
    size = end.end() if end else len(buffer)
    require(size <= HEAD_LIMIT, 431, f"The request head is longer than {HEAD_LIMIT} bytes.")
    if end is None:
        return b""
    head = bytes(buffer[:size])
    del buffer[:size]
    return head
