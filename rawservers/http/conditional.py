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
from rawservers.http.response import Headers, Response

# Entity tags in one field that are compared. A client sends one for each variant in its cache, so a few at most; a request head
# has room for some 8,000.
MAX_TAGS = 256

ENTITY_TAG = re.compile(r'"[^"]*"|W/"[^"]*"')  # each alternative begins with its first character: fast to skip other text
OPAQUE_TAG = re.compile(r'"[^"]*"')
ENTITY_TAGS = re.compile(rf'(?:[\t ,]*+(?:W/)?"[!#-~\x80-\xff]*+"(?=[\t ]*+(?:,|\Z))){{0,{MAX_TAGS}}}+[\t ,]*+')

HEADERS_OF_304 = {"cache-control", "content-location", "etag", "expires", "vary"}  # those a cache needs (§15.4.5)


def etag(mtime_ns: int, size: int, coding: str = "") -> str:
    """The strong entity tag, quoted, of a file (§8.8.3). mtime_ns: nanoseconds since 1970; size: bytes; coding: of its content.

    It is the same for copies with the same mtime, so that several servers can share clients.
    """
    return f'"{mtime_ns:x}-{size:x}{coding and "-" + coding}"'


def precondition(request: Request, tag: str, modified: int, now: float) -> int | None:
    """The status by the preconditions of a GET or HEAD request: 304, 412, or None if all of them hold (§13.2.2).

    tag: the file's entity tag, a strong one; modified: its mtime, even if in the future: then no If-Modified-Since matches;
    now: the present time; both in seconds since 1970.
    """
    fields = request.fields
    if "if-match" in fields:
        if not _matches(fields["if-match"], tag, ENTITY_TAG):
            return 412
    elif (since := parse_date(fields.get("if-unmodified-since", ""), now)) is not None and modified > since:
        return 412
    if "if-none-match" in fields:
        return 304 if _matches(fields["if-none-match"], tag, OPAQUE_TAG) else None
    since = parse_date(fields.get("if-modified-since", ""), now)
    return 304 if since is not None and modified <= since <= now else None  # no date in the future (RFC 1945 §10.9)


def _matches(value: str, tag: str, member: re.Pattern[str]) -> bool:
    """Whether a list of entity tags contains `tag`. member: ENTITY_TAG for strong comparison, OPAQUE_TAG for weak (§8.8.3.2).

    Text after the first MAX_TAGS of them is ignored, even if malformed.
    """
    if value == "*":
        return True
    begun = ENTITY_TAGS.match(value)
    head = begun[0] if begun else ""  # the pattern matches any text, at least with ""
    members = member.findall(head)
    return tag in members and (len(head) == len(value) or len(members) == MAX_TAGS)  # else one of them is malformed


def not_modified(headers: Headers) -> Response:
    """The 304 response in place of the 200 with these header fields, which include an ETag."""
    return Response(304, [field for field in headers if field[0].lower() in HEADERS_OF_304])
