"""`http.version`: the version in the status line, and that nothing else depends on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rawservers.core.peer import Clock
from rawservers.http.request import Request
from rawservers.http.response import Response
from tests.harness import wire
from tests.harness.http import CASES, Client, bytes_of, echo, router, vector_site


def fail(request: Request) -> Response:
    raise ZeroDivisionError


@pytest.fixture
def services(vector_files: Path, clock: Clock) -> dict[str, Any]:
    """The same files and functions under each version."""
    functions = (("/fn", echo), ("/fail", fail), ("/reset", lambda request: Response(205, body=b"x")))
    site = vector_site(vector_files, listing=True)
    return {version: router(clock, site, handlers=functions, http_version=version) for version in ("1.0", "1.1")}


STATUS_LINE = re.compile(rb"HTTP/1\.[01] (?=[2-5][0-9][0-9] )")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_nothing_but_the_status_line_differs(case: dict[str, Any], services: dict[str, Any], clock: Clock) -> None:
    data = bytes_of(case)
    said = {}
    for version, service in services.items():
        client = Client(service, clock).send(data)
        said[version] = [STATUS_LINE.sub(b"", client.said[begin:end], count=1) for begin, end in client.spans], client.closing
    assert said["1.0"] == said["1.1"]


TARGETS = ["/f", "/nope", "/old", "/dir", "/empty/", "/fn", "/fail", "/nope\x01", "/%", "/%00"]
FIELDS = [
    "",
    "Range: bytes=0-1\r\n",
    "Range: bytes=99-\r\n",
    "If-None-Match: *\r\n",
    'If-Match: "x"\r\n',
    "Connection: close\r\n",
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_each_client_is_answered_in_its_version(services: dict[str, Any], clock: Clock, version: str, method: str) -> None:
    statuses = set()
    for target in TARGETS:
        for field in FIELDS:
            client = Client(services["1.1"], clock)
            request = f"{method} {target} HTTP/{version}\r\nHost: h\r\n{field}\r\n".encode()
            client.send(request)
            (reply,) = client.replies()
            statuses.add(reply.status)
            expected = "1.0" if reply.status == 400 and "\x01" in target else version  # a head that is none has no version
            assert client.said.startswith(f"HTTP/{expected} {reply.status} ".encode())
            (record,) = client.records
            assert record.head_size + record.body_size == len(client.said)
    assert len(statuses) > 2


def test_a_minor_version_above_is_answered_as_1_1(services: dict[str, Any], clock: Clock) -> None:
    assert Client(services["1.1"], clock).send(b"GET /f HTTP/1.7\r\nHost: h\r\n\r\n").said.startswith(b"HTTP/1.1 200 ")
    assert Client(services["1.1"], clock).send(b"GET /f\r\n").said == b"content of f\n"


def test_a_kept_response_has_the_version_of_its_client(services: dict[str, Any], clock: Clock) -> None:
    """From the response cache and the epoch cache too: same bytes, other bytes of the same, and clients in turn."""
    clients = {
        version: Client(services["1.1"], clock).send(
            f"GET /f HTTP/{version}\r\nHost: h\r\nConnection: keep-alive\r\n\r\n".encode()
        )
        for version in ("1.0", "1.1")
    }
    for cookie in ("", "Cookie: a\r\n", "Cookie: b\r\n"):
        for _ in range(4):
            for version, client in clients.items():
                begin = len(client.said)
                request = f"GET /f HTTP/{version}\r\nHost: h\r\n{cookie}Connection: keep-alive\r\n\r\n".encode()
                client.take(client.conversation.receive(request))
                assert client.said[begin:].startswith(f"HTTP/{version} 200 OK\r\n".encode())
    for client in clients.values():
        assert client.conversation._counters.cache_hits > 8
        assert all(dict(reply.headers)["Connection"] == "keep-alive" for reply in client.replies())


def test_a_refused_body_is_answered_in_the_version_of_its_client(services: dict[str, Any], clock: Clock) -> None:
    head = b"POST /fn HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    for rest, status in ((b"x\r\n", b"400"), (b"fffff\r\n", b"413")):
        for packets in wire.cuts(head + rest):
            assert Client(services["1.1"], clock).send(*packets).said.startswith(b"HTTP/1.1 %b " % status)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_205_has_no_content(services: dict[str, Any], clock: Clock, version: str) -> None:
    """RFC 9110 §15.3.6."""
    client = Client(services[version], clock).send(b"GET /reset HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    assert [(reply.status, reply.body) for reply in client.replies()] == [(205, b"")] * 2
    assert [dict(reply.headers)["Content-Length"] for reply in client.replies()] == ["0"] * 2
