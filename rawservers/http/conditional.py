"""Conditional requests: validators, preconditions and their responses, RFC 9110 §8.8 and §13.

A file has two validators: an entity tag, made from its size and its mtime in nanoseconds, and its mtime in seconds, sent as
Last-Modified. Preconditions are evaluated before ranges (§13.2.2, see ranges.py), for a file whose response would be 200.

Malformed fields never lead to a 304 by mistake. A list of entity tags with a malformed member matches nothing: If-Match fails,
and If-None-Match has the file sent. A malformed or repeated date is ignored.

The cost of a request is bounded: only the first MAX_TAGS entity tags are compared, and each pattern scans its text once.
"""

from __future__ import annotations

import re

from rawservers.http.dates import parse_date
from rawservers.http.request import Request
from rawservers.http.response import Headers, Response, error_response

# Entity tags in one field that are compared. A client sends one for each variant in its cache, so a few at most; a request head
# has room for some 8,000.
MAX_TAGS = 256

ENTITY_TAG = re.compile(r'"[^"]*"|W/"[^"]*"')  # each alternative begins with its first character: fast to skip other text
OPAQUE_TAG = re.compile(r'"[^"]*"')
ENTITY_TAGS = re.compile(rf'(?:[\t ,]*+(?:W/)?"[!#-~\x80-\xff]*+"(?=[\t ]*+(?:,|\Z))){{0,{MAX_TAGS}}}+[\t ,]*+')

WITHOUT_PRECONDITIONS = frozenset({"CONNECT", "OPTIONS", "TRACE"})  # methods that select no representation (RFC 9110 §13.2.1)
HEADERS_OF_304 = frozenset({"cache-control", "content-location", "etag", "expires", "vary"})  # RFC 9110 §15.4.5


# Validators


def etag(mtime_ns: int, size: int) -> str:
    """The strong entity tag, quoted, of a file (§8.8.3). mtime_ns: nanoseconds since 1970; size: bytes.

    It is the same for copies with the same mtime, so that several servers can share clients.
    """
    return f'"{mtime_ns:x}-{size:x}"'


# Preconditions


def precondition(request: Request, tag: str, modified: int, now: float) -> int | None:
    """The status by the request's preconditions: 304, 412, or None if all of them hold (§13.2.2).

    tag: the file's entity tag; modified: its mtime, even if in the future: then no If-Modified-Since matches; now: the present
    time; both in seconds since 1970.
    """
    fields = request.fields
    reads = request.method in {"GET", "HEAD"}
    if request.method in WITHOUT_PRECONDITIONS:
        return None
    if "if-match" in fields:
        if not _matches(fields["if-match"], tag, weakly=False):
            return 412
    elif "if-unmodified-since" in fields:
        since = parse_date(fields["if-unmodified-since"], now)
        if since is not None and modified > since:
            return 412
    if "if-none-match" in fields:
        if _matches(fields["if-none-match"], tag, weakly=True):
            return 304 if reads else 412
    elif reads and "if-modified-since" in fields:
        since = parse_date(fields["if-modified-since"], now)
        if since is not None and modified <= since <= now:  # a date in the future is invalid (RFC 1945 §10.9)
            return 304
    return None


def _matches(value: str, tag: str, weakly: bool) -> bool:
    """Whether a list of entity tags contains `tag`, by weak or strong comparison (§8.8.3.2).

    Text after the first MAX_TAGS of them is ignored, even if malformed.
    """
    if value == "*":
        return True
    begun = ENTITY_TAGS.match(value)
    head = begun[0] if begun else ""  # the pattern matches any text, at least with ""
    members = (OPAQUE_TAG if weakly else ENTITY_TAG).findall(head)
    if len(head) < len(value) and len(members) < MAX_TAGS:
        return False  # a member is malformed
    return tag.removeprefix("W/") in members if weakly else tag in members and not tag.startswith("W/")


# Responses


def precondition_failed() -> Response:
    """The 412 response: the file is not in the state that the request demands (§15.5.13)."""
    return error_response(412, "This page has changed since you last saw it.")


def not_modified(headers: Headers) -> Response:
    """The 304 response in place of the 200 with these header fields, reduced to those that a cache needs (§15.4.5)."""
    tagged = any(name.lower() == "etag" for name, _ in headers)
    kept = HEADERS_OF_304 if tagged else HEADERS_OF_304 | {"last-modified"}
    return Response(304, [field for field in headers if field[0].lower() in kept])
