"""Range requests and 206 responses: RFC 9110 §14, for a file whose response would be 200.

    requested_ranges(request, size, tag, modified, now)   [] for 416, spans for 206, or None for the whole file

A malformed `bytes=` is refused with 416, since a client that asks for a part may not be prepared for the whole of a large file.
An unknown unit is ignored, as the RFC demands.

The cost of a request is bounded. Ranges that touch or overlap are coalesced, so that no byte is sent twice (CVE-2011-3192).
With more than MAX_RANGES of them the file is sent whole. Long numbers are cut before they are converted. Parts are sent in the
order of the request, a coalesced one in the place of its first member, and a single part is never sent as multipart (§15.3.7).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rawservers.core.protocol import FileSlice
from rawservers.http.dates import parse_date
from rawservers.http.request import Request
from rawservers.http.response import Headers, Response, error_response

# Ranges in one request; with more, the file is sent whole. A reader of archives or PDF files requests a handful at once. Each
# part of a large file costs two system calls and some 150 bytes of head, much more than a client spends on it. Apache's
# MaxRanges: 200; nginx's max_ranges: no limit by default.
MAX_RANGES = 16

# Members of a Range field, with empty ones, which are allowed (RFC 9110 §5.6.1); with more, the file is sent whole.
MAX_MEMBERS = 4 * MAX_RANGES

BEYOND = 10**18  # beyond the end of any file
BEYOND_DIGITS = 18

BYTE_RANGE = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")
PART_HEADERS = frozenset({"content-type", "content-encoding"})  # in a multipart response, fields of each part

Span = tuple[int, int]  # offset and length in bytes


def requested_ranges(request: Request, size: int, tag: str, modified: int, now: float) -> list[Span] | None:
    """The requested spans of a file of `size` bytes, in the order of the request; [] for 416, None for the whole file (§14.2).

    None: there is no valid Range field, or it has too many members, or If-Range does not match (§13.1.5). The spans are inside
    the file, and neither touch nor overlap. tag, modified, now: as for `conditional.precondition`, which comes first.
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
    """Whether If-Range matches: the strong entity tag, or the exact date (§13.1.5).

    A date does not match before its second has passed: the file may change again within it.
    """
    if value.endswith('"'):
        return value == tag and not tag.startswith("W/")
    return parse_date(value, now) == modified < int(now)


def _resolve(specs: list[str], size: int) -> list[Span] | None:
    """The spans of the range-specs, coalesced; [] if one is malformed, or all are outside the file."""
    spans = []
    for spec in specs:
        match = BYTE_RANGE.fullmatch(spec)
        if match is None:
            return []
        first, last, suffix = match.groups()
        if suffix:
            begin, end = max(size - _number(suffix), 0), size
            if not size and _number(suffix):
                return None  # satisfiable (§14.1.2), but no Content-Range can express it
        else:
            begin, end = _number(first), min(_number(last) + 1, size) if last else size
            if last and _number(last) < begin:
                return []
        if begin < end:
            spans.append((begin, end - begin))
    return _coalesce(spans) if len(spans) > 1 else spans


def _number(digits: str) -> int:
    """The number, at most BEYOND: int() takes quadratic time for long ones, and raises above 4300 digits."""
    if len(digits) > BEYOND_DIGITS:
        digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= BEYOND_DIGITS else BEYOND


def _coalesce(spans: list[Span]) -> list[Span]:
    """The spans, with those that touch or overlap merged in the place of the first of them (§15.3.7.2)."""
    merged: list[tuple[int, int, int]] = []  # place, first byte, end
    for place, (begin, count) in sorted(enumerate(spans), key=lambda item: item[1]):
        end = begin + count
        if merged and begin <= merged[-1][2]:
            earlier, begin, reached = merged.pop()
            place, end = min(place, earlier), max(end, reached)
        merged.append((place, begin, end))
    return [(begin, end - begin) for _, begin, end in sorted(merged)]


def range_not_satisfiable(size: int) -> Response:
    """The 416 response: no requested range is inside the `size` bytes of the file (§15.5.17)."""
    message = f"The requested range is not available: the file has {size} bytes."
    return error_response(416, message, [("Content-Range", f"bytes */{size}")])


def partial_content(headers: Headers, body: bytes | FileSlice, spans: Sequence[Span], size: int) -> Response:
    """The 206 response in place of the 200 with these header fields and this body of `size` bytes (§15.3.7).

    spans: as `requested_ranges` returns them, at least one. Several are sent as multipart/byteranges. Parts of a FileSlice are
    slices of the same file.
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
    """The boundary of a multipart: a hash of 120 bits, which no file contains by chance.

    It depends only on the response, so that all processes send the same. It can be planted in a file whose mtime and size are
    known beforehand, but that affects responses with that file only.
    """
    from hashlib import blake2b  # here, since it loads OpenSSL, and is rarely needed

    return blake2b(repr((list(headers), list(spans), size)).encode(), digest_size=15).hexdigest()
