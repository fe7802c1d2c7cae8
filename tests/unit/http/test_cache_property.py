"""The cache never mixes up two requests: after any others, each is answered as if it were the first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawservers.core.peer import Clock
from rawservers.http import normalized
from rawservers.http.dates import http_date
from rawservers.http.normalized import KEY_FIELDS
from rawservers.settings import SiteConfig
from tests.harness.http_cache import Remembering

START = 2_000_000_000.0
PAST, FUTURE = 784_111_777, int(START) + 100
DATE, EARLIER, SOON = map(http_date, (PAST, PAST - 1, FUTURE))
TAG = f'"{PAST * 10**9:x}-6"'  # of /f, on both sites
MTIMES = {"one": 1, "ahead": FUTURE}
FILES = (
    "f", "page.html", "page.html.gz", "page.html.br", "dir/index.html", "dir/f", "one", "ahead", "big", "empty", "bare/f",
)  # fmt: skip

# What a request may consist of. None: without the field. The first value is the most usual.
AXES: dict[str, tuple[str | None, ...]] = {
    "method": ("GET", "HEAD", "OPTIONS", "POST"),
    "target": (
        "/f", "/page.html", "/dir/", "/dir/f", "/one", "/ahead", "/big", "/empty", "/bare/", "/dir", "/none", "/no/ne",
        "/no.ne", "/./f", "//f", "/dir/../f", "/dir/./f", "/dir//f", "/%66", "/f?q", "/F", "http://b.example/f", "/../f",
        "/dir/%2e%2e/f", "/user/john.doe",
    ),
    "version": ("1.1", "1.0"),
    "Host": ("a.example", "b.example", "B.Example:80", "c.example", None),
    "Accept": (None, "text/html", "application/json", "*/*", "text/html;q=0, */*"),
    "Accept-Encoding": (None, "gzip", "br", "gzip;q=0.5, br", "x-gzip", "identity", "gzip;q=0"),
    "Range": (None, "bytes=0-1", "bytes=2-", "bytes=0-0,2-2", "bytes=99999-", "bytes=x"),
    "If-Range": (None, TAG, '"x"', DATE),
    "If-None-Match": (None, TAG, '"x"', "*"),
    "If-Match": (None, TAG, '"x"', "*"),
    "If-Modified-Since": (None, DATE, EARLIER, SOON),
    "If-Unmodified-Since": (None, DATE, EARLIER),
    "Connection": (None, "close", "keep-alive"),
    "Content-Length": (None, "0", "3"),
    "Transfer-Encoding": (None, "chunked"),
    "Authorization": (None, "Basic eA=="),
    "Cookie": ("a=1", "a=2", "a=3", None),
    "User-Agent": ("Mozilla", "curl", None),
    "Referer": (None, "http://a.example/"),
}  # fmt: skip
Asked = dict[str, str | None]
USUAL: Asked = {axis: values[0] for axis, values in AXES.items()}


def request(asked: Asked) -> bytes:
    lines = [f"{axis}: {value}\r\n" for axis, value in list(asked.items())[3:] if value is not None]
    return f"{asked['method']} {asked['target']} HTTP/{asked['version']}\r\n{''.join(lines)}\r\n".encode()


class Compared:
    """Two services over the same sites: one that remembers, and one that remembers nothing."""

    def __init__(self, folder: Path) -> None:
        for site in "ab":
            for name in FILES:
                path = folder / site / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{site} is {name}".encode() * {"empty": 0, "big": 5000}.get(name, 1))
                mtime = MTIMES.get(name, PAST)
                os.utime(path, (mtime, mtime))
        self.sites = (
            SiteConfig(str(folder / "a"), hosts=("a.example",), listing=True, headers=(("/dir/*", "X-Dir", "yes"),)),
            SiteConfig(str(folder / "b"), hosts=("b.example",), fallback="/page.html", max_age=60, error_pages=((404, "/f"),)),
        )
        self.clock = Clock(100.0, START)
        self.cold = Remembering(self.clock, *self.sites, answers=0, files=0)
        self.hits = 0
        self.forget()

    def forget(self) -> None:
        self.warm = Remembering(self.clock, *self.sites)

    def said(self, service: Remembering, data: bytes, times: int) -> tuple[Any, ...]:
        """All that a client can tell, and the log, of a request that is sent several times within a wake."""
        client = service.client()
        client.send(data)
        for _ in range(times - 1):
            client.take(client.conversation.receive(data))
            while client.has_more():
                client.take(client.resume())
        self.hits += client.conversation._counters.cache_hits
        records = [
            (each.line, each.status, each.head_size, each.body_size, each.referer, each.agent) for each in client.records
        ]
        return client.said, client.closing, records

    def ask(self, asked: Asked, times: int = 1) -> bool:
        """Whether it is answered as by the service that remembers nothing."""
        data = request(asked)
        return self.said(self.warm, data, times) == self.said(self.cold, data, times)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return Compared(tmp_path_factory.mktemp("compared"))


@st.composite
def sequences(draw: st.DrawFn) -> list[tuple[Asked, int, int]]:
    """Requests that differ in a few parts, so that they meet again; how often each is sent, and seconds before it."""
    asked = USUAL | {axis: draw(st.sampled_from(AXES[axis])) for axis in ("target", "Host")}
    parts = ["Cookie", *draw(st.lists(st.sampled_from(list(AXES)), min_size=1, max_size=3))]
    sequence = []
    for _ in range(draw(st.integers(1, 20))):
        axis = draw(st.sampled_from(parts))
        asked = asked | {axis: draw(st.sampled_from(AXES[axis]))}
        sequence.append((asked, draw(st.integers(1, 4)), draw(st.sampled_from([0, 0, 0, 1, 200]))))
    return sequence


@settings(suppress_health_check=list(HealthCheck))
@given(sequence=sequences())
def test_any_requests_in_any_order(compared: Compared, sequence: list[tuple[Asked, int, int]]) -> None:
    compared.forget()
    compared.clock.time = START
    for asked, times, seconds in sequence:
        compared.clock.time += seconds  # so that /ahead may be of the future no more
        assert compared.ask(asked, times), asked


BASES = [USUAL | {"target": target, "Host": host} for target in AXES["target"] for host in ("a.example", "b.example")]


def mixed_up(compared: Compared, axis: str) -> Iterator[Asked]:
    """The requests that are answered otherwise once others have been, which differ from them in nothing but this."""
    for base in BASES:
        compared.forget()
        for cookie in ("a=1", "a=2", "a=3"):
            for value in AXES[axis]:
                asked = base | {"Cookie": cookie, axis: value}
                if not compared.ask(asked, 2):
                    yield asked


@pytest.mark.parametrize("axis", AXES)
def test_requests_that_differ_in_one_part(compared: Compared, axis: str) -> None:
    hits = compared.hits
    assert list(mixed_up(compared, axis)) == []
    assert compared.hits > hits + 50, "the cache was hardly asked"


# No answer to a request with one of these is remembered, and alone they decide nothing.
NEVER_REMEMBERED = {"authorization", "if-range"}


@pytest.mark.parametrize("field", sorted({*KEY_FIELDS} - NEVER_REMEMBERED))
def test_a_field_that_is_left_out_of_the_key_is_noticed(
    compared: Compared, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    (axis,) = [axis for axis in AXES if axis.lower() == field]
    pattern = normalized.IGNORED_LINES.pattern
    broken = re.sub(rb"(?<=[:|])%b\|?" % field.encode(), b"", pattern)
    assert broken != pattern
    monkeypatch.setattr(normalized, "IGNORED_LINES", re.compile(broken))
    assert any(mixed_up(compared, axis))
