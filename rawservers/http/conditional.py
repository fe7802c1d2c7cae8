"""Preconditions and ranges: RFC 9110 §13 and §14, of a file that is there and would be sent whole with a 200.

Two validators say which state of a file a client knows: an entity tag, made from the time of the last change in
nanoseconds and the size, and that same time in seconds, as Last-Modified has it. The questions are asked in the order
of RFC 9110 §13.2.2, preconditions first:

    precondition(request, tag, modified, now)       304, 412, or None: go on
    ranges(request, size, tag, modified, now)       [] for 416, spans for 206, or None: send it all

and each of the answers has its maker: `not_modified`, `precondition_failed`, `unsatisfiable` and `partial`.

What a client sends is doubted on the safe side. A tag that is not one matches nothing, and takes its whole list with
it: If-Match then fails, and If-None-Match has the file sent. A date that is not one, or is there twice, is as if it had
not been sent. A malformed `bytes=` is refused, since a client that asked for a part may not be prepared for the whole
of a large file; a unit nobody knows is ignored, as the RFC demands.

What one request can cost is bounded, whatever it asks for. Ranges that touch or overlap become one, so that no byte is
sent twice and nothing is to be gained from asking for it twice (CVE-2011-3192); above RANGES of them the file is sent
whole; of entity tags, the first TAGS are looked at. Every pattern reads its text once from left to right, and long
numbers are cut before they are counted with. The parts are sent in the order in which they were asked for, a coalesced
one in the place of its first member, and one part alone is never wrapped as multipart (RFC 9110 §15.3.7).
"""

from __future__ import annotations

import re

from rawservers.http.dates import parse_date
from rawservers.http.request import Request
from rawservers.http.response import Headers, Response, error_response

# Entity tags in one field that are looked at. A client has one for each variant that it keeps, so a few at the most; a head
# has room for some 8,000.
MAX_TAGS = 256

ENTITY_TAG = re.compile(r'"[^"]*"|W/"[^"]*"')  # so written that what begins no tag is skipped fast
OPAQUE_TAG = re.compile(r'"[^"]*"')
ENTITY_TAGS = re.compile(rf'(?:[\t ,]*+(?:W/)?"[!#-~\x80-\xff]*+"(?=[\t ]*+(?:,|\Z))){{0,{MAX_TAGS}}}+[\t ,]*+')

WITHOUT_PRECONDITIONS = frozenset({"CONNECT", "OPTIONS", "TRACE"})  # they select no representation (RFC 9110 §13.2.1)
HEADERS_OF_304 = frozenset({"cache-control", "content-location", "etag", "expires", "vary"})  # RFC 9110 §15.4.5


# Validators


def etag(mtime_ns: int, size: int) -> str:
    """The strong entity tag, quoted, of a file last changed `mtime_ns` ns after 1970 and `size` bytes long (§8.8.3).

    It is the same wherever a copy has kept its time, so that servers side by side agree.
    """
    return f'"{mtime_ns:x}-{size:x}"'


# Preconditions


def precondition(request: Request, tag: str, modified: int, now: float) -> int | None:
    """The status that the request's preconditions call for, 304 or 412; None if they leave it be (§13.2.2).

    tag: the file's entity tag; modified: when it last changed; now: the time; both in seconds since 1970. If it changed
    in the future, `modified` should say so: then no date vouches for it.
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
        if since is not None and modified <= since <= now:  # one in the future is invalid (RFC 1945 §10.9)
            return 304
    return None


def _matches(value: str, tag: str, weakly: bool) -> bool:
    """Whether a list of entity tags names `tag`, by weak or strong comparison (§8.8.3.2).

    What lies behind the first TAGS of them is ignored, well formed or not.
    """
    if value == "*":
        return True
    begun = ENTITY_TAGS.match(value)  # by a pattern that nothing fails to match
    head = begun[0] if begun else ""
    members = (OPAQUE_TAG if weakly else ENTITY_TAG).findall(head)
    if len(head) < len(value) and len(members) < MAX_TAGS:
        return False  # there is something in it that is no tag
    return tag.removeprefix("W/") in members if weakly else tag in members and not tag.startswith("W/")


# Answers


def precondition_failed() -> Response:
    """412: the file is not in the state that the request was made for (§15.5.13)."""
    return error_response(412, "This is no longer what it was when you last saw it.")


def not_modified(headers: Headers) -> Response:
    """304 in place of the 200 whose header fields are `headers`: those that a cache needs, and no other (§15.4.5)."""
    tagged = any(name.lower() == "etag" for name, _ in headers)
    kept = HEADERS_OF_304 if tagged else HEADERS_OF_304 | {"last-modified"}
    return Response(304, [field for field in headers if field[0].lower() in kept])
