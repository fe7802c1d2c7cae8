"""Requests with conditions and ranges: the times and tags of the file that they are about, and texts that they may hold."""

from __future__ import annotations

from hypothesis import strategies as st

from rawservers.http.dates import http_date
from rawservers.http.request import Request, parse

NOW = 2_000_000_000.5  # Wed, 18 May 2033 03:33:20 GMT
MODIFIED = 784111777
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER, LATER, FUTURE = http_date(MODIFIED - 1), http_date(MODIFIED + 1), http_date(NOW + 1)
TAG = '"e"'


def asking(*lines: str, method: str = "GET") -> Request:
    """A request with these header lines."""
    return parse("\r\n".join([f"{method} /f HTTP/1.0", *lines, "", ""]).encode("latin-1"))


SCRAPS = st.sampled_from(
    ["bytes=", "0-1", "-5", "5-", "9" * 30, ",", " ", "\t", '"', '"e"', "W/", "*", "=", "-", DATE, "\u0661", "\ud800"]
)  # fmt: skip
LATIN = st.binary(max_size=60).map(lambda octets: octets.decode("latin-1"))  # whatever the wire may bring
TEXTS = st.one_of(LATIN, st.lists(SCRAPS, max_size=12).map("".join))

HEADERS = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Encoding", "gzip"),
    ("Last-Modified", DATE),
    ("ETag", TAG),
    ("Accept-Ranges", "bytes"),
    ("Cache-Control", "max-age=60"),
    ("Expires", LATER),
    ("Vary", "Accept-Encoding"),
    ("Content-Location", "/f.gz"),
    ("X-Own", "yes"),
]
