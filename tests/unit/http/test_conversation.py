"""The HTTP conversation over a real folder, without a socket: every vector, at every cut; persistence, deadlines, draining."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rawservers.core.peer import Clock
from rawservers.core.protocol import Closing, Deadline, ResponseEnd
from rawservers.http.request import Request
from rawservers.http.response import AccessRecord, Response
from rawservers.http.router import Router
from rawservers.settings import SiteConfig
from tests.harness import wire
from tests.harness.http import CASES, Client, Reply, bytes_of, echo, router, vector_site


@pytest.fixture
def site(vector_files: Path, clock: Clock) -> Router:
    return router(clock, vector_site(vector_files), handlers=(("/fn", echo),))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_vector(case: dict[str, Any], site: Router, clock: Clock) -> None:
    data = bytes_of(case)
    seen = set()
    for packets in [[data]] if case.get("whole") else wire.cuts(data):
        client = Client(site, clock).send(*packets)
        if case.get("end"):
            client.end()
        check(case, client)
        seen.add(client.said)
    assert len(seen) == 1


def check(case: dict[str, Any], client: Client) -> None:
    replies = client.replies()
    assert [reply.status for reply in replies] == case["status"]
    assert client.closing.value == case["then"]
    assert client.said.endswith(b"".join(reply.body for reply in replies[-1:]))
    if not replies:
        assert client.said == b""
        return
    last = replies[-1]
    lines = [f"{name}: {value}" for name, value in last.headers]
    for pattern in case.get("has", []):
        assert [line for line in lines if re.fullmatch(pattern, line)], (pattern, lines)
    names = [name for name, _ in last.headers]
    assert not set(names) & set(case.get("lacks", []))
    assert len(names) == len(set(names))
    if "body" in case:
        assert last.body == wire.unescape(case["body"])
    if last.status >= 400:
        assert "Content-Length" in names
    for reply, record in zip(replies, client.records, strict=True):
        check_framing(reply, record)


def check_framing(reply: Reply, record: AccessRecord) -> None:
    """What holds for every answer: its length, and that the log is told the truth."""
    assert record.body_size == len(reply.body)
    length = dict(reply.headers).get("Content-Length")
    if reply.status not in (0, 204, 304) and not record.line.startswith("HEAD "):
        assert length == str(len(reply.body))
    if reply.status:
        assert (record.status, dict(reply.headers).keys() >= {"Date", "Server", "Connection"}) == (reply.status, True)


def test_the_records_head_is_what_is_sent_before_the_body(site: Router, clock: Clock) -> None:
    for request in (
        b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /f HTTP/1.0\r\n\r\n",
        b"GET /f\r\n",
        b"HEAD /f HTTP/1.0\r\n\r\n",
    ):
        for requests in (0, 1):
            client = Client(site, clock, requests).send(request)
            (record,) = client.records
            assert record.head_size + record.body_size == len(client.said)
    client = Client(site, clock)
    for request in (b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /f HTTP/1.0\r\n\r\n"):  # the second is kept, unasked
        clock.now += 1
        client.send(request)
    assert sum(record.head_size + record.body_size for record in client.records) == len(client.said)


def test_a_tls_handshake_is_answered_and_logged_as_such(site: Router, clock: Clock) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    for packets in wire.cuts(hello):
        client = Client(site, clock).send(*packets)
        (reply,), (record,) = client.replies(), client.records
        assert (reply.status, record.status, record.line) == (400, 400, "(TLS handshake)")
        assert b"does not use TLS. Use http://" in reply.body


@pytest.mark.parametrize(("is_secure", "scheme"), [(False, "http"), (True, "https")])
def test_a_request_knows_whether_it_came_over_tls(clock: Clock, is_secure: bool, scheme: str) -> None:
    seen: list[Request] = []
    handlers = (("/", lambda request: seen.append(request) or Response(204)),)
    client = Client(router(clock, SiteConfig(), handlers=handlers), clock)
    client.conversation._peer.secure = is_secure
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert [(request.is_secure, request.scheme) for request in seen] == [(is_secure, scheme)]


def test_the_last_of_so_many_requests_says_close(site: Router, clock: Clock) -> None:
    request = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"
    client = Client(site, clock, requests=3).send(request, request, request + request)
    assert [dict(reply.headers)["Connection"] for reply in client.replies()] == ["keep-alive", "keep-alive", "close"]
    assert client.closing is Closing.LINGER


def test_a_client_that_reuses_a_connection_need_not_ask_for_it_again(site: Router, clock: Clock) -> None:
    old, new = b"GET /f HTTP/1.0\r\n\r\n", b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"

    def connections(*packets: bytes) -> list[str]:
        client = Client(site, clock)
        for packet in packets:
            client.send(packet)
            clock.now += 0.001
        assert sum(record.head_size + record.body_size for record in client.records) == len(client.said)
        return [dict(reply.headers)["Connection"] for reply in client.replies()]

    assert connections(new, old, old) == ["keep-alive"] * 3  # curl
    assert connections(old, old) == ["close"]
    assert connections(new + old) == ["keep-alive", "close"]  # it cannot have seen that it was kept
    assert connections(new, b"GET /f HTTP/1.0\r\nConnection: close\r\n\r\n") == ["keep-alive", "close"]


def test_draining_ends_with_the_next_answer(site: Router, clock: Clock) -> None:
    request = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"
    client = Client(site, clock).send(request, request)
    client.take(client.conversation.drain())
    assert (client.conversation.waiting, client.closing) == (Deadline.IDLE, Closing.KEEP)
    client.send(request)
    assert [dict(reply.headers)["Connection"] for reply in client.replies()] == ["keep-alive", "keep-alive", "close"]
    assert client.closing is Closing.CLOSE


def test_a_new_connection_is_idle_once_the_server_drains(site: Router, clock: Clock) -> None:
    client = Client(site, clock)
    assert client.conversation.waiting is Deadline.HEAD
    client.take(client.conversation.drain())
    assert client.conversation.waiting is Deadline.IDLE


def test_the_deadlines_follow_the_request(site: Router, clock: Clock) -> None:
    client = Client(site, clock)
    assert client.conversation.waiting is Deadline.HEAD
    client.send(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.conversation.waiting is Deadline.IDLE
    client.send(b"GET")
    assert client.conversation.waiting is Deadline.HEAD


def test_a_silent_connection_gets_a_fin_an_unfinished_head_a_408(site: Router, clock: Clock) -> None:
    silent = Client(site, clock)
    silent.take(silent.conversation.expire())
    assert (silent.said, silent.closing) == (b"", Closing.LINGER)
    slow = Client(site, clock).send(b"GET /f HT")
    slow.take(slow.conversation.expire())
    assert [reply.status for reply in slow.replies()] == [408]
    assert slow.records[0].line == "GET /f HT"
    slow.send(b"TP/1.0\r\n\r\n")
    assert len(slow.replies()) == 1


def test_a_long_pipeline_stops_at_the_mark_until_it_is_resumed(site: Router, clock: Clock) -> None:
    requests = b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n" * 5
    conversation = Client(site, clock).conversation
    said = [len([chunk for chunk in conversation.receive(requests) if isinstance(chunk, ResponseEnd)])]
    while chunks := conversation.resume():
        said.append(len([chunk for chunk in chunks if isinstance(chunk, ResponseEnd)]))
    assert said == [2, 2, 1]


def test_the_time_taken_is_counted_from_the_first_byte(site: Router, clock: Clock) -> None:
    conversation = Client(site, clock).conversation
    conversation.receive(b"GET /f HTTP/1.1\r\n")
    clock.now += 3
    *_, answered = conversation.receive(b"Host: h\r\n\r\n")
    assert isinstance(answered, ResponseEnd)
    assert answered.started_at == 100.0
    *_, answered = conversation.receive(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
    assert isinstance(answered, ResponseEnd)
    assert answered.started_at == 0.0
