"""Range requests and 206 responses: RFC 9110 §14, for a file whose response would be 200.

    requested_ranges(request, size, tag, modified, now)   [] for 416, spans for 206, or None for the whole file

A malformed `bytes=` is refused with 416, since a client that asks for a part may not be prepared for the whole of a large file.
An unknown unit is ignored, as the RFC demands. Ranges of an empty file are ignored, as §14.2 permits: a client that limits each
download by `bytes=0-N` gets it.

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
from rawservers.http.response import Headers, Response

# Ranges in one request; with more, the file is sent whole. A reader of archives or PDF files requests a handful at once, zsync
# some 20. Each part of a large file costs two system calls and some 150 bytes of head, much more than a client spends on it.
# Apache's MaxRanges: 200; nginx's max_ranges: no limit by default.
MAX_RANGES = 64

# Members of a Range field, with empty ones, which are allowed (RFC 9110 §5.6.1); with more, the file is sent whole.
MAX_MEMBERS = 4 * MAX_RANGES

BYTE_RANGE = "[0-9]+-[0-9]*|-[0-9]+"
PART_HEADERS = {"content-type", "content-encoding"}  # in a multipart response, fields of each part

Span = tuple[int, int]  # offset and length in bytes


def requested_ranges(request: Request, size: int, tag: str, modified: int | None, now: float) -> list[Span] | None:
    """The requested spans of a file of `size` bytes, in the order of the request; [] for 416, None for the whole file (§14.2).

    None: there is no valid Range field, or it has too many members, or If-Range does not match (§13.1.5), or the file is empty.
    The spans are inside the file, and neither touch nor overlap. tag, modified, now: as for `conditional.precondition`, which
    comes first.
    """
    unit, equals, members = request.fields.get("range", "").partition("=")
    if request.method != "GET" or not equals or unit.lower() != "bytes":
        return None
    condition = request.fields.get("if-range")
    if condition is not None and not ((tag and condition == tag) or _date_matches(condition, modified, now)):
        return None
    split = members.split(",", MAX_MEMBERS)
    specs = [spec for member in split if (spec := member.strip("\t "))]
    return None if len(split) > MAX_MEMBERS or len(specs) > MAX_RANGES else _resolve(specs, size)


def _date_matches(condition: str, modified: int | None, now: float) -> bool:
    """Whether an If-Range field has the date of a file that cannot change again with the same one: after this second."""
    return modified is not None and parse_date(condition, now) == modified < int(now)


def _resolve(specs: list[str], size: int) -> list[Span] | None:
    """The spans of the range-specs, coalesced; [] if one is malformed, or all are outside the file; None if it is empty."""
    spans = []
    for place, spec in enumerate(specs):
        first, _, last = spec.partition("-")
        if not re.fullmatch(BYTE_RANGE, spec) or (first and last and _number(last) < _number(first)):
            return []
        begin = _number(first) if first else max(size - _number(last), 0)
        end = min(_number(last) + 1, size) if first and last else size
        if begin < end:
            spans.append((begin, end, place))
    if specs and not size:
        return None
    merged: list[tuple[int, int, int]] = []  # place, begin, end: those that touch or overlap, in the place of the first one
    for begin, end, place in sorted(spans):
        if merged and begin <= merged[-1][2]:
            earlier, start, reached = merged.pop()
            merged.append((min(place, earlier), start, max(end, reached)))
        else:
            merged.append((place, begin, end))
    return [(begin, end - begin) for _, begin, end in sorted(merged)]


def _number(digits: str) -> int:
    """The number; for a very long one another that is beyond any file's end: int() takes quadratic time, or raises."""
    return int(digits.lstrip("0")[:19] or "0")


def partial_content(headers: Headers, body: bytes | FileSlice, spans: Sequence[Span], size: int) -> Response:
    """The 206 response in place of the 200 with these header fields and this body of `size` bytes (§15.3.7).

    spans: as `requested_ranges` returns them, at least one. Several are sent as multipart/byteranges. Parts of a FileSlice are
    slices of the same file.
    """
    ranges = [f"bytes {first}-{first + count - 1}/{size}" for first, count in spans]
    contents = [
        body[first : first + count] if isinstance(body, bytes) else FileSlice(body.file, body.offset + first, count)
        for first, count in spans
    ]
    if len(spans) == 1:
        return Response(206, [*headers, ("Content-Range", ranges[0])], contents[0])
    described = [field for field in headers if field[0].lower() in PART_HEADERS]
    from hashlib import blake2b  # here, since it loads OpenSSL, and is rarely needed

    # A hash of 120 bits, which no file contains by chance, and of the response alone, so that all processes send the same. It
    # can be planted in a file whose mtime and size are known beforehand, but that affects responses with that file only.
    boundary = blake2b(repr((list(headers), list(spans), size)).encode(), digest_size=15).hexdigest()
    delimiter = f"\r\n--{boundary}"  # before the first part as well: zsync takes an empty line for granted (RFC 9110 §14.6)
    lines = "".join([f"{name}: {value}\r\n" for name, value in described])
    pieces: list[bytes | FileSlice] = []
    for content_range, content in zip(ranges, contents, strict=True):
        pieces += [f"{delimiter}\r\n{lines}Content-Range: {content_range}\r\n\r\n".encode("latin-1"), content]
    pieces.append(f"{delimiter}--\r\n".encode())
    small = [piece for piece in pieces if isinstance(piece, bytes)]
    kind = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    wrapping = [kind, *(field for field in headers if field not in described)]
    return Response(206, wrapping, b"".join(small) if len(small) == len(pieces) else tuple(pieces))
