"""Conditional requests: validators, preconditions and their responses, RFC 9110 §8.8 and §13.

A file has two validators: an entity tag, made from its size and its mtime in nanoseconds, and its mtime in seconds, sent as
Last-Modified. Where the mtime is not reliable (`is_reliable`), the tag is a fingerprint, and dates in the request are ignored,
as §13.1.4 demands for what has no modification date. Preconditions are evaluated before ranges (§13.2.2, see ranges.py), for a
file whose response would be 200.

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

ENTITY_TAG = r'"[^"]*"|W/"[^"]*"'  # each alternative begins with its first character: fast to skip other text
OPAQUE_TAG = r'"[^"]*"'
ENTITY_TAGS = rf'(?:[\t ,]*+(?:W/)?"[!#-~\x80-\xff]*+"(?=[\t ]*+(?:,|\Z))){{0,{MAX_TAGS}}}+[\t ,]*+'

# Seconds since 1970. Builders of packages and images give all files one mtime, mostly 0 or 1, so that equal input gives equal
# output: Nix, Guix, OSTree.
YEAR_1980 = 315_532_800

HEADERS_OF_304 = {"cache-control", "content-location", "etag", "expires", "vary"}  # those a cache needs (§15.4.5)


def is_reliable(modified: int, now: float) -> bool:
    """Whether an mtime tells versions of a file apart: not one before 1980, or in the future. Both in seconds since 1970."""
    return YEAR_1980 <= modified <= now


def version(mtime_ns: int, size: int) -> str:
    """The version of a file by a reliable mtime, in nanoseconds since 1970, and the size in bytes.

    It is the same for copies with the same mtime, so that several servers can share clients.
    """
    return f"{mtime_ns:x}-{size:x}"


def fingerprint(data: bytes) -> str:
    """The version of a file by its content, or by what else differs between versions: a hash of 120 bits."""
    from hashlib import blake2b  # here, since it loads OpenSSL, and is rarely needed

    return blake2b(data, digest_size=15).hexdigest()


def etag(version: str, coding: str = "") -> str:
    """The strong entity tag, quoted, of a version of a file (§8.8.3); "" for the version "". coding: of its content."""
    return version and f'"{version}{coding and "-" + coding}"'


def precondition(request: Request, tag: str, modified: int | None, now: float) -> int | None:
    """The status by the preconditions of a GET or HEAD request: 304, 412, or None if all of them hold (§13.2.2).

    tag: the file's entity tag, a strong one, or "" without one; modified: its mtime, None if that is not reliable; now: the
    present time; both in seconds since 1970.
    """
    fields = request.fields
    dates = {} if modified is None else fields  # (§13.1.4)
    modified = modified or 0
    if "if-match" in fields:
        if not _matches(fields["if-match"], tag, ENTITY_TAG):
            return 412
    elif (since := parse_date(dates.get("if-unmodified-since", ""), now)) is not None and modified > since:
        return 412
    if "if-none-match" in fields:
        return 304 if _matches(fields["if-none-match"], tag, OPAQUE_TAG) else None
    since = parse_date(dates.get("if-modified-since", ""), now)
    return 304 if since is not None and modified <= since <= now else None  # no date in the future (RFC 1945 §10.9)


def _matches(value: str, tag: str, member: str) -> bool:
    """Whether a list of entity tags contains `tag`. member: ENTITY_TAG for strong comparison, OPAQUE_TAG for weak (§8.8.3.2).

    Text after the first MAX_TAGS of them is ignored, even if malformed.
    """
    if value == "*":
        return True
    begun = re.match(ENTITY_TAGS, value)
    head = begun[0] if begun else ""  # the pattern matches any text, at least with ""
    members = re.findall(member, head)
    return tag in members and (len(head) == len(value) or len(members) == MAX_TAGS)  # else one of them is malformed


def not_modified(headers: Headers) -> Response:
    """The 304 response in place of the 200 with these header fields."""
    return Response(304, [field for field in headers if field[0].lower() in HEADERS_OF_304])
