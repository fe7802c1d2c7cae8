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
from collections.abc import Sequence
from datetime import UTC, date, datetime

from rawservers.core.protocol import FileSlice
from rawservers.http.request import Request
from rawservers.http.response import DAYS, MONTHS, Headers, Response, error

# Ranges in one request above which the file is sent whole. A reader of an archive or a PDF asks for a handful at once.
# Each part of a large file costs two system calls and some 150 bytes of head, so a flood of them would cost us much
# more than it costs to ask; Apache's MaxRanges is 200, nginx's max_ranges has no limit until one is set.
RANGES = 16

# Members of a Range that are looked at, empty ones among them, which a sender may well leave in (RFC 9110 §5.6.1).
MEMBERS = 4 * RANGES

# Entity tags in one field that are looked at. A client has one for each variant that it keeps, so a few at the most; a head
# has room for some 8,000.
TAGS = 256

FAR = 10**18  # beyond the end of any file, and cheap to count with
FAR_DIGITS = 18

DAY = "|".join(DAYS)
LONG_DAY = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
MONTH = "|".join(MONTHS)
TIME = "([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)"  # 60: a leap second
IMF_FIXDATE = re.compile(rf"(?:{DAY}), ([0-9]{{2}}) ({MONTH}) ([0-9]{{4}}) {TIME} GMT")
RFC850_DATE = re.compile(rf"(?:{LONG_DAY}), ([0-9]{{2}})-({MONTH})-([0-9]{{2}}) {TIME} GMT")
ASCTIME_DATE = re.compile(rf"(?:{DAY}) ({MONTH}) ([0-9]{{2}}| [0-9]) {TIME} ([0-9]{{4}})")
EPOCH = date(1970, 1, 1).toordinal()

ENTITY_TAG = re.compile(r'"[^"]*"|W/"[^"]*"')  # so written that what begins no tag is skipped fast
OPAQUE_TAG = re.compile(r'"[^"]*"')
ENTITY_TAGS = re.compile(rf'(?:[\t ,]*+(?:W/)?"[!#-~\x80-\xff]*+"(?=[\t ]*+(?:,|\Z))){{0,{TAGS}}}+[\t ,]*+')
BYTE_RANGE = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")

WITHOUT_PRECONDITIONS = frozenset({"CONNECT", "OPTIONS", "TRACE"})  # they select no representation (RFC 9110 §13.2.1)
OF_A_304 = frozenset({"cache-control", "content-location", "etag", "expires", "vary"})  # RFC 9110 §15.4.5
OF_A_PART = frozenset({"content-type", "content-encoding"})  # in a multipart they describe the parts, not the wrapping

Span = tuple[int, int]  # the first byte, and how many


# Validators


def etag(mtime_ns: int, size: int) -> str:
    """The strong entity tag, quoted, of a file last changed `mtime_ns` ns after 1970 and `size` bytes long (§8.8.3).

    It is the same wherever a copy has kept its time, so that servers side by side agree.
    """
    return f'"{mtime_ns:x}-{size:x}"'


def parse_date(text: str, now: float) -> int | None:
    """The seconds since 1970 that an HTTP date names, in any of its three forms (§5.6.7); None if it is none.

    `now`, in seconds since 1970, tells which century a two-digit year means. Whether the name of the day is the right
    one is not looked at: it adds nothing.
    """
    if match := IMF_FIXDATE.fullmatch(text):
        day, month, year, *time = match.groups()
        return _seconds(int(year), month, day, time)
    if match := RFC850_DATE.fullmatch(text):
        day, month, year, *time = match.groups()
        return _seconds(_full_year(int(year), month, day, time, now), month, day, time)
    if match := ASCTIME_DATE.fullmatch(text):
        month, day, *time, year = match.groups()
        return _seconds(int(year), month, day, time)
    return None


def _seconds(year: int, month: str, day: str, time: Sequence[str]) -> int | None:
    try:
        days = date(year, MONTHS.index(month) + 1, int(day)).toordinal() - EPOCH
    except ValueError:  # there is no such day
        return None
    hour, minute, second = time
    return days * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second)


def _full_year(digits: int, month: str, day: str, time: Sequence[str], now: float) -> int:
    """The latest year with these last two digits that puts the date no more than 50 years ahead."""
    today = datetime.fromtimestamp(now, UTC)
    last = today.year + 50
    year = last - (last - digits) % 100
    if year == last and (MONTHS.index(month) + 1, int(day), *map(int, time)) > today.timetuple()[1:6]:
        year -= 100
    return year


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
        if not _lists(fields["if-match"], tag, weakly=False):
            return 412
    elif "if-unmodified-since" in fields:
        since = parse_date(fields["if-unmodified-since"], now)
        if since is not None and modified > since:
            return 412
    if "if-none-match" in fields:
        if _lists(fields["if-none-match"], tag, weakly=True):
            return 304 if reads else 412
    elif reads and "if-modified-since" in fields:
        since = parse_date(fields["if-modified-since"], now)
        if since is not None and modified <= since <= now:  # one in the future is invalid (RFC 1945 §10.9)
            return 304
    return None


def _lists(value: str, tag: str, weakly: bool) -> bool:
    """Whether a list of entity tags names `tag`, by weak or strong comparison (§8.8.3.2).

    What lies behind the first TAGS of them is ignored, well formed or not.
    """
    if value == "*":
        return True
    begun = ENTITY_TAGS.match(value)  # by a pattern that nothing fails to match
    head = begun[0] if begun else ""
    members = (OPAQUE_TAG if weakly else ENTITY_TAG).findall(head)
    if len(head) < len(value) and len(members) < TAGS:
        return False  # there is something in it that is no tag
    return tag.removeprefix("W/") in members if weakly else tag in members and not tag.startswith("W/")


# Ranges


def ranges(request: Request, size: int, tag: str, modified: int, now: float) -> list[Span] | None:
    """Which bytes of a file of `size` the request asks for, in its order; [] if they cannot be had: 416 (§14.2).

    None: send it all, because no range is asked for in a way that counts, or too many are, or If-Range says that the
    client knows another state (§13.1.5). Too many are above RANGES, or above MEMBERS with the empty ones. The spans lie
    inside the file and neither touch nor overlap. tag, modified, now: as for `precondition`, which comes first.
    """
    fields = request.fields
    if "range" not in fields or request.method != "GET":
        return None
    unit, equals, members = fields["range"].partition("=")
    if not equals or unit.lower() != "bytes":
        return None
    if "if-range" in fields and not _unchanged(fields["if-range"], tag, modified, now):
        return None
    split = members.split(",", MEMBERS)
    specs = [spec for member in split if (spec := member.strip("\t "))]
    return None if len(split) > MEMBERS or len(specs) > RANGES else _select(specs, size)


def _unchanged(value: str, tag: str, modified: int, now: float) -> bool:
    """Whether If-Range names the very state that we hold: a strong tag, or the exact date (§13.1.5).

    A date proves nothing while its second lasts: the file can change again within it.
    """
    if value.endswith('"'):
        return value == tag and not tag.startswith("W/")
    return parse_date(value, now) == modified < int(now)


def _select(specs: list[str], size: int) -> list[Span] | None:
    """What the range-specs select, coalesced; [] if one is malformed, or none lies inside the file."""
    spans = []
    for spec in specs:
        match = BYTE_RANGE.fullmatch(spec)
        if match is None:
            return []
        first, last, suffix = match.groups()
        if suffix:
            begin, end = max(size - _number(suffix), 0), size
            if not size and _number(suffix):
                return None  # the end of nothing is satisfiable (§14.1.2), but no Content-Range can say so
        else:
            begin, end = _number(first), min(_number(last) + 1, size) if last else size
            if last and _number(last) < begin:
                return []
        if begin < end:
            spans.append((begin, end - begin))
    return _coalesce(spans) if len(spans) > 1 else spans


def _number(digits: str) -> int:
    """What the digits say, or FAR: Python takes quadratic time over long ones, and refuses them above 4300."""
    if len(digits) > FAR_DIGITS:
        digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= FAR_DIGITS else FAR


def _coalesce(spans: list[Span]) -> list[Span]:
    """The same bytes in spans that do not touch, each in the place of its first member (§15.3.7.2)."""
    merged: list[tuple[int, int, int]] = []  # place, first byte, end
    for place, (begin, count) in sorted(enumerate(spans), key=lambda item: item[1]):
        end = begin + count
        if merged and begin <= merged[-1][2]:
            earlier, begin, reached = merged.pop()
            place, end = min(place, earlier), max(end, reached)
        merged.append((place, begin, end))
    return [(begin, end - begin) for _, begin, end in sorted(merged)]


# Answers


def precondition_failed() -> Response:
    """412: the file is not in the state that the request was made for (§15.5.13)."""
    return error(412, "This is no longer what it was when you last saw it.")


def unsatisfiable(size: int) -> Response:
    """416: nothing of what was asked for lies inside the `size` bytes there are (§15.5.17)."""
    why = f"No such range: there are {size} bytes."
    return error(416, why, [("Content-Range", f"bytes */{size}")])


def not_modified(headers: Headers) -> Response:
    """304 in place of the 200 whose header fields are `headers`: those that a cache needs, and no other (§15.4.5)."""
    tagged = any(name.lower() == "etag" for name, _ in headers)
    kept = OF_A_304 if tagged else OF_A_304 | {"last-modified"}
    return Response(304, [field for field in headers if field[0].lower() in kept])


def partial(headers: Headers, body: bytes | FileSlice, spans: Sequence[Span], size: int) -> Response:
    """206 in place of the 200 with these header fields and this body of `size` bytes: only `spans` of it (§15.3.7).

    spans: as `ranges` gives them, at least one. Several become a multipart/byteranges, in which what is cut from a
    FileSlice remains a slice of the same file.
    """
    if len(spans) == 1:
        return Response(206, [*headers, _content_range(spans[0], size)], _cut(body, spans[0]))
    boundary = _boundary(headers, spans, size)
    described = [field for field in headers if field[0].lower() in OF_A_PART]
    wrapping = [field for field in headers if field not in described]
    pieces: list[bytes | FileSlice] = []
    for span in spans:
        lines = [f"{name}: {value}\r\n" for name, value in (*described, _content_range(span, size))]
        opening = f"--{boundary}\r\n{''.join(lines)}\r\n".encode("latin-1")
        pieces += [b"\r\n" + opening if pieces else opening, _cut(body, span)]
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    small = [piece for piece in pieces if isinstance(piece, bytes)]
    kind = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    return Response(206, [kind, *wrapping], b"".join(small) if len(small) == len(pieces) else tuple(pieces))


def _content_range(span: Span, size: int) -> tuple[str, str]:
    first, count = span
    return "Content-Range", f"bytes {first}-{first + count - 1}/{size}"


def _cut(body: bytes | FileSlice, span: Span) -> bytes | FileSlice:
    first, count = span
    if isinstance(body, bytes):
        return body[first : first + count]
    return FileSlice(body.file, body.offset + first, count)


def _boundary(headers: Headers, spans: Sequence[Span], size: int) -> str:
    """A line that the parts do not hold: 120 bits of a hash, which no file holds but by design.

    It depends on nothing but what is answered, so that the same request has the same answer from every process. Whoever
    plants it in a file of his own, knowing its time and size beforehand, only spoils that file.
    """
    from hashlib import blake2b  # here, since it loads OpenSSL, and is seldom asked for

    return blake2b(repr((list(headers), list(spans), size)).encode(), digest_size=15).hexdigest()
