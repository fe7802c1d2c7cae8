"""The HTTP conversation, given any bytes at any cut: properties that hold for thousands of random inputs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rawservers.core.peer import Clock
from rawservers.core.protocol import Closing
from rawservers.http import conversation
from rawservers.http.request import REQUEST_LINE, Request
from rawservers.http.response import Response
from rawservers.http.router import Router
from rawservers.settings import SiteConfig
from tests.harness import wire
from tests.harness.http import Client, bytes_of, router

# Pieces that requests are made of, good and bad, so that random sequences of them get somewhere.
PIECES = r"""
GET |HEAD |POST |OPTIONS |BREW |get |/f|/fn|/|*|/big|/nope|/%2e%2e/|/%|/./f|//|/..|%2f|http://h/f|?q|#| |\t|abc|\xff|\x00
 HTTP/1.1| HTTP/1.0| HTTP/2.0| HTTP/1.1x|\r\n|\n|\r|\r\n\r\n| folded\r\n|bad name: x\r\n|: x\r\n|X: \x00\r\n
Host: h\r\n|Host: \r\n|Host: a b\r\n|Host: [::1%25x]:80\r\n|Host: [1::2::3]\r\n
Connection: close\r\n|Connection: keep-alive\r\n|Accept-Encoding: gzip\r\n
Content-Length: 3\r\n|Content-Length: 0\r\n|Content-Length: x\r\n|Transfer-Encoding: chunked\r\n|Expect: 100-continue\r\n
Range: bytes=0-1,3-\r\n|Range: bytes=9-\r\n|If-None-Match: *\r\n|If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n
GET /f HTTP/1.1\r\nHost: h\r\n\r\n|GET /f HTTP/1.0\r\n\r\n|POST /fn HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n
POST /fn HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n|3\r\nabc\r\n|1;a=b\r\nx\r\n|0\r\n\r\n|0\r\n|7fffffff\r\n
"""
PIECES = [wire.unescape(piece) for line in PIECES.strip("\n").split("\n") for piece in line.split("|")]
STREAM = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=12).map(b"".join)
WHOLE_REQUESTS = [
    bytes_of(case)
    for case in wire.load("http") + wire.load("http_files")
    if case["status"] != [0] and not case.get("end") and not case.get("whole") and "repeat" not in case
]
REFUSALS = {400, 408, 413, 414, 431, 501, 505}
RELAXED = settings(suppress_health_check=list(HealthCheck))


def respond(request: Request) -> Response:
    return Response(200, [("Content-Type", "text/plain")], request.body[::-1])


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock(now=100.0, time=2_000_000_000.0)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Router:
    root = tmp_path_factory.mktemp("www")
    (Path(root) / "f").write_bytes(b"content of f\n")
    (Path(root) / "big").write_bytes(bytes(40_000))
    return router(clock, SiteConfig(str(root)), handlers=(("/fn", respond),))


@RELAXED
@given(data=STREAM, cuts=st.lists(st.integers(0, 300), max_size=6), end=st.booleans())
@example(data=b"GET /f HTTP/1.0\r\n\r\nGET ", cuts=[19], end=False)
def test_any_bytes_at_any_cut(service: Router, clock: Clock, data: bytes, cuts: list[int], end: bool) -> None:
    whole = Client(service, clock).send(*([data] if data else []))
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = Client(service, clock).send(*[data[a:b] for a, b in pairwise(places)])
    for client in (whole, parts):
        if end:
            client.end()
        refused = [reply.status in REFUSALS for reply in client.replies()]
        assert True not in refused[:-1]
        assert client.closing is Closing.LINGER or True not in refused
    if not holds_a_simple_request(data):
        assert parts.said == whole.said
        # CLOSE or LINGER: for input that comes after the last response, the core lingers in either case.
        assert (parts.closing is Closing.KEEP) == (whole.closing is Closing.KEEP)


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@RELAXED
@given(data=STREAM, many=st.integers(1, 4))
def test_resting_anywhere_says_the_same(service: Router, clock: Clock, steps: int, data: bytes, many: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversation, "STEPS", 1 << 30)
        whole = Client(service, clock).send(*([data * many] if data else []))
        patch.setattr(conversation, "STEPS", steps)
        rested = Client(service, clock).send(*([data * many] if data else []))
    assert (rested.said, rested.closing) == (whole.said, whole.closing)
    assert [record.line for record in rested.records] == [record.line for record in whole.records]


def holds_a_simple_request(data: bytes) -> bool:
    """HTTP/0.9 alone may depend on the cut: nothing but the cut says where such a request ends."""
    lines = (REQUEST_LINE.fullmatch(line.decode("latin-1") + "\n") for line in data.split(b"\n")[:-1])
    return any(match and match[1] == "GET" and match[3] is None for match in lines)


@RELAXED
@given(data=STREAM)
def test_nothing_behind_a_refusal_is_answered(service: Router, clock: Clock, data: bytes) -> None:
    client = Client(service, clock).send(*([data] if data else []))
    if client.closing is not Closing.KEEP:
        said = client.said
        client.send(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n").end()
        assert client.said == said


@RELAXED
@given(first=st.sampled_from(WHOLE_REQUESTS), second=st.sampled_from(WHOLE_REQUESTS))
def test_two_requests_glued_together(service: Router, clock: Clock, first: bytes, second: bytes) -> None:
    alone = [Client(service, clock).send(data) for data in (first, second)]
    together = Client(service, clock).send(first + second)
    if alone[0].closing is Closing.KEEP:
        assert together.said == alone[0].said + alone[1].said
    else:
        assert together.said == alone[0].said
