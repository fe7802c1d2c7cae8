"""The response writer: Response -> bytes.

A response is sent as its status line, the common headers (Date, Connection, Server), its other headers, and its body. The
common headers depend on the time and the connection; everything else can be serialized once and sent again (see cache.py). Each
response has the version that its request asks for, and a Content-Length, except that to a HEAD request, which may lack it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from rawservers import __version__
from rawservers.core.protocol import FileSlice, ResponseEnd
from rawservers.http.dates import http_date
from rawservers.http.escapes import escape
from rawservers.http.request import TOKEN, VALUE, Request
from rawservers.http.stream import Item, Stream

if TYPE_CHECKING:
    from pathlib import Path

REASONS = {  # of RFC 9110, and of the registry. Not those of the module http, which differ between versions of Python
    100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints", 200: "OK", 201: "Created",
    202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content", 205: "Reset Content", 206: "Partial Content",
    207: "Multi-Status", 208: "Already Reported", 226: "IM Used", 300: "Multiple Choices", 301: "Moved Permanently",
    302: "Found", 303: "See Other", 304: "Not Modified", 305: "Use Proxy", 307: "Temporary Redirect",
    308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required",
    408: "Request Timeout", 409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed",
    413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable",
    417: "Expectation Failed", 418: "I'm a Teapot", 421: "Misdirected Request", 422: "Unprocessable Content", 423: "Locked",
    424: "Failed Dependency", 425: "Too Early", 426: "Upgrade Required", 428: "Precondition Required",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates", 507: "Insufficient Storage",
    508: "Loop Detected", 510: "Not Extended", 511: "Network Authentication Required",
}  # fmt: skip
STATUS_LINES = {  # shared by all responses of a status
    (version, status): f"{version.decode()} {status} {reason}\r\n".encode()
    for version in (b"HTTP/1.0", b"HTTP/1.1")
    for status, reason in REASONS.items()
}
TEXT = "text/plain; charset=utf-8"
RESERVED_HEADERS = {"connection", "content-length", "date", "server", "transfer-encoding"}
BODILESS_STATUSES = {204, 205, 304}  # without a body, and but for 205 without a Content-Length (RFC 9110 §8.6, §15.3.6)

ERROR_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{status} {reason}</title>
<style>body {{ font: 1.1rem/1.5 system-ui, sans-serif; margin: 15vh auto 0; max-width: 32rem; padding: 0 1rem }}</style>
<main>
<h1>{status} {reason}</h1>
<p>{message}</p>
{more}</main>
</html>
"""

Headers: TypeAlias = Sequence[tuple[str, str]]
# Small content, part of a file, or pieces of both; a file to open; or what is made while it is sent.
Body: TypeAlias = "bytes | FileSlice | tuple[bytes | FileSlice, ...] | Path | Stream"


class Response:
    """A response: status, header fields, body. Content-Length, Date, Connection and Server are added when it is serialized.

    headers: pairs or a mapping. body: bytes; text, sent as UTF-8; the Path of a file, which is opened once the handler has
    returned; or an iterator of bytes or text. Text and files get a Content-Type, unless `headers` has one.

    An iterator is asked again once all it has given was sent. It runs in the event loop, so it must give each item quickly; a
    number in place of bytes is the seconds to wait before it is asked again. The end of the connection is the end of such a
    body; for an HTTP/1.1 client, and with `http.version = "1.1"`, it is sent in chunks, and the connection persists. A client
    that has closed its connection is noticed only when something is sent to it (it may as well have closed its sending side
    alone), so a body with long pauses should send something now and then.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int = 200,
        headers: Headers | Mapping[str, str] = (),
        body: Body | str | Iterator[Item] = b"",
    ) -> None:
        self.status = status
        self.headers = list(headers.items()) if isinstance(headers, Mapping) else headers
        self.body: Body = body if isinstance(body, bytes | FileSlice | tuple | Stream) else self._converted(body)

    def _converted(self, body: str | Path | Iterator[Item]) -> Body:
        """The body made from text or an iterator, or a path as it is. Raises TypeError."""
        if isinstance(body, str):
            self.headers = with_type(self.headers, TEXT)
            return body.encode()
        if isinstance(body, Iterator):
            return Stream(body)
        if hasattr(type(body), "__fspath__"):  # a Path, without the import of it
            return body
        raise TypeError(f"not a body: {body!r} (bytes, str, Path or an iterator)")

    @classmethod
    def json(cls, value: object, status: int = 200, headers: Headers | Mapping[str, str] = ()) -> Self:
        """A response with `value` as JSON. Raises TypeError or ValueError, as `json.dumps` does."""
        import json

        response = cls(status, headers, json.dumps(value).encode())
        response.headers = with_type(response.headers, "application/json")
        return response


def with_type(headers: Headers, kind: str) -> Headers:
    """The header fields, with a Content-Type of `kind` unless they have one."""
    has_type = any(name.lower() == "content-type" for name, _ in headers)
    return headers if has_type else [*headers, ("Content-Type", kind)]


def as_private(headers: Headers) -> Headers:
    """The header fields, with "Cache-Control: private" (RFC 9111 §5.2.2.7), unless they say who may store the response."""
    control = ", ".join(value for name, value in headers if name.lower() == "cache-control")
    if re.search(r"\b(?:no-store|private|public)\b", control, re.IGNORECASE):
        return headers
    return [
        *(field for field in headers if field[0].lower() != "cache-control"),
        ("Cache-Control", f"private, {control}".rstrip(", ")),
    ]


def body_length(body: Body) -> int:
    """The length of a body in bytes, 0 if it is not known yet."""
    if isinstance(body, tuple):
        return sum([len(piece) if isinstance(piece, bytes) else piece.count for piece in body])
    return len(body) if isinstance(body, bytes) else body.count if isinstance(body, FileSlice) else 0


def error_response(status: int, message: str, headers: Headers = (), home: str = "") -> Response:
    """A response with an HTML error page. message: a sentence for people, as plain text; home: a URL to link to, if any."""
    more = f'<p><a href="{home}">Home</a></p>\n' if home else ""
    page = ERROR_PAGE.format(status=status, reason=REASONS[status], message=escape(message), more=more)
    return Response(status, [("Content-Type", "text/html; charset=utf-8"), *headers], page.encode())


def check_headers(headers: Headers) -> None:
    """Check the syntax of header fields. Raises ValueError or TypeError, also for fields that the server sets itself."""
    for name, value in headers:
        check_header(name, value)
        if name.lower() in RESERVED_HEADERS:
            raise ValueError(f"header is set by the server: {name}")


def check_header(name: str, value: str) -> None:
    """Check the syntax of a header field. Raises ValueError or TypeError."""
    if not (isinstance(name, str) and isinstance(value, str)):
        raise TypeError(f"header is not text: {name!r}: {value!r}")
    if not re.fullmatch(TOKEN, name) or not re.fullmatch(VALUE, value):
        raise ValueError(f"malformed header: {name!r}: {value!r}")


class Busy(OSError):
    """Too many builds, verifications or requests are waiting."""


class CommonHeaders:
    """The Date, Connection and Server lines, the same in all responses of one second.

    server: whether there is a Server line. begin, end: of the second that the lines are made for, since 1970. keep_alive_lines,
    close_lines: the lines for a connection that stays open, and for one that is closed.
    """

    __slots__ = ("_server", "begin", "close_lines", "end", "keep_alive_lines")

    def __init__(self, server: bool = True) -> None:
        self._server = SERVER_LINE if server else ""
        self.refresh(0)

    def refresh(self, second: int) -> None:
        """Make the lines of another second."""
        self.begin, self.end = float(second), float(second + 1)
        date = f"Date: {http_date(second)}\r\nConnection: "
        self.keep_alive_lines = f"{date}keep-alive\r\n{self._server}".encode()
        self.close_lines = f"{date}close\r\n{self._server}".encode()


class AccessRecord:
    """A response, as the access log records it.

    line:       the request line, as sent
    status:     the status code
    head_size:  bytes of the response head
    body_size:  bytes of the body to send, without the head
    referer:    the Referer field, or ""
    agent:      the User-Agent field, or ""
    forwarded:  as in the Request
    text:       the formatted log line, kept here by the access log
    """

    __slots__ = ("agent", "body_size", "forwarded", "head_size", "line", "referer", "status", "text")

    def __init__(self, line: str, status: int, head_size: int, body_size: int, referer: str = "", agent: str = "") -> None:
        self.line, self.status, self.head_size, self.body_size = line, status, head_size, body_size
        self.referer, self.agent = referer, agent
        self.forwarded: Mapping[str, str] | None = None
        self.text = ""

    def with_head_size(self, head_size: int) -> AccessRecord:
        """The same record of a response with a head of this size."""
        record = type(self)(self.line, self.status, head_size, self.body_size, self.referer, self.agent)
        record.forwarded, record.text = self.forwarded, self.text
        return record


class UnloggedRecord(AccessRecord):
    """The record of a response that is not logged."""

    __slots__ = ()


class UserRecord(AccessRecord):
    """The record of a response to an authenticated user. user: the name as UTF-8, in Latin-1 as all text of a request."""

    __slots__ = ("user",)

    def __init__(self, *fields: Any, user: str = "") -> None:
        super().__init__(*fields)
        self.user = user

    def with_head_size(self, head_size: int) -> UserRecord:
        record = UserRecord(self.line, self.status, head_size, self.body_size, self.referer, self.agent, user=self.user)
        record.forwarded, record.text = self.forwarded, self.text
        return record


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

        sized: whether the length of the body is known; otherwise the response has no Content-Length.
        """
        status = response.status
        size = body_length(response.body) if status != 205 else 0
        head = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        bodiless = status in BODILESS_STATUSES or request.method == "HEAD"
        if status == 205 or (status not in BODILESS_STATUSES and sized):
            head += f"Content-Length: {size}\r\n"
        elif not sized and not bodiless and type(response.body) is Stream and response.body.is_chunked:
            head += "Transfer-Encoding: chunked\r\n"
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
        if request.user:
            user = request.user.encode().decode("latin-1")
            self.record = UserRecord(request.line, status, head_size, self.record.body_size, user=user)
        self.set_log_fields(request.fields, request.forwarded)

    def set_log_fields(self, fields: Mapping[str, str], forwarded: Mapping[str, str] | None) -> None:
        """Use Referer and User-Agent of `fields` for the access log from now on, and what proxies have sent in `forwarded`."""
        self.record.referer, self.record.agent = fields.get("referer", ""), fields.get("user-agent", "")
        self.record.forwarded = forwarded
        self.end_keepalive: ResponseEnd | None = None
        self.end_close: ResponseEnd | None = None

    def make_end(self, keep_alive: bool, lines: bytes) -> ResponseEnd:
        """The chunk that ends the response. keep_alive: whether the connection stays open; lines: the common headers sent."""
        end = ResponseEnd(self.record.with_head_size(self.record.head_size + len(lines)))
        if keep_alive:
            self.end_keepalive = end
        else:
            self.end_close = end
        return end


SERVER_LINE = f"Server: rawservers/{__version__}\r\n"
EMPTY = Response(204)
