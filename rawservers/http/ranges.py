"""Ranges: RFC 9110 §14."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rawservers.core.protocol import FileSlice
from rawservers.http.dates import parse_date
from rawservers.http.request import Request
from rawservers.http.response import Headers, Response, error_response

# Ranges in one request above which the file is sent whole. A reader of an archive or a PDF asks for a handful at once.
# Each part of a large file costs two system calls and some 150 bytes of head, so a flood of them would cost us much
# more than it costs to ask; Apache's MaxRanges is 200, nginx's max_ranges has no limit until one is set.
MAX_RANGES = 16

# Members of a Range that are looked at, empty ones among them, which a sender may well leave in (RFC 9110 §5.6.1).
MAX_MEMBERS = 4 * MAX_RANGES

BEYOND = 10**18  # beyond the end of any file, and cheap to count with
BEYOND_DIGITS = 18

BYTE_RANGE = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")
PART_HEADERS = frozenset({"content-type", "content-encoding"})  # in a multipart they describe the parts, not the wrapping

Span = tuple[int, int]  # the first byte, and how many


def requested_ranges(request: Request, size: int, tag: str, modified: int, now: float) -> list[Span] | None:
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
    if "if-range" in fields and not _if_range_matches(fields["if-range"], tag, modified, now):
        return None
    split = members.split(",", MAX_MEMBERS)
    specs = [spec for member in split if (spec := member.strip("\t "))]
    return None if len(split) > MAX_MEMBERS or len(specs) > MAX_RANGES else _resolve(specs, size)


def _if_range_matches(value: str, tag: str, modified: int, now: float) -> bool:
    """Whether If-Range names the very state that we hold: a strong tag, or the exact date (§13.1.5).

    A date proves nothing while its second lasts: the file can change again within it.
    """
    if value.endswith('"'):
        return value == tag and not tag.startswith("W/")
    return parse_date(value, now) == modified < int(now)


def _resolve(specs: list[str], size: int) -> list[Span] | None:
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
    if len(digits) > BEYOND_DIGITS:
        digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= BEYOND_DIGITS else BEYOND


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


def range_not_satisfiable(size: int) -> Response:
    """416: nothing of what was asked for lies inside the `size` bytes there are (§15.5.17)."""
    message = f"No such range: there are {size} bytes."
    return error_response(416, message, [("Content-Range", f"bytes */{size}")])


def partial_content(headers: Headers, body: bytes | FileSlice, spans: Sequence[Span], size: int) -> Response:
    """206 in place of the 200 with these header fields and this body of `size` bytes: only `spans` of it (§15.3.7).

    spans: as `ranges` gives them, at least one. Several become a multipart/byteranges, in which what is cut from a
    FileSlice remains a slice of the same file.
    """
    if len(spans) == 1:
        return Response(206, [*headers, _content_range(spans[0], size)], _slice(body, spans[0]))
    boundary = _boundary(headers, spans, size)
    described = [field for field in headers if field[0].lower() in PART_HEADERS]
    wrapping = [field for field in headers if field not in described]
    pieces: list[bytes | FileSlice] = []
    for span in spans:
        lines = [f"{name}: {value}\r\n" for name, value in (*described, _content_range(span, size))]
        opening = f"--{boundary}\r\n{''.join(lines)}\r\n".encode("latin-1")
        pieces += [b"\r\n" + opening if pieces else opening, _slice(body, span)]
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    small = [piece for piece in pieces if isinstance(piece, bytes)]
    kind = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    return Response(206, [kind, *wrapping], b"".join(small) if len(small) == len(pieces) else tuple(pieces))


def _content_range(span: Span, size: int) -> tuple[str, str]:
    first, count = span
    return "Content-Range", f"bytes {first}-{first + count - 1}/{size}"


def _slice(body: bytes | FileSlice, span: Span) -> bytes | FileSlice:
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
