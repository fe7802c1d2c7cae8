"""The request parser: bytes -> Request, by RFC 1945 and RFC 9112.

A request head is validated as a whole, by a few compiled patterns, before any part of it is used. The first check that fails
decides the response, in this order: request line, header syntax, Host, body length, method, target. Where the end of the
request is in doubt (a malformed Content-Length, a Transfer-Encoding that is not just "chunked"), the connection is closed after
the response, so that what follows is never parsed as another request (request smuggling).

Text is Latin-1 throughout: each octet is one character, nothing is lost, and no octet matches white space or digits that exist
in Unicode only. The patterns list what is allowed, not what is forbidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rawservers.core.peer import Address, Clock, Peer

FIELD_LIMIT = 100  # header lines, as Apache's LimitRequestFields

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = r"[\t -~\x80-\xff]*"
QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
REQUEST_LINE = re.compile(rf"({TOKEN}) ([!-~]+)(?: HTTP/([0-9])\.([0-9]))?\r?\n")
FIELDS = re.compile(rf"(?:{TOKEN}:{VALUE}\r?\n)*\r?\n")
FIELD = re.compile(r"([^:\r\n]+):[\t ]*([^\r\n]*)")
# RFC 3986 §3.2.2: reg-name and IP-literal, the latter with a zone as RFC 6874 writes it, or as clients do. Without the comma,
# by which repeated fields are joined, and names of dots only.
UNRESERVED = r"[0-9A-Za-z._~-]|%[0-9A-Fa-f]{2}"
REG_NAME = rf"(?!\.*(?::|\Z))(?:[!$&'()*+;=]|{UNRESERVED})++"
IP_LITERAL = rf"\[(?:([0-9A-Fa-f:.]++)(?:%(?:{UNRESERVED})++)?|[Vv][0-9A-Fa-f]++\.(?:[0-9A-Za-z._~!$&'()*+;=:-])++)\]"
HOST_NAME = rf"(?:{REG_NAME}|{IP_LITERAL})"
HOST = re.compile(rf"({HOST_NAME})(?::0*+([0-9]{{0,5}}))?")
CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")
CODING = rf"(?!(?i:chunked)[\t ,;]){TOKEN}(?:[\t ]*;[\t ]*{TOKEN}[\t ]*=[\t ]*(?:{TOKEN}|{QUOTED}))*"  # any but chunked
CODINGS = rf"(?:{CODING}[\t ]*,[\t ]*)*(?i:chunked)"  # RFC 9112 §6.1: chunked once, and last
CODING_LINE = rb"\n(?i:transfer-encoding):"
METHODS = {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}  # others are answered by 501
NO_PEER = Peer(("", 0), Clock())


class HTTPError(Exception):
    """An HTTP error response to a request: its status, and a sentence for the error page. The connection is closed after it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


def require(valid: object, status: int, message: str) -> None:
    """Raise HTTPError unless `valid`."""
    if not valid:
        raise HTTPError(status, message)


class HeaderFields(dict[str, str]):
    """Header fields by name, in lower case; look-ups ignore case."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class Request:
    """A request. The head is valid but for the target, which target.py decodes; of a malformed head only `line` is known.

    head:        the exact bytes of the head, or of as much as has arrived
    line:        the request line, without its line end
    method:      as sent
    target:      as sent
    version:     (1, 0) or (1, 1); (0, 9) for a simple request
    fields:      header field values by lower-case name; repeated fields are joined by ", " (RFC 9110 §5.3)
    host:        the host name in lower case, without the port, a final dot, and a zone; an IPv6 address in its shortest form.
                 "" if the request has none
    length:      length of the body in bytes; -1 for a chunked one until all of it has arrived
    response_version: of the status line of its response
    keep_alive:  whether the connection stays open after the response. None for an HTTP/1.0 request without a Connection field:
                 if its client is known to understand persistence
    body:        the body
    query:       the query with its "?", "" if there is none
    path_bytes:  the path, normalised, then percent-decoded once, see target.py; b"" for a target that is none, or is malformed
    user:        the authenticated user (auth.py); "" if the path needs none
    steps:       steps of work that the response takes, see core/protocol.py
    peer:        the connection that it has come on: `peer.address`, and `peer.local`, the address that was connected to
    client:      address of the client: that of the peer, unless a trusted proxy has named another one
    scheme:      "https" if the client uses TLS, as far as is known, else "http"
    forwarded:   the fields in which proxies have named the client; None if there are none, or no proxy is trusted
    discards_body: whether the body is discarded unread
    """

    __slots__ = (
        "body", "client", "discards_body", "fields", "forwarded", "head", "host", "keep_alive", "length", "line", "method",
        "path_bytes", "peer", "query", "response_version", "scheme", "steps", "target", "user", "version",
    )  # fmt: skip

    def __init__(
        self,
        head: bytes,
        line: str,
        method: str,
        target: str,
        version: tuple[int, int],
        fields: dict[str, str] | None = None,
        host: str = "",
        length: int = 0,
        response_version: bytes = b"HTTP/1.0",
        keep_alive: bool | None = False,
        body: bytes = b"",
        query: str = "",
        path_bytes: bytes = b"",
        user: str = "",
        peer: Peer = NO_PEER,
        client: Address = ("", 0),
        scheme: str = "http",
    ) -> None:
        self.head, self.line, self.method, self.target, self.version = head, line, method, target, version
        self.fields = {} if fields is None else fields
        self.host, self.length, self.response_version, self.keep_alive = host, length, response_version, keep_alive
        self.body, self.query, self.path_bytes, self.user = body, query, path_bytes, user
        self.steps, self.peer, self.client, self.scheme = 0, peer, client, scheme
        self.forwarded: Mapping[str, str] | None = None
        self.discards_body = False

    def __repr__(self) -> str:
        return f"<Request {self.line!r} of {self.client[0]}>"

    @property
    def is_secure(self) -> bool:
        """Whether the client uses TLS, as far as is known."""
        return self.scheme == "https"

    @property
    def path(self) -> str:
        """The path as text; bytes that are not UTF-8 are surrogates (PEP 383)."""
        return self.path_bytes.decode("utf-8", "surrogateescape")

    @property
    def headers(self) -> HeaderFields:
        """`fields`, whose names may be written in any case."""
        return HeaderFields(self.fields)

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        import json  # here, as elsewhere: most requests and responses have none

        return json.loads(self.body)


def parse(head: bytes) -> Request:
    """The request with the complete head `head`: up to the blank line, or the line of a simple request. Raises HTTPError."""
    text = head.decode("latin-1")
    match = check_request_line(text)
    line, method, target, minor = match[0].rstrip("\r\n"), match[1], match[2], match[4]
    if minor is None:
        return Request(head, line, method, target, (0, 9))
    require(FIELDS.fullmatch(text, match.end()), 400, "The request contains a malformed header line.")
    request = Request(head, line, method, target, (1, min(int(minor), 1)), parse_fields(text[match.end() :]))
    request.host = _host(request)
    request.length = _content_length(request)
    request.keep_alive = _keep_alive(request)
    require(method in METHODS, 501, "This server does not implement the request method.")
    return request


def check_request_line(text: str) -> re.Match[str]:
    """The match of REQUEST_LINE at the beginning of `text`. Raises HTTPError.

    Its group 3 is "1", or None for a simple request, of HTTP/0.9 (RFC 1945 §5).
    """
    match = REQUEST_LINE.match(text)
    if match is None or (match[3] is None and match[1] != "GET"):
        raise HTTPError(400, "The request line is malformed.")
    require(match[3] in {None, "1"}, 505, "This server supports HTTP/1.0 and HTTP/1.1 requests only.")
    return match


def parse_fields(lines: str) -> dict[str, str]:
    """The fields of well-formed header lines, as in `Request.fields`. Raises HTTPError if there are more than FIELD_LIMIT."""
    pairs = FIELD.findall(lines)
    require(len(pairs) <= FIELD_LIMIT, 431, f"The request has more than {FIELD_LIMIT} header lines.")
    fields: dict[str, str] = {}
    for name, value in pairs:
        name, value = name.lower(), value.rstrip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _host(request: Request) -> str:
    """The host name. RFC 9112 §3.2: at most one valid Host field, in HTTP/1.1 exactly one."""
    value = request.fields.get("host", "")
    require("," not in value, 400, "The request has more than one Host header.")  # repeated fields are joined by a comma
    require("host" in request.fields or request.version == (1, 0), 400, "An HTTP/1.1 request must have a Host header.")
    return value and valid_host(value)


def valid_host(value: str) -> str:
    """`parse_host`, for a request. Raises HTTPError."""
    try:
        return parse_host(value)
    except ValueError:
        raise HTTPError(400, "The host name is malformed.") from None


def parse_host(value: str) -> str:
    """The host name of `host[:port]`, by which sites are found: see `Request.host`. Raises ValueError."""
    match = HOST.fullmatch(value)
    if match and int(match[3] or 0) <= 65535:
        if match[2] is None:
            return match[1].lower().rstrip(".")
        from ipaddress import IPv6Address  # here, since few requests need it

        with suppress(ValueError):
            return f"[{IPv6Address(match[2])}]"
    raise ValueError(f"malformed host name: {value!r}")


def _content_length(request: Request) -> int:
    """The length of the body in bytes, -1 if it is chunked (RFC 9112 §6.3). Raises HTTPError unless it is unambiguous."""
    fields = request.fields
    bodiless = request.method in {"GET", "HEAD"}
    coding = fields.get("transfer-encoding")
    if coding is not None:
        allowed = request.version == (1, 1) and "content-length" not in fields and not bodiless
        valid = re.fullmatch(CODINGS, coding) and len(re.findall(CODING_LINE, request.head)) == 1
        require(allowed and valid, 400, "The Transfer-Encoding is malformed, or not allowed in this request.")
        require(coding.lower() == "chunked", 501, "This server does not implement transfer codings other than chunked.")
        return -1
    value = fields.get("content-length", "0")
    require(CONTENT_LENGTH.fullmatch(value), 400, "The Content-Length is malformed.")  # also two fields, joined by a comma
    length = int(value)
    require(not length or not bodiless, 400, "A GET or HEAD request must not have a body.")
    return length


def _keep_alive(request: Request) -> bool | None:
    """Whether the connection persists. RFC 9112 §9.3: "close" wins over "keep-alive"; by default only HTTP/1.1 persists."""
    value = request.fields.get("connection")
    modern = request.version == (1, 1)
    if not modern and request.method in {"POST", "PUT", "PATCH"} and "content-length" not in request.fields:
        return False  # an HTTP/1.0 body without a length ends with the connection
    if value is None:
        return modern or None
    options = {option.strip(" \t") for option in value.lower().split(",")}
    return "close" not in options and (modern or "keep-alive" in options)
