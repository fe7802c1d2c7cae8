"""Ranges: which are selected, by tables from the RFC's own words; If-Range; answers in one part and in several."""

from __future__ import annotations

import email.policy
import os
import re
from collections.abc import Sequence
from concurrent.futures import Future
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import FileSlice, OpenFile, ResponseEnd
from rawservers.http.conversation import Conversation, Responder
from rawservers.http.ranges import MAX_MEMBERS, MAX_RANGES, Span, partial_content, requested_ranges
from rawservers.http.request import Request
from rawservers.http.response import AccessRecord, PreparedResponse, Response
from tests.harness.conditional import DATE, EARLIER, HEADERS, LATER, MODIFIED, NOW, TAG, asking

# Selection


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=10-20", [(10, 11)]),
        ("bytes=10-", [(10, 90)]),
        ("bytes=-25", [(75, 25)]),
        ("bytes=0-99", [(0, 100)]),
        ("bytes=99-99", [(99, 1)]),
        ("bytes=90-100", [(90, 10)]),
        ("bytes=-100", [(0, 100)]),
        ("bytes=-101", [(0, 100)]),
        ("bytes=0-99999999999999999999999", [(0, 100)]),
        ("bytes=-99999999999999999999999", [(0, 100)]),
        ("bytes=0000000000000000000000005-0000000000000000000000006", [(5, 2)]),
        ("bytes=00000000000000000000000-00000000000000000000000", [(0, 1)]),
        ("Bytes=0-1", [(0, 2)]),
        # nothing of it lies inside the file
        ("bytes=100-", []),
        ("bytes=100-200", []),
        ("bytes=-0", []),
        ("bytes=-00000000000000000000000", []),
        ("bytes=99999999999999999999999-", []),
        ("bytes=100-,-0", []),
        # not what the grammar says
        ("bytes=", []),
        ("bytes=,", []),
        ("bytes=-", []),
        ("bytes=--1", []),
        ("bytes=a-b", []),
        ("bytes=1", []),
        ("bytes=1-2-3", []),
        ("bytes=5-2", []),
        ("bytes=0 - 1", []),
        ("bytes=+1-2", []),
        ("bytes=1_0-20", []),
        ("bytes=0x1-2", []),
        ("bytes=0-1;5-6", []),
        ("bytes=0-1, 5-2", []),
        ("bytes=0-1, x", []),
        ("bytes=0-1, bytes=5-6", []),
        # another unit, or none
        ("lines=0-1", None),
        ("seconds=1-2", None),
        ("", None),
        ("bytes", None),
        ("bytes 0-1", None),
        ("bytes = 0-1", None),
        ("=0-1", None),
        # lists
        ("bytes=0-1,5-6", [(0, 2), (5, 2)]),
        ("bytes=0-1,,5-6", [(0, 2), (5, 2)]),
        ("bytes=, \t,0-1 ,\t5-6 , ", [(0, 2), (5, 2)]),
        ("bytes=5-6,0-1", [(5, 2), (0, 2)]),
        ("bytes=0-1,200-,5-6", [(0, 2), (5, 2)]),
        ("bytes=0-1,-0", [(0, 2)]),
        ("bytes=0-0,-1", [(0, 1), (99, 1)]),
        # coalesced
        ("bytes=0-1,2-3", [(0, 4)]),
        ("bytes=0-1,3-4", [(0, 2), (3, 2)]),
        ("bytes=2-3,0-1", [(0, 4)]),
        ("bytes=0-50,10-20", [(0, 51)]),
        ("bytes=0-0,0-0,0-0", [(0, 1)]),
        ("bytes=0-,-1,50-", [(0, 100)]),
        ("bytes=50-60,0-10,55-70", [(50, 21), (0, 11)]),
        ("bytes=80-90,40-50,0-10,45-60", [(80, 11), (40, 21), (0, 11)]),
        ("bytes=60-70,0-9,20-29,10-19", [(60, 11), (0, 30)]),
    ],
)
def test_ranges(value: str, spans: list[Span] | None) -> None:
    assert requested_ranges(asking(f"Range: {value}"), 100, TAG, MODIFIED, NOW) == spans


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        *[(value, None) for value in ("0-", "0-0", "0-99", "5-", "5-9", "-0", "-5", "0-,-5", "0-0,5-9", ", 0-,")],
        *[(value, []) for value in ("", ",", "x", "-", "5-2", "0-,x", "-5,x", "x,-5", "0-,5-2")],
    ],
)
def test_ranges_of_an_empty_file(value: str, spans: list[Span] | None) -> None:
    """Nothing can be a part of it, so ranges are ignored (§14.2), but a malformed one is refused as of any file."""
    assert requested_ranges(asking(f"Range: bytes={value}"), 0, TAG, MODIFIED, NOW) == spans


def test_ranges_beyond_4_gib() -> None:
    size = 5 << 30
    value = f"bytes={(1 << 31) - 1}-{1 << 31},{(1 << 32) - 1}-{1 << 32},-1"
    assert requested_ranges(asking(f"Range: {value}"), size, TAG, MODIFIED, NOW) == [
        ((1 << 31) - 1, 2),
        ((1 << 32) - 1, 2),
        (size - 1, 1),
    ]


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_only_get_has_ranges(method: str) -> None:
    assert requested_ranges(asking("Range: bytes=0-1", method=method), 100, TAG, MODIFIED, NOW) is None


def test_no_range_is_no_range() -> None:
    assert requested_ranges(asking(), 100, TAG, MODIFIED, NOW) is None
    assert requested_ranges(asking(f"If-Range: {TAG}"), 100, TAG, MODIFIED, NOW) is None


def test_too_many_ranges_get_the_whole() -> None:
    def ask(count: int, spec: str) -> list[Span] | None:
        value = ",".join(spec.format(2 * i) for i in range(count))
        return requested_ranges(asking(f"Range: bytes={value}"), 1000, TAG, MODIFIED, NOW)

    assert ask(MAX_RANGES, "{0}-{0}") == [(2 * i, 1) for i in range(MAX_RANGES)]
    assert ask(MAX_RANGES + 1, "{0}-{0}") is None
    assert ask(MAX_RANGES, "0-") == [(0, 1000)]
    assert ask(MAX_RANGES + 1, "0-") is None


def test_as_many_ranges_as_programs_ask_for_at_once() -> None:
    assert MAX_RANGES == 64  # zsync asks for 20 at a time


SPECS = st.one_of(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda ends: f"{min(ends)}-{max(ends)}"),
    st.integers(0, 40).map("{}-".format),
    st.integers(0, 40).map("-{}".format),
)


def selected(spec: str, size: int) -> set[int]:
    """The positions that a well-formed range-spec stands for."""
    first, _, last = spec.partition("-")
    if first:
        return set(range(int(first), int(last) + 1 if last else size)) & set(range(size))
    return set(list(range(size))[-int(last) :] if int(last) else ())


@given(st.integers(1, 36), st.lists(SPECS, min_size=1, max_size=MAX_RANGES))
def test_the_spans_are_the_bytes_asked_for_once_each(size: int, specs: list[str]) -> None:
    sets = [selected(spec, size) for spec in specs]
    spans = requested_ranges(asking(f"Range: bytes={', '.join(specs)}"), size, TAG, MODIFIED, NOW)
    assert spans is not None
    positions = [position for first, count in spans for position in range(first, first + count)]
    assert sorted(positions) == sorted(set().union(*sets))
    assert all(count > 0 for _, count in spans)
    edges = {first for first, _ in spans}
    assert not edges & {first + count for first, count in spans}  # none begins where another ends
    places = [min(i for i, some in enumerate(sets) if some and min(some) in range(a, a + n)) for a, n in spans]
    assert places == sorted(places)


def test_members_of_a_range_behind_the_first_many_are_not_looked_at() -> None:
    def ask(members: str) -> list[Span] | None:
        return requested_ranges(asking(f"Range: bytes={members}"), 100, TAG, MODIFIED, NOW)

    assert ask("," * (MAX_MEMBERS - 1) + "0-1") == [(0, 2)]
    assert ask("," * MAX_MEMBERS + "0-1") is None
    assert ask("0-1" + "," * MAX_MEMBERS) is None


# If-Range


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ('"e"', True),
        ('"x"', False),
        ('W/"e"', False),
        ("e", False),
        ('"e', False),
        ("*", False),
        ('"e", "a"', False),
        ("", False),
        (DATE, True),
        ("Sunday, 06-Nov-94 08:49:37 GMT", True),
        ("Sun Nov  6 08:49:37 1994", True),
        (EARLIER, False),
        (LATER, False),
        ("yesterday", False),
    ],
)
def test_if_range(value: str, holds: bool) -> None:
    request = asking("Range: bytes=0-1", f"If-Range: {value}")
    assert requested_ranges(request, 100, TAG, MODIFIED, NOW) == ([(0, 2)] if holds else None)


@pytest.mark.parametrize(
    ("value", "tag", "holds"),
    [
        ('"e"', TAG, True),
        *[(value, TAG, False) for value in ('"x"', DATE, "yesterday", "")],
        *[(value, "", False) for value in ('"e"', '""', DATE, "")],
    ],
)
def test_if_range_where_the_time_is_not_reliable(value: str, tag: str, holds: bool) -> None:
    request = asking("Range: bytes=0-1", f"If-Range: {value}")
    assert requested_ranges(request, 100, tag, None, NOW) == ([(0, 2)] if holds else None)


def test_ranges_of_a_file_without_validators() -> None:
    assert requested_ranges(asking("Range: bytes=0-1"), 100, "", None, NOW) == [(0, 2)]


def test_a_date_of_this_second_may_not_be_the_last() -> None:
    request = asking("Range: bytes=0-1", f"If-Range: {DATE}")
    assert requested_ranges(request, 100, TAG, MODIFIED, MODIFIED + 0.9) is None
    assert requested_ranges(request, 100, TAG, MODIFIED, MODIFIED + 1.0) == [(0, 2)]


def test_a_failed_if_range_comes_before_a_bad_range() -> None:
    assert requested_ranges(asking("Range: bytes=100-", 'If-Range: "x"'), 100, TAG, MODIFIED, NOW) is None


# Answers


def test_one_span_is_sent_as_it_is() -> None:
    response = partial_content(HEADERS, b"0123456789", [(2, 3)], 10)
    assert (response.status, response.body) == (206, b"234")
    assert response.headers == [*HEADERS, ("Content-Range", "bytes 2-4/10")]


def content(response: Response) -> bytes:
    """The bytes of a body, read from its file where it has one."""
    pieces = response.body if isinstance(response.body, tuple) else (response.body,)
    return b"".join(
        piece if isinstance(piece, bytes) else os.pread(piece.file.fd, piece.count, piece.offset) for piece in pieces
    )


def parts_of(response: Response) -> Sequence[Message]:
    """The parts of a multipart response, as Python's own reader of MIME sees them."""
    head = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head.encode() + b"\r\n" + content(response))
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    assert (message.preamble, message.epilogue) == ("", "")
    return list(message.iter_parts())


def open_file(tmp_path: Path, data: bytes) -> OpenFile:
    path = tmp_path / "file"
    path.write_bytes(data)
    return OpenFile(os.open(path, os.O_RDONLY), os.close)


DATA = b"".join(b"%06d\n" % i for i in range(1000))
SPANS = [(7, 7), (0, 1), (6000, 1000)]


@pytest.mark.parametrize("large", [False, True])
def test_several_spans_are_parts(large: bool, tmp_path: Path) -> None:
    body: bytes | FileSlice = DATA
    if large:
        body = FileSlice(open_file(tmp_path, b"before" + DATA), 6, len(DATA))
    response = partial_content(HEADERS, body, SPANS, 7000)
    assert response.status == 206
    assert isinstance(response.body, tuple) == large
    names = [name for name, _ in response.headers]
    assert names.count("Content-Type") == 1
    assert not {"Content-Range", "Content-Encoding"} & set(names)
    assert set(HEADERS[2:]) < set(response.headers)
    parts = parts_of(response)
    for part, (first, count) in zip(parts, SPANS, strict=True):
        assert {*HEADERS[:2], ("Content-Range", f"bytes {first}-{first + count - 1}/7000")} == set(part.raw_items())
        assert part.get_payload(decode=True) == DATA[first : first + count]


def test_the_exact_bytes_of_a_multipart() -> None:
    response = partial_content([("Content-Type", "text/plain")], b"0123456789", [(0, 2), (5, 2)], 10)
    boundary = response.headers[0][1].partition("boundary=")[2].encode()
    assert response.body == (
        b"\r\n--%b\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n"
        b"--%b\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-6/10\r\n\r\n56\r\n"
        b"--%b--\r\n"
    ) % (boundary, boundary, boundary)


def test_the_boundary_is_the_same_for_the_same_and_another_for_another() -> None:
    def boundary(tag: str, spans: list[Span]) -> str:
        return partial_content([("ETag", tag)], DATA, spans, 7000).headers[0][1]

    assert boundary('"a"', SPANS) == boundary('"a"', SPANS)
    assert len({boundary('"a"', SPANS), boundary('"b"', SPANS), boundary('"a"', SPANS[1:])}) == 3
    assert re.fullmatch(r"multipart/byteranges; boundary=[0-9a-f]{30}", boundary('"a"', SPANS))


class Saying(Responder):
    """A service that answers every request alike."""

    def __init__(self, response: Response) -> None:
        super().__init__(lambda head, recheck: None)
        self.response = response

    def respond(self, request: Request, future: Future[Response] | None = None) -> PreparedResponse:
        return PreparedResponse(self.response, request)


def conversation_that_says(response: Response) -> Conversation:
    return Conversation(Peer(("192.0.2.1", 4711), Clock(100.0, NOW)), Saying(response))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_conversation_sends_the_parts_in_order(method: str, tmp_path: Path) -> None:
    body = FileSlice(open_file(tmp_path, DATA), 0, len(DATA))
    response = partial_content(HEADERS, body, SPANS, 7000)
    conversation = conversation_that_says(response)
    said = conversation.receive(f"{method} /f HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    head, *pieces, answered = said
    assert isinstance(head, bytes)
    assert isinstance(answered, ResponseEnd)
    assert isinstance(answered.record, AccessRecord)
    assert head.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(content(response)) in head
    assert tuple(pieces) == (response.body if method == "GET" else ())
    assert (answered.record.status, answered.record.head_size) == (206, len(head))
    assert answered.record.body_size == (len(content(response)) if method == "GET" else 0)


def test_a_pipeline_of_parts_stops_at_the_mark(tmp_path: Path) -> None:
    body = FileSlice(open_file(tmp_path, DATA * 10), 0, 70_000)
    response = partial_content(HEADERS, body, [(0, 40_000), (50_000, 20_000)], 70_000)
    conversation = conversation_that_says(response)
    said = [conversation.receive(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n" * 5)]
    while chunks := conversation.resume():
        said.append(chunks)
    assert [sum(isinstance(chunk, ResponseEnd) for chunk in chunks) for chunks in said] == [2, 2, 1]
