"""Response -> bytes.

An answer leaves as its status line, then Date, Connection and Server, then all the rest. Those three depend on when, to whom
and by whom it is said, so the others can be kept ready and said again (see `cache`). Every answer says HTTP/1.0, and is either
as long as its Content-Length or ended by the close; that to a HEAD has no body, and may leave the length unsaid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from http import HTTPStatus
from typing import Protocol, TypeAlias

from rawservers import __version__
from rawservers.core.peer import Clock
from rawservers.core.protocol import Chunk, FileSlice, ResponseEnd
from rawservers.http.dates import http_date
from rawservers.http.request import TOKEN, Request

REASONS = {status.value: status.phrase for status in HTTPStatus}
REASONS |= {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
}  # RFC 9110; Python 3.11 has older names
STATUS_LINES = {status: f"HTTP/1.0 {status} {reason}\r\n".encode() for status, reason in REASONS.items()}
RESERVED_HEADERS = frozenset({"connection", "content-length", "date", "server", "transfer-encoding"})
BODILESS_STATUSES = frozenset({204, 304})  # and without the header fields that describe one (RFC 1945 §7.2)

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
Body: TypeAlias = bytes | FileSlice | tuple[bytes | FileSlice, ...]  # small, a part of a file, or pieces of both kinds


class Response:
    """What to answer: a status, header fields, and a body. The sending adds Content-Length, Server, Date and Connection."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers = (), body: Body = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body


def body_length(body: Body) -> int:
    """How many bytes a body has."""
    if isinstance(body, tuple):
        return sum([len(piece) if isinstance(piece, bytes) else piece.count for piece in body])
    return body.count if isinstance(body, FileSlice) else len(body)


def error_response(status: int, message: str, headers: Headers = ()) -> Response:
    """An answer that says what is wrong, to a person."""
    page = ERROR_PAGE.format(status=status, reason=REASONS[status], message=escape(message))
    return Response(status, [("Content-Type", "text/html; charset=utf-8"), *headers], page.encode())


def check_headers(headers: Headers) -> None:
    """ValueError or TypeError unless these header fields can be sent, and are not the server's own."""
    for name, value in headers:
        if not re.fullmatch(TOKEN, name) or not re.fullmatch(r"[\t -~\x80-\xff]*", value):
            raise ValueError(f"not a header field: {name!r}: {value!r}")
        if name.lower() in RESERVED_HEADERS:
            raise ValueError(f"the server itself says {name}")


class CommonHeaders:
    """The lines of an answer that depend on when and to whom it is said: made once a second, used by every answer.

    server: whether they name the server. said: what was said in this wake to the requests that came more than once in it, by
    their bytes, if the connection persists.
    """

    __slots__ = ("_second", "_server", "close_lines", "epoch", "epoch_cache", "keep_alive_lines")

    def __init__(self, server: bool = True) -> None:
        self.epoch = self._second = -1
        self.epoch_cache: dict[bytes, Sequence[Chunk]] = {}
        self.keep_alive_lines = self.close_lines = b""
        self._server = SERVER_LINE if server else ""

    def refresh(self, clock: Clock) -> None:
        """Bring the lines up to date; called by whoever finds that `epoch` is not the clock's."""
        self.epoch = clock.epoch
        self.epoch_cache.clear()
        second = int(clock.time)
        if second != self._second:
            self._second = second
            date = http_date(second)
            self.keep_alive_lines = f"Date: {date}\r\nConnection: keep-alive\r\n{self._server}".encode()
            self.close_lines = f"Date: {date}\r\nConnection: close\r\n{self._server}".encode()


class AccessRecord:
    """What the access log is to know of an answer.

    line: the request line, as sent; referer, agent: those header fields, or ""; status; size: bytes of the body as it was to
    be sent; head: bytes in front of it; text: a place for the log to keep what it made of this record.
    """

    __slots__ = ("agent", "body_size", "head_size", "line", "referer", "status", "text")

    def __init__(self, line: str, request: Request | None, status: int, head_size: int, body_size: int) -> None:
        self.line = line
        self.referer = request.fields.get("referer", "") if request else ""
        self.agent = request.fields.get("user-agent", "") if request else ""
        self.status = status
        self.head_size = head_size
        self.body_size = body_size
        self.text = ""


class HasBody(Protocol):
    """What holds a body."""

    @property
    def body(self) -> Body: ...


class PreparedResponse:
    """The bytes of one answer, but for the stamp's.

    before, behind: what stands on either side of the stamp (both empty in the answer to a simple request, which has no head
    at all); content: what holds the body; keep, silent: the request's wish for the connection; line: the request line; kept,
    closed: the chunk that ends the answer if the connection persists, or does not, made by `end` when it is first needed;
    epoch: the loop's, when it was last said to these very bytes.
    """

    __slots__ = (
        "_agent",
        "_referer",
        "_size",
        "_status",
        "connection_unspecified",
        "content",
        "end_close",
        "end_keepalive",
        "epoch",
        "header_tail",
        "keep_alive",
        "line",
        "status_line",
    )

    def __init__(self, response: Response, request: Request | None, line: str = "", *, sized: bool = True) -> None:
        """The answer to `request`, or to the request line `line` if no more of it was understood.

        sized: whether the body that is there, or would be, has a known length; only that to a HEAD may have none.
        """
        status = response.status
        size = body_length(response.body)
        head = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        if status not in BODILESS_STATUSES and sized:
            head += f"Content-Length: {size}\r\n"
        method = request.method if request is not None else line.partition(" ")[0]
        bodiless = status in BODILESS_STATUSES or method == "HEAD"  # a refused HEAD too: who sent it expects no body
        self.status_line = STATUS_LINES.get(status) or f"HTTP/1.0 {status} \r\n".encode()
        self.header_tail = f"{head}\r\n".encode("latin-1")
        self.content: HasBody = EMPTY if bodiless else response
        self.keep_alive = request is not None and request.keep_alive
        self.connection_unspecified = request is not None and request.connection_unspecified
        if request is not None and request.version == (0, 9):
            self.status_line = self.header_tail = b""
        self.line = request.line if request is not None else line
        self.epoch = -1
        self._status = status
        self._size = 0 if bodiless else size
        self.set_log_fields(request.fields if request is not None else {})

    def set_log_fields(self, fields: Mapping[str, str]) -> None:
        """From now on it answers a request with these fields: the log is told of that one."""
        self._referer = fields.get("referer", "")
        self._agent = fields.get("user-agent", "")
        self.end_keepalive: ResponseEnd | None = None
        self.end_close: ResponseEnd | None = None

    def make_end(self, keep_alive: bool, lines: bytes) -> ResponseEnd:
        """The chunk that ends the answer if the connection persists, or does not, as `keep` says; `stamp`: the lines it has."""
        record = AccessRecord(
            self.line, None, self._status, len(self.status_line) + len(lines) + len(self.header_tail), self._size
        )
        record.referer = self._referer
        record.agent = self._agent
        end = ResponseEnd(record)
        if keep_alive:
            self.end_keepalive = end
        else:
            self.end_close = end
        return end


SERVER_LINE = f"Server: rawservers/{__version__}\r\n"
EMPTY = Response(204)
