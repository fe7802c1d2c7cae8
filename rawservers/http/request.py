"""The request parser: bytes -> Request, by RFC 1945 and RFC 9112.

A request head is validated as a whole, by a few compiled patterns, before any part of it is used. The first check that fails
decides the response, in this order: request line, header syntax, Host, body length, method, target. Where the end of the
request is in doubt (a malformed Content-Length, any Transfer-Encoding), the connection is closed after the response, so that
what follows is never parsed as another request (request smuggling).

Text is Latin-1 throughout: each octet is one character, nothing is lost, and no octet matches white space or digits that exist
in Unicode only. The patterns list what is allowed, not what is forbidden.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

FIELD_LIMIT = 100  # header lines, as Apache's LimitRequestFields

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = r"[\t -~\x80-\xff]*"
REQUEST_LINE = re.compile(rf"({TOKEN}) ([!-~]+) HTTP/([0-9])\.([0-9])\r?\n")
SIMPLE_REQUEST = re.compile(r"GET ([!-~]+)\r?\n")
FIELDS = re.compile(rf"(?:{TOKEN}:{VALUE}\r?\n)*\r?\n")
FIELD = re.compile(r"([^:\r\n]+):[\t ]*([^\r\n]*)")
HOST_NAME = r"(?:(?=[^:]*[^.:])[0-9A-Za-z._~%-]+|\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*])"
HOST = re.compile(rf"{HOST_NAME}(?::([0-9]{{0,5}}))?")
CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")
ABSOLUTE_FORM = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)")

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"})
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


class HTTPError(Exception):
    """An HTTP error response to a request: its status, and a sentence for the error page. The connection is closed after it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


@dataclass(slots=True, eq=False)
class Request:
    """A request whose head is valid, except for its target, which `decode_target` checks.

    head:        the exact bytes of the head
    line:        the request line, without its line end
    method:      as sent
    target:      as sent
    version:     (1, 0) or (1, 1); (0, 9) for a simple request
    fields:      header field values by lower-case name; repeated fields are joined by ", " (RFC 9110 §5.3)
    host:        the host name in lower case, without the port; "" if the request has none
    length:      length of the body in bytes
    keep_alive:  whether the connection stays open after the response. None for an HTTP/1.0 request without a Connection field:
                 if its client is known to understand persistence
    body:        the body
    query:       the query with its "?", "" if there is none; set by `decode_target`
    steps:       steps of work that the response takes, see core/protocol.py
    """

    head: bytes
    line: str
    method: str
    target: str
    version: tuple[int, int]
    fields: dict[str, str] = field(default_factory=dict)
    host: str = ""
    length: int = 0
    keep_alive: bool | None = False
    body: bytes = b""
    query: str = ""
    steps: int = 0
    _path: bytes | None = None

    @property
    def path(self) -> str:
        """The path as text; bytes that are not UTF-8 are surrogates (PEP 383). Raises HTTPError."""
        return self.decode_target().decode("utf-8", "surrogateescape")

    def decode_target(self) -> bytes:
        """The path in bytes, percent-decoded once (RFC 1945 §5.1.2); sets `query`. Raises HTTPError.

        The host of a target in absolute form replaces that of the Host field (RFC 9112 §3.2.2).
        """
        if self._path is None:
            self._path = self._decode_target()
        return self._path

    def _decode_target(self) -> bytes:
        target = self.target
        if not target.startswith("/"):
            self.host, target = _split_absolute(target)
        if "#" in target:
            raise HTTPError(400, "The request target contains a fragment (#).")
        path, mark, query = target.partition("?")
        self.query = mark + query
        if "%" not in path:
            return path.encode("latin-1")
        if re.search("%(?![0-9A-Fa-f]{2})", path):
            raise HTTPError(400, "The path contains a percent sign that is not followed by two hexadecimal digits.")
        if "%00" in path:
            raise HTTPError(400, "The path contains a NUL byte.")
        if re.search("%2f", path, re.IGNORECASE):
            raise HTTPError(404, "The path contains an encoded slash (%2F), and no file name contains a slash.")
        return unquote_to_bytes(path)


def path_or_none(request: Request) -> bytes | None:
    """The path in bytes, or None if the target is malformed: for routing, which comes before the error response."""
    try:
        return request.decode_target()
    except HTTPError:
        return None


def parse_simple(line: bytes) -> Request | None:
    """The HTTP/0.9 request (RFC 1945 §5) on `line`, line end included; None if it is not one."""
    match = SIMPLE_REQUEST.fullmatch(line.decode("latin-1"))
    return match and Request(line, match[0].rstrip("\r\n"), "GET", match[1], (0, 9))


def parse(head: bytes) -> Request:
    """The request with the complete head `head`, blank line included. Raises HTTPError."""
    text = head.decode("latin-1")
    match = check_request_line(text)
    if FIELDS.fullmatch(text, match.end()) is None:
        raise HTTPError(400, "The request contains a malformed header line.")
    fields = parse_fields(text[match.end() :])
    request = Request(head, match[0].rstrip("\r\n"), match[1], match[2], (1, min(int(match[4]), 1)), fields)
    request.host = _host(request)
    request.length = _content_length(request)
    request.keep_alive = _keep_alive(request)
    if request.method not in KNOWN_METHODS:
        raise HTTPError(501, "This server does not implement the request method.")
    return request


def check_request_line(text: str) -> re.Match[str]:
    """The match of REQUEST_LINE at the beginning of `text`. Raises HTTPError unless the version is one of HTTP/1."""
    match = REQUEST_LINE.match(text)
    if match is None:
        raise HTTPError(400, "The request line is malformed.")
    if match[3] != "1":
        raise HTTPError(505, "This server supports HTTP/1.0 and HTTP/1.1 requests only.")
    return match


def parse_fields(lines: str) -> dict[str, str]:
    """The fields of well-formed header lines, as in `Request.fields`. Raises HTTPError if there are more than FIELD_LIMIT."""
    pairs = FIELD.findall(lines)
    if len(pairs) > FIELD_LIMIT:
        raise HTTPError(431, f"The request has more than {FIELD_LIMIT} header lines.")
    fields: dict[str, str] = {}
    for name, value in pairs:
        name, value = name.lower(), value.rstrip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _host(request: Request) -> str:
    """The host name. RFC 9112 §3.2: at most one valid Host field, in HTTP/1.1 exactly one."""
    value = request.fields.get("host", "")
    if "," in value:  # repeated fields are joined by a comma, and no valid host has one
        raise HTTPError(400, "The request has more than one Host header.")
    if not value and request.version == (1, 1):
        raise HTTPError(400, "An HTTP/1.1 request must have a Host header.")
    return value and parse_host(value)


def parse_host(value: str) -> str:
    """The host name of `host[:port]`, in lower case. Raises HTTPError."""
    match = HOST.fullmatch(value)
    if match is None or int(match[1] or 0) > 65535:
        raise HTTPError(400, "The host name is malformed.")
    return value[: match.start(1) - 1 if match[1] is not None else None].lower()


def _content_length(request: Request) -> int:
    """The length of the body in bytes (RFC 9112 §6.3). Raises HTTPError unless it is unambiguous."""
    value = request.fields.get("content-length")
    coding = request.fields.get("transfer-encoding")
    if coding is not None:
        if request.version == (1, 1) and coding.lower() == "chunked" and value is None:
            raise HTTPError(501, "This server does not support chunked requests. Send a Content-Length.")
        raise HTTPError(400, "The Transfer-Encoding is malformed, or not allowed in this request.")
    if value is None:
        return 0
    if CONTENT_LENGTH.fullmatch(value) is None:  # repeated fields are joined by a comma
        raise HTTPError(400, "The Content-Length is malformed.")
    if value.strip("0") and request.method in {"GET", "HEAD"}:
        raise HTTPError(400, "A GET or HEAD request must not have a body.")
    return int(value)


def _keep_alive(request: Request) -> bool | None:
    """Whether the connection persists. RFC 9112 §9.3: "close" wins over "keep-alive"; by default only HTTP/1.1 persists."""
    value = request.fields.get("connection")
    modern = request.version == (1, 1)
    if not modern and request.method in BODY_METHODS and (value is None or "content-length" not in request.fields):
        return False  # an HTTP/1.0 body without a length ends with the connection
    if value is None:
        return modern or None
    options = {option.strip(" \t") for option in value.lower().split(",")}
    return "close" not in options and (modern or "keep-alive" in options)


def _split_absolute(target: str) -> tuple[str, str]:
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise HTTPError(400, "The request target is malformed.")
    scheme, authority, rest = match.groups()
    if scheme.lower() != "http":
        raise HTTPError(400, f"This server does not serve {scheme} URLs.")
    return parse_host(authority), rest if rest.startswith("/") else "/" + rest
