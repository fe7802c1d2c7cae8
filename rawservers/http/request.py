"""Bytes -> Request, by RFC 1945 and RFC 9112.

A request head is checked whole, by a few compiled patterns, before anything in it is believed. The checks come in this
order, and the first that fails decides the answer: request line, header syntax, Host, framing, method, target. Where the
end of the request is in doubt (a bad Content-Length, any Transfer-Encoding), the connection ends with the answer: what
follows can never be taken for another request.

Text is Latin-1 throughout, as HTTP's own octets are: nothing is lost, and no byte can be mistaken for white space or a
digit that only Unicode knows. The patterns say what is allowed, never what is not.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

FIELD_LIMIT = 100  # header lines; Apache's LimitRequestFields

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = r"[\t -~\x80-\xff]*"
REQUEST_LINE = re.compile(rf"({TOKEN}) ([!-~]+) HTTP/([0-9])\.([0-9])\r?\n")
SIMPLE_REQUEST = re.compile(r"GET ([!-~]+)\r?\n")
FIELDS = re.compile(rf"(?:{TOKEN}:{VALUE}\r?\n)*\r?\n")
FIELD = re.compile(r"([^:\r\n]+):[\t ]*([^\r\n]*)")
HOST = re.compile(r"(?:(?=[^:]*[^.:])[0-9A-Za-z._~%-]+|\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*])(?::([0-9]{0,5}))?")
CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")
ABSOLUTE_FORM = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)")

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"})
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


class HTTPError(Exception):
    """The request cannot be answered as it wishes: an HTTP status, and a sentence for whoever reads the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class Request:
    """A request head that has passed every check but that of its target.

    head: its exact bytes; line: the request line; method, target: as sent; version: (1, 0) or (1, 1), (0, 9) for a simple
    request; fields: header values by lower-case name, repeated ones joined by ", " (RFC 9110 §5.3); host: without the port,
    lower case, "" if the request names none; length: bytes of body that follow; keep: whether the connection is to persist;
    silent: whether the request leaves that to what was usual in HTTP/1.0, by saying nothing; body: what followed the head;
    query: with its "?", "" if there is none (once `locate` was called); steps: of work that its answer takes.
    """

    __slots__ = (
        "_path",
        "body",
        "connection_unspecified",
        "fields",
        "head",
        "host",
        "keep_alive",
        "length",
        "line",
        "method",
        "query",
        "steps",
        "target",
        "version",
    )

    def __init__(self, head: bytes, line: str, method: str, target: str, version: tuple[int, int]) -> None:
        self.head = head
        self.line = line
        self.method = method
        self.target = target
        self.version = version
        self.fields: dict[str, str] = {}
        self.host = ""
        self.length = 0
        self.keep_alive = False
        self.connection_unspecified = False
        self.body = b""
        self.query = ""
        self.steps = 0
        self._path: bytes | None = None

    @property
    def path(self) -> str:
        """The path as text; bytes in it that are not UTF-8 are surrogates (PEP 383)."""
        return self.decode_target().decode("utf-8", "surrogateescape")

    def decode_target(self) -> bytes:
        """The path, percent-decoded once (RFC 1945 §5.1.2); sets `query`. Raises Refused.

        A target in absolute form also names the host, which counts more than the Host header (RFC 9112 §3.2.2).
        """
        if self._path is None:
            self._path = self._decode_target()
        return self._path

    def _decode_target(self) -> bytes:
        target = self.target
        if not target.startswith("/"):
            self.host, target = _split_absolute(target)
        if "#" in target:
            raise HTTPError(400, "A fragment is not part of what is asked of a server.")
        path, mark, query = target.partition("?")
        self.query = mark + query
        if "%" not in path:
            return path.encode("latin-1")
        if re.search("%(?![0-9A-Fa-f]{2})", path):
            raise HTTPError(400, "A percent sign in the path is not followed by two hexadecimal digits.")
        if "%00" in path:
            raise HTTPError(400, "The path holds a NUL.")
        if re.search("%2f", path, re.IGNORECASE):
            raise HTTPError(404, "No name here holds an encoded slash.")
        return unquote_to_bytes(path)


def path_or_none(request: Request) -> bytes | None:
    """The path, or None if the target is malformed: for what comes before that is answered."""
    try:
        return request.decode_target()
    except HTTPError:
        return None


def parse_simple(line: bytes) -> Request | None:
    """The HTTP/0.9 request that `line` is (RFC 1945 §5), or None."""
    match = SIMPLE_REQUEST.fullmatch(line.decode("latin-1"))
    if match is None:
        return None
    return Request(line, match[0].rstrip("\r\n"), "GET", match[1], (0, 9))


def check_request_line(line: bytes) -> None:
    """Refuse a complete request line, with its line end, that no HTTP/1 request begins with."""
    _request_line(line.decode("latin-1"))


def parse(head: bytes) -> Request:
    """The request whose complete head, blank line included, is `head`. Raises Refused."""
    text = head.decode("latin-1")
    match = _request_line(text)
    request = Request(head, match[0].rstrip("\r\n"), match[1], match[2], (1, min(int(match[4]), 1)))
    if FIELDS.fullmatch(text, match.end()) is None:
        raise HTTPError(400, "A header line is malformed.")
    names = collect_fields(FIELD.findall(text, match.end()), request.fields)
    request.host = _host(request, names)
    request.length = _content_length(request, names)
    request.keep_alive = _is_keep_alive(request)
    request.connection_unspecified = (
        request.version == (1, 0) and "connection" not in names and request.method not in BODY_METHODS
    )
    if request.method not in KNOWN_METHODS:
        raise HTTPError(501, "This server knows no such method.")
    return request


def _request_line(text: str) -> re.Match[str]:
    match = REQUEST_LINE.match(text)
    if match is None:
        raise HTTPError(400, "The request line is malformed.")
    if match[3] != "1":
        raise HTTPError(505, "This server speaks HTTP/1.0, and understands HTTP/1.1.")
    return match


def collect_fields(pairs: list[tuple[str, str]], fields: dict[str, str]) -> list[str]:
    """Put header lines into `fields`; the names as they come, for whoever must know of repeated ones."""
    if len(pairs) > FIELD_LIMIT:
        raise HTTPError(431, f"There are more than {FIELD_LIMIT} header lines.")
    names = [name.lower() for name, _ in pairs]
    for name, (_, value) in zip(names, pairs, strict=True):
        value = value.rstrip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return names


def _host(request: Request, names: list[str]) -> str:
    """RFC 9112 §3.2: at most one Host, well formed; in HTTP/1.1 exactly one."""
    if names.count("host") > 1:
        raise HTTPError(400, "There is more than one Host header.")
    value = request.fields.get("host", "")
    if not value:
        if request.version == (1, 1):
            raise HTTPError(400, "An HTTP/1.1 request must name its Host.")
        return ""
    return parse_host(value)


def parse_host(value: str) -> str:
    match = HOST.fullmatch(value)
    if match is None or int(match[1] or 0) > 65535:
        raise HTTPError(400, "The host is malformed.")
    return value[: match.start(1) - 1 if match[1] is not None else None].lower()


def _content_length(request: Request, names: list[str]) -> int:
    """RFC 9112 §6: how long the body is, if that is beyond doubt."""
    if "transfer-encoding" in names:
        coding = request.fields["transfer-encoding"].lower()
        if request.version == (1, 1) and coding == "chunked" and "content-length" not in names:
            raise HTTPError(501, "This server does not decode transfer codings: send a Content-Length.")
        raise HTTPError(400, "This Transfer-Encoding is not allowed here.")
    if "content-length" not in names:
        return 0
    value = request.fields["content-length"]
    if CONTENT_LENGTH.fullmatch(value) is None:  # a repeated one has a comma in it
        raise HTTPError(400, "The Content-Length is malformed.")
    if value.strip("0") and request.method in {"GET", "HEAD"}:
        raise HTTPError(400, "A body has no meaning with this method.")
    return int(value)


def _is_keep_alive(request: Request) -> bool:
    """RFC 9112 §9.3: "close" wins, "keep-alive" is heeded, and without either HTTP/1.1 persists while HTTP/1.0 does not."""
    value = request.fields.get("connection")
    if value is None:
        keep_alive = request.version == (1, 1)
    else:
        options = {option.strip(" \t") for option in value.lower().split(",")}
        keep_alive = "close" not in options and (request.version == (1, 1) or "keep-alive" in options)
    if request.method in BODY_METHODS and "content-length" not in request.fields:
        return keep_alive and request.version == (1, 1)  # an HTTP/1.0 body without a length ends with the connection
    return keep_alive


def _split_absolute(target: str) -> tuple[str, str]:
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise HTTPError(400, "The request target is malformed.")
    scheme, authority, rest = match.groups()
    if scheme.lower() != "http":
        raise HTTPError(400, f"This server does not answer for {scheme} addresses.")
    return parse_host(authority), rest if rest.startswith("/") else "/" + rest
