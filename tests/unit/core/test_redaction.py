"""What a trace shows of bytes: printable, bounded, and never a secret, however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawservers.core.redaction import MAX_LINE, MAX_SHOWN, Redactor


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"GET /a%20b HTTP/1.0\r\nHost: h\r\n\r\n", "GET /a%20b HTTP/1.0"),
        (b"HTTP/1.0 200 OK\r\n", "HTTP/1.0 200 OK"),
        (b"line\r\0secret\r\0", "line"),
        (b"line\0secret", "line"),
        (b"line\rsecret", "line"),
        (b"line\nsecret", "line"),
        (b"\r\nsecret", ""),
        (b"\x1b[2J\x07\x9b \\ \xc3\xa9 \x7f", r"\x1b[2J\x07\x9b \x5c \xc3\xa9 \x7f"),
        (b"x" * (MAX_SHOWN + 1), "x" * MAX_SHOWN + "..."),
        (b"x" * MAX_SHOWN, "x" * MAX_SHOWN),
        (b"Authorization: Basic c2VjcmV0\r\n", "Authorization:***"),
        (b"proxy-authorization : x", "proxy-authorization :***"),
        (b"COOKIE:a=b", "COOKIE:***"),
        (b"Set-Cookie: a=b; Path=/\r\n", "Set-Cookie:***"),
        (b"X-Api-Key: a", "X-Api-Key:***"),
        (b"Accept: a", "Accept: a"),
        (b"GET http://ann:pw@h:80/a HTTP/1.0\r\n", "GET http://***h:80/a HTTP/1.0"),
        (b"GET http://ann:p/w?@h/a HTTP/1.0\r\n", "GET http://***h/a HTTP/1.0"),
        (b"GET /?next=http%3A%2F%2fann%3Apw%40h HTTP/1.0\r\n", "GET /?next=http%3A%2F%2f***h HTTP/1.0"),
        (b"GET http://h:80/ HTTP/1.0\r\n", "GET http://h:80/ HTTP/1.0"),
        (b"GET http://h:80", "GET http://***"),  # what follows may be a password, and an @
        (b"GET /a@b HTTP/1.0\r\n", "GET /a@b HTTP/1.0"),
    ],
)
def test_the_first_line(data: bytes, shown: str) -> None:
    assert Redactor().show(data) == shown


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        ((b"GET / HT", b"TP/1.0\r\nCook", b"ie: a=b\r\n", b"Accept: x"), ["GET / HT", "TP/1.0", "ie:***", "Accept: x"]),
        ((b"Cookie: a", b"b", b"\r\n", b"c: d"), ["Cookie:***", "***", "", "c: d"]),
        ((b"Cookie: a\r", b"\n b\r\n", b"\tc\r\n", b"X: y\r\n", b" z"), ["Cookie:***", "", "***", "X: y", " z"]),
        ((b"x\r\nCookie: a\r\n\r\n", b" b\r\n", b"d"), ["x", "***", "d"]),
        ((b"GET http:/", b"/ann:p", b"w@h:80", b"/ HTTP/1.0"), ["GET http:/", "/***", "***", "/ HTTP/1.0"]),
        ((b"GET http://h", b"ost/ HTTP/1.0\r\n"), ["GET http://***", "ost/ HTTP/1.0"]),
        ((b"x\r\nCookie: " + b"a" * 3000, b"b", b"\r\n", b"d"), ["x", "***", "", "d"]),
        ((b"x\r\nCookie: a\r\n" + b" \r\n" * 3000, b" b\r\nX: y", b"z"), ["x", "***", "z"]),
        ((b"x\r\nX: " + b"a" * 3000 + b"\r\nY: y", b"z"), ["x", "z"]),
        ((b"x" * MAX_LINE, b"a", b"b", b"\r\n", b"d"), ["x" * MAX_SHOWN + "...", "a", "...", "...", "d"]),
    ],
)
def test_a_line_in_pieces(pieces: tuple[bytes, ...], shown: list[str]) -> None:
    redactor = Redactor()
    assert [redactor.show(piece) for piece in pieces] == shown


SECRETS = [
    b"Authorization: Basic ZZZZ\r\n",
    b"x-auth-token:ZZ\r\n",
    b"Set-Cookie: ZZ=Z\r\n\tZZ\r\n ZZZ\r\n",
    b"GET http://user:ZZZ@host/ HTTP/1.0\r\n",
    b"Referer: ftp://ZZ/Z@host/ http://ZZ@h\r\n",
    b"Location: /?u=https%3A%2f%2fZZ%3aZZ%40host&x\r\n",
]
OTHERS = [b"GET / HTTP/1.0\r\n", b"Host: h\r\n", b"\r\n", b"X: " + b"y" * 200 + b"\r\n", b"\x1b]0;title\x07\r\n"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(SECRETS + OTHERS), max_size=6).map(b"".join), st.lists(st.integers(1, 40), max_size=200))
def test_no_cut_shows_a_secret(data: bytes, sizes: list[int]) -> None:
    redactor = Redactor()
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        shown = redactor.show(piece)
        assert "Z" not in shown
        assert shown.isascii()
        assert shown.isprintable()
        assert len(shown) <= 4 * MAX_SHOWN + 30


@settings(deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(1, 9), max_size=50))
def test_whatever_is_shown_is_printable(data: bytes, sizes: list[int]) -> None:
    redactor = Redactor()
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        shown = redactor.show(piece)
        assert shown.isascii()
        assert shown.isprintable()
