"""Bodies of functions: text, files, JSON, and those that are made while they are sent."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import HIGH_WATER, Closing, Deadline, ResponseEnd
from rawservers.http.conversation import STEPS, Conversation
from rawservers.http.request import Request
from rawservers.http.response import AccessRecord, Response
from rawservers.http.stream import Item
from rawservers.settings import SiteConfig
from tests.harness.http import Client, router

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
OTHER = b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n"


class Timed(Peer):
    """A peer that keeps the pauses it is asked for."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(("192.0.2.1", 4711), clock)
        self.pauses: list[float] = []

    def call_later(self, seconds: float) -> None:
        self.pauses.append(seconds)


class Streaming(Client):
    def __init__(self, clock: Clock, answer: Callable[[Request], Response], version: str = "1.0") -> None:
        service = router(clock, SiteConfig("/nonexistent"), handlers=(("/x", answer),), http_version=version)
        super().__init__(service, clock)
        self.peer = Timed(clock)
        self.conversation = Conversation(self.peer, service)


def stream(*items: Item) -> Callable[[Request], Response]:
    return lambda request: Response(200, {"Content-Type": "text/plain"}, iter(items))


@pytest.mark.parametrize(
    "request_line", [b"GET /x HTTP/1.0\r\n\r\n", GET, b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"]
)
def test_the_end_of_the_connection_is_the_end_of_the_body(clock: Clock, request_line: bytes) -> None:
    client = Streaming(clock, stream(b"one ", "zwei ü ", b"", b"three")).send(request_line + OTHER)
    head, _, body = client.said.partition(b"\r\n\r\n")
    assert body == "one zwei ü three".encode()
    assert b"Content-Length" not in head
    assert b"Transfer-Encoding" not in head
    assert b"\r\nConnection: close" in head
    assert client.closing is not Closing.KEEP
    (record,) = client.records
    assert (record.status, len(client.spans)) == (200, 1)


def test_in_chunks_the_connection_persists(clock: Clock) -> None:
    client = Streaming(clock, stream(b"one", "two", b"", b"x" * 17), "1.1").send(GET + OTHER + GET)
    assert [reply.status for reply in client.replies()] == [200, 404, 200]
    first, _, third = client.replies()
    assert first.body == third.body == b"3\r\none\r\n3\r\ntwo\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"
    assert ("Transfer-Encoding", "chunked") in first.headers
    assert ("Connection", "keep-alive") in first.headers
    assert "Content-Length" not in dict(first.headers)
    assert client.closing is Closing.KEEP
    assert client.conversation.waiting is Deadline.IDLE


def test_an_http_1_0_client_gets_no_chunks(clock: Clock) -> None:
    client = Streaming(clock, stream(b"one"), "1.1").send(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert client.said.startswith(b"HTTP/1.0 200 OK\r\n")
    assert client.said.endswith(b"Connection: close\r\nServer: " + client.said.partition(b"Server: ")[2])
    assert client.said.endswith(b"\r\n\r\none")


@pytest.mark.parametrize(("status", "line"), [(200, b"HEAD"), (204, b"GET"), (304, b"GET"), (205, b"GET")])
def test_where_there_is_no_body_the_iterator_is_closed_unasked(clock: Clock, status: int, line: bytes) -> None:
    asked = []

    def items() -> Iterator[bytes]:
        asked.append(True)
        yield b"x"

    made = items()
    client = Streaming(clock, lambda request: Response(status, (), made), "1.1").send(line + GET[3:])
    (reply,) = client.replies()
    assert (reply.status, reply.body, asked, client.closing) == (status, b"", [], Closing.KEEP)
    assert next(made, "closed") == "closed"


def test_a_pause(clock: Clock) -> None:
    client = Streaming(clock, stream(b"one", 0.5, b"two", 3, -1, b"three")).send(GET)
    assert client.said.endswith(b"\r\n\r\none")
    assert (client.peer.pauses, client.conversation.waiting, client.closing) == ([0.5], Deadline.NONE, Closing.KEEP)
    assert client.conversation.resume() == ()  # too early
    for seconds, pauses, said in ((0.5, [0.5, 3], b"onetwo"), (2.9, [0.5, 3], b"onetwo"), (0.2, [0.5, 3, 0.0], b"onetwo")):
        clock.now += seconds
        client.take(client.conversation.resume())
        assert client.peer.pauses == pauses
        assert client.conversation.expire() == ()  # the time for a promise is none for a pause
        assert client.said.endswith(b"\r\n\r\n" + said)
    client.take(client.conversation.resume())
    assert client.said.endswith(b"\r\n\r\nonetwothree")
    assert client.closing is Closing.CLOSE


def test_it_is_asked_for_no_more_than_may_be_queued(clock: Clock) -> None:
    asked = [0]

    def endless() -> Iterator[bytes]:
        while True:
            asked[0] += 1
            yield b"x" * 16384

    conversation = Streaming(clock, lambda request: Response(200, (), endless())).conversation
    conversation.receive(GET)
    for call in range(1, 5):
        assert conversation.waiting is Deadline.TURN
        before = asked[0]
        chunks = conversation.resume()
        assert asked[0] - before <= STEPS
        assert 0 < sum(len(chunk) for chunk in chunks if isinstance(chunk, bytes)) <= HIGH_WATER + 16384, call
    assert conversation.steps >= 2 * 16384 // 512


def test_empty_items_are_work_as_well(clock: Clock) -> None:
    asked = [0]

    def nothing() -> Iterator[bytes]:
        while asked[0] < 10_000:
            asked[0] += 1
            yield b""

    conversation = Streaming(clock, lambda request: Response(200, (), nothing()), "1.1").conversation
    conversation.receive(GET)
    for call in range(1, 5):
        assert conversation.resume() == ()
        assert (asked[0], conversation.waiting, conversation.steps) == (call * STEPS, Deadline.TURN, STEPS)


def test_many_small_items_are_sent_in_turns(clock: Clock) -> None:
    conversation = Streaming(clock, stream(*[b"x"] * 1000)).conversation
    conversation.receive(GET)
    sizes = []
    while conversation.closing is Closing.KEEP:
        sizes.append(len([chunk for chunk in conversation.resume() if isinstance(chunk, bytes) and chunk]))
    assert (sum(sizes), max(sizes)) == (1000, STEPS)


def test_a_failure_resets_the_connection_and_is_logged(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> Iterator[Any]:
        yield b"one"
        raise RuntimeError("as told")

    for answer in (lambda request: Response(200, (), failing()), stream(b"one", None)):  # type: ignore[arg-type]
        caplog.clear()
        client = Streaming(clock, answer, "1.1").send(GET)
        assert client.said.endswith(b"3\r\none\r\n")
        assert client.closing is Closing.RESET
        (record,) = caplog.records
        assert (record.levelno, record.getMessage()) == (logging.ERROR, "body for /x failed")
        assert record.exc_info


def test_a_lost_connection_closes_the_iterator(clock: Clock) -> None:
    ended = []

    def items() -> Iterator[bytes | float]:
        try:
            yield b"one"
            yield 60
        finally:
            ended.append(True)

    client = Streaming(clock, lambda request: Response(200, (), items())).send(GET)
    assert ended == []
    client.conversation.connection_lost()
    assert ended == [True]
    Streaming(clock, stream(b"")).conversation.connection_lost()  # without one


def test_the_access_log_has_the_time_that_each_body_took(clock: Clock) -> None:
    conversation = Streaming(clock, stream(b"one", 2), "1.1").conversation
    began = clock.now
    conversation.receive(GET + GET)
    starts = []
    while conversation.waiting is not Deadline.IDLE:
        clock.now += 2 * (conversation.waiting is Deadline.NONE)
        starts += [chunk.started_at for chunk in conversation.resume() if isinstance(chunk, ResponseEnd)]
    assert starts == [began, began + 2]


def test_a_body_that_is_cut_off_is_logged(clock: Clock) -> None:
    client = Streaming(clock, stream(b"one", 2, b"two"))
    began = clock.now
    client.send(GET)
    clock.now += 1
    end = client.conversation.connection_lost()
    assert end is not None
    assert isinstance(end.record, AccessRecord)
    assert (end.started_at, end.record.line, end.record.status) == (began, "GET /x HTTP/1.1", 200)
    assert Streaming(clock, stream(b"")).send(GET).conversation.connection_lost() is None  # it has ended, and was logged


@pytest.mark.parametrize("line", [b"GET", b"HEAD"])
def test_an_iterator_that_cannot_be_closed_is_logged(clock: Clock, caplog: pytest.LogCaptureFixture, line: bytes) -> None:
    class Stubborn:
        def __iter__(self) -> Stubborn:
            return self

        def __next__(self) -> float:
            return 60

        def close(self) -> None:
            raise RuntimeError("as told")

    client = Streaming(clock, lambda request: Response(200, (), Stubborn())).send(line + GET[3:])
    client.conversation.connection_lost()
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "body for /x failed")
    assert client.said.startswith(b"HTTP/1.0 200 OK\r\n")


def test_input_meanwhile_waits(clock: Clock) -> None:
    client = Streaming(clock, stream(b"one", 1, b"two"), "1.1").send(GET)
    client.send(OTHER)  # a part of a burst, which the core had read
    assert len(client.spans) == 0
    clock.now += 1
    client.take(client.conversation.resume())
    while client.has_more():
        client.take(client.conversation.resume())
    assert [reply.status for reply in client.replies()] == [200, 404]


def test_text_and_json(clock: Clock) -> None:
    def answer(request: Request) -> Response:
        if request.query == "?json":
            return Response.json({"ü": [1, None]}, 201, {"X-A": "b"})
        if request.query == "?html":
            return Response(200, {"content-type": "text/html"}, "<p>ü")
        return Response(body="ü")

    lines = [b"GET /x%b HTTP/1.1\r\nHost: h\r\n\r\n" % query for query in (b"", b"?html", b"?json")]
    text, page, data = Streaming(clock, answer).send(*lines).replies()
    assert (text.status, text.body) == (200, "ü".encode())
    assert dict(text.headers)["Content-Type"] == "text/plain; charset=utf-8"
    assert [value for name, value in page.headers if name.lower() == "content-type"] == ["text/html"]
    assert (data.status, json.loads(data.body)) == (201, {"ü": [1, None]})
    assert dict(data.headers)["Content-Type"] == "application/json"
    assert dict(data.headers)["X-A"] == "b"


def test_a_file(clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.css").write_text("p {}")
    (tmp_path / "empty").touch()
    names = iter(["a.css", "empty", "nothing", "."])

    def answer(request: Request) -> Response:
        return Response(200, (), tmp_path / next(names))

    style, empty, missing, folder = Streaming(clock, answer).send(GET, GET, GET, GET).replies()
    assert (style.body, dict(style.headers)["Content-Type"]) == (b"p {}", "text/css; charset=utf-8")
    assert (empty.status, empty.body, dict(empty.headers)["Content-Type"]) == (200, b"", "application/octet-stream")
    assert (missing.status, folder.status) == (500, 500)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [FileNotFoundError, PermissionError]


def test_json_of_another_media_type() -> None:
    response = Response.json([1], headers={"content-type": "application/problem+json", "X-A": "b"})
    assert list(response.headers) == [("content-type", "application/problem+json"), ("X-A", "b")]


@pytest.mark.parametrize("body", [None, 1, {"a": 1}, ["x"], object(), Path, str])
def test_what_is_no_body(body: Any) -> None:
    with pytest.raises(TypeError, match="not a body"):
        Response(200, (), body)
