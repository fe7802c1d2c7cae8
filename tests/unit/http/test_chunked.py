"""The decoder of chunked bodies: its grammar, at every cut; limits; the work and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.http.chunked import FRAMING_LIMIT, LINE_LIMIT, ChunkedBody
from rawservers.http.request import HTTPError
from tests.harness import wire


def decode(packets: Iterable[bytes], limit: int = 100, steps: int = 1000) -> tuple[bytes, bytes] | int | None:
    """The data and the rest; or the status of the error; None if the body is not complete."""
    body, buffer = ChunkedBody(limit), bytearray()
    try:
        for packet in packets:
            buffer += packet
            while body.decode(buffer, steps) == steps:
                pass
            assert body.complete or len(buffer) <= FRAMING_LIMIT
    except HTTPError as failure:
        return failure.status
    return (bytes(body.data), bytes(buffer)) if body.complete else None


@pytest.mark.parametrize("case", wire.load("chunked"), ids=lambda case: case["name"])
def test_vector(case: dict[str, Any]) -> None:
    expected = case.get("status") or (wire.unescape(case["data"]), wire.unescape(case.get("rest", "")))
    for packets in wire.cuts(wire.unescape(case["send"])):
        assert decode(packets) == expected
        assert decode(packets, steps=1) == expected


@pytest.mark.parametrize("case", [case for case in wire.load("chunked") if "data" in case], ids=lambda case: case["name"])
def test_a_body_that_breaks_off_is_not_complete(case: dict[str, Any]) -> None:
    data = wire.unescape(case["send"]).removesuffix(wire.unescape(case.get("rest", "")))
    for size in range(len(data)):
        assert decode([data[:size]]) is None


TOKEN = st.text("!#$%&'*+-.^_`|~09AZaz", min_size=1, max_size=5)
SPACE = st.text(" \t", max_size=2)
QUOTED = st.text("\t aZ;=,\xff", max_size=5).map(lambda text: f'"{text}"') | st.just('"\\"\\\\"')
EXTENSION = st.tuples(SPACE, SPACE, TOKEN, SPACE, SPACE, TOKEN | QUOTED).map(
    lambda parts: "{}; {}{}{}={}{}".format(*parts)
) | TOKEN.map(lambda name: f";{name}")
CHUNK = st.tuples(st.binary(min_size=1, max_size=20), st.integers(0, 3), st.lists(EXTENSION, max_size=3).map("".join))


def line(size: int, zeros: int = 0, extensions: str = "") -> bytes:
    return f"{'0' * zeros}{size:x}{extensions}\r\n".encode("latin-1")


@given(
    chunks=st.lists(CHUNK, max_size=10),
    trailers=st.lists(TOKEN, max_size=3),
    rest=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 500), max_size=8),
)
def test_what_is_encoded_is_decoded(
    chunks: list[tuple[bytes, int, str]], trailers: list[str], rest: bytes, cuts: list[int]
) -> None:
    body = b"".join(line(len(data), zeros, extensions) + data + b"\r\n" for data, zeros, extensions in chunks)
    whole = body + b"0\r\n" + b"".join(f"{name}: x\r\n".encode() for name in trailers) + b"\r\n" + rest
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    packets = [whole[a:b] for a, b in pairwise(places)]
    assert decode(packets, limit=200) == (b"".join(data for data, *_ in chunks), rest)


@given(
    data=st.lists(
        st.sampled_from([b"0", b"3", b"\r\n", b"\n", b"\r", b";a", b"=", b'"', b"abc", b"A: b", b" ", b"-", b"\xff", b"64"]),
        max_size=12,
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_any_cut_of_anything_gives_the_same(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert decode([data[a:b] for a, b in pairwise(places)], steps=1) == decode([data])


def test_data_up_to_the_limit() -> None:
    exact = line(60) + bytes(60) + b"\r\n" + line(40) + bytes(40) + b"\r\n"
    assert decode([exact + b"0\r\n\r\n"]) == (bytes(100), b"")
    assert decode([exact + b"1\r\n"]) == 413  # before the data has come
    assert decode([b"0\r\n\r\n"], limit=0) == (b"", b"")
    assert decode([b"1\r\n"], limit=0) == 413


def test_a_chunk_line_up_to_its_limit() -> None:
    longest = b"1;" + b"a" * (LINE_LIMIT - 4) + b"\r\n"
    assert decode([longest + b"x\r\n0\r\n\r\n"]) == (b"x", b"")
    for packets in ([b"1;a" + longest[2:] + b"x\r\n0\r\n\r\n"], [b"1;" + b"a" * LINE_LIMIT], [b"0" * LINE_LIMIT]):
        assert decode(packets) == 400
        assert decode([packets[0][i : i + 1] for i in range(len(packets[0]))]) == 400


def test_what_is_not_data_has_a_limit() -> None:
    name = b"a" * 200
    fat = b"1;%b\r\nx\r\n" % name  # 206 bytes besides its data, which allows one
    most = (FRAMING_LIMIT - 5) // (206 - 1)
    assert decode([fat * most + b"0\r\n\r\n"], limit=1000) == (b"x" * most, b"")
    assert decode([fat * (most + 1) + b"0\r\n\r\n"], limit=1000) == 400
    thin = b"1\r\nx\r\n"  # 5 bytes besides its data
    most = (FRAMING_LIMIT - 5) // (5 - 1)
    assert decode([thin * most + b"0\r\n\r\n"], limit=10_000) == (b"x" * most, b"")
    assert decode([thin * (FRAMING_LIMIT // 4 + 1)], limit=10_000) == 400
    large = line(50_000) + bytes(50_000) + b"\r\n"  # allows as much
    assert decode([large + thin * 10_000 + b"0\r\n\r\n"], limit=60_000) == (bytes(50_000) + b"x" * 10_000, b"")
    trailer = b"A: %b\r\n" % name
    most = (FRAMING_LIMIT - 5) // len(trailer)
    assert decode([b"0\r\n" + trailer * most + b"\r\n"]) == (b"", b"")
    for data in (b"0\r\n" + trailer * (most + 1) + b"\r\n", b"0\r\nA: " + b"a" * FRAMING_LIMIT):
        assert decode([data]) == 400
        assert decode([data[i : i + 7] for i in range(0, len(data), 7)]) == 400


def test_many_small_chunks_are_decoded_in_steps() -> None:
    body, buffer = ChunkedBody(20_000), bytearray(b"2\r\nxx\r\n" * 5_000 + b"0\r\n\r\n")
    calls = 0
    while not body.complete:
        assert body.decode(buffer, 64) <= 64
        calls += 1
    assert (bytes(body.data), calls) == (b"x" * 10_000, -(-5_002 // 64))


def test_without_steps_nothing_is_done() -> None:
    body, buffer = ChunkedBody(100), bytearray(b"1\r\nx\r\n")
    assert (body.decode(buffer, 0), bytes(buffer)) == (0, b"1\r\nx\r\n")


def test_data_is_not_kept_in_the_buffer() -> None:
    body, buffer = ChunkedBody(1 << 20), bytearray(b"100000\r\n")
    for _ in range(16):
        buffer += bytes(65536)
        body.decode(buffer, 64)
        assert not buffer
    assert len(body.data) == 1 << 20
