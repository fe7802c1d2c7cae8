"""The response writer: Response -> bytes.

A response is sent as its status line, the common headers (Date, Connection, Server), its other headers, and its body. The
common headers depend on the time and the connection; everything else can be serialized once and sent again (see cache.py). Each
response has the version that its request asks for, and a Content-Length, except that to a HEAD request, which may lack it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from http import HTTPStatus
from typing import Protocol, TypeAlias

from rawservers import __version__
from rawservers.core.protocol import FileSlice, ResponseEnd
from rawservers.http.dates import http_date
from rawservers.http.request import TOKEN, VALUE, Request

REASONS = {status.value: status.phrase for status in HTTPStatus}
REASONS |= {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable"}  # RFC 9110; those of 3.11 are older
STATUS_LINES = {  # shared by all responses of a status
    (version, status): f"{version.decode()} {status} {reason}\r\n".encode()
    for version in (b"HTTP/1.0", b"HTTP/1.1")
    for status, reason in REASONS.items()
}
RESERVED_HEADERS = {"connection", "content-length", "date", "server", "transfer-encoding"}
BODILESS_STATUSES = {204, 304}  # without a body, and so without a Content-Length (RFC 1945 §7.2)

ERROR_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{status} {reason}</title>
<style>body {{ font: 1.1rem/1.5 system-ui, sans-serif; margin: 15vh auto 0; max-width: 32rem; padding: 0 1rem }}</style>
<h1>{status} {reason}</h1>
<p>{message}</p>
</html>
"""

Headers: TypeAlias = Sequence[tuple[str, str]]
Body: TypeAlias = bytes | FileSlice | tuple[bytes | FileSlice, ...]  # small content, part of a file, or pieces of both


@dataclass(slots=True, eq=False)
class Response:
    """A response: status, header fields, body. Content-Length, Date, Connection and Server are added when it is serialized."""

    status: int
    headers: Headers = ()
    body: Body = b""


def body_length(body: Body) -> int:
    """The length of a body in bytes."""
    if isinstance(body, tuple):
        return sum([len(piece) if isinstance(piece, bytes) else piece.count for piece in body])
    return body.count if isinstance(body, FileSlice) else len(body)


def error_response(status: int, message: str, headers: Headers = ()) -> Response:
    """A response with an HTML error page. message: a sentence for people, as plain text."""
    page = ERROR_PAGE.format(status=status, reason=REASONS[status], message=escape(message))
    return Response(status, [("Content-Type", "text/html; charset=utf-8"), *headers], page.encode())


def check_headers(headers: Headers) -> None:
    """Check the syntax of header fields. Raises ValueError or TypeError, also for fields that the server sets itself."""
    for name, value in headers:
        if not re.fullmatch(TOKEN, name) or not re.fullmatch(VALUE, value):
            raise ValueError(f"malformed header: {name!r}: {value!r}")
        if name.lower() in RESERVED_HEADERS:
            raise ValueError(f"header is set by the server: {name}")


class CommonHeaders:
    """The Date, Connection and Server lines, the same in all responses of one second.

    server: whether there is a Server line. second: since 1970, for which the lines are made. keep_alive_lines, close_lines: the
    lines for a connection that stays open, and for one that is closed.
    """

    __slots__ = ("_server", "close_lines", "keep_alive_lines", "second")

    def __init__(self, server: bool = True) -> None:
        self._server = SERVER_LINE if server else ""
        self.refresh(0)

    def refresh(self, second: int) -> None:
        """Make the lines of another second."""
        self.second = second
        date = f"Date: {http_date(second)}\r\nConnection: "
        self.keep_alive_lines = f"{date}keep-alive\r\n{self._server}".encode()
        self.close_lines = f"{date}close\r\n{self._server}".encode()


@dataclass(slots=True, eq=False)
class AccessRecord:
    """A response, as the access log records it.

    line:       the request line, as sent
    status:     the status code
    head_size:  bytes of the response head
    body_size:  bytes of the body to send, without the head
    referer:    the Referer field, or ""
    agent:      the User-Agent field, or ""
    text:       the formatted log line, kept here by the access log
    """

    line: str
    status: int
    head_size: int
    body_size: int
    referer: str = ""
    agent: str = ""
    text: str = ""


class HasBody(Protocol):
    """An object with a body: a Response or a File."""

    @property
    def body(self) -> Body: ...


class PreparedResponse:
    """A serialized response, without the common headers.

    status_line:  what is sent before the common headers
    header_tail:  what is sent after them, with the blank line; like `status_line` empty for HTTP/0.9, which has no head
    content:      the object with the body; for a cached response the File, so that the content is kept once
    keep_alive:   as in the Request
    record:       for the access log; its head_size is without the common headers
    epoch:        freshness epoch in which it was last sent for the same bytes of a request
    end_keepalive, end_close:  the last chunk, if the connection stays open or is closed; made by `make_end` on first use, since
                               it holds the formatted log line. (Made anew each time, a cached response takes 1.4 times as long)
    """

    __slots__ = (
        "content", "end_close", "end_keepalive", "epoch", "header_tail", "keep_alive", "record", "status_line",
    )  # fmt: skip

    def __init__(self, response: Response, request: Request, sized: bool = True) -> None:
        """Serialize the response to `request`.

        sized: whether the length of the body is known. False only for a HEAD request, whose response then has no
        Content-Length.
        """
        status = response.status
        size = body_length(response.body) if status != 205 else 0  # RFC 9110 §15.3.6
        head = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        if status not in BODILESS_STATUSES and sized:
            head += f"Content-Length: {size}\r\n"
        bodiless = status in BODILESS_STATUSES or status == 205 or request.method == "HEAD"
        version = request.response_version
        self.status_line = STATUS_LINES.get((version, status)) or b"%b %d \r\n" % (version, status)
        self.header_tail = f"{head}\r\n".encode("latin-1")
        if request.version == (0, 9):
            self.status_line = self.header_tail = b""
        self.content: HasBody = EMPTY if bodiless else response
        self.keep_alive = request.keep_alive
        self.epoch = -1
        head_size = len(self.status_line) + len(self.header_tail)
        self.record = AccessRecord(request.line, status, head_size, 0 if bodiless else size)
        self.set_log_fields(request.fields)

    def set_log_fields(self, fields: Mapping[str, str]) -> None:
        """Use Referer and User-Agent of these header fields for the access log from now on."""
        self.record.referer, self.record.agent = fields.get("referer", ""), fields.get("user-agent", "")
        self.end_keepalive: ResponseEnd | None = None
        self.end_close: ResponseEnd | None = None

    def make_end(self, keep_alive: bool, lines: bytes) -> ResponseEnd:
        """The chunk that ends the response. keep_alive: whether the connection stays open; lines: the common headers sent."""
        end = ResponseEnd(replace(self.record, head_size=self.record.head_size + len(lines)))
        if keep_alive:
            self.end_keepalive = end
        else:
            self.end_close = end
        return end


SERVER_LINE = f"Server: rawservers/{__version__}\r\n"
EMPTY = Response(204)
