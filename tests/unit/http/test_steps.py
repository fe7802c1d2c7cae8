"""The work of a call into an HTTP conversation: steps are counted, and what is left waits for the next turn."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rawservers.core.peer import Clock
from rawservers.core.protocol import Deadline
from rawservers.http import conversation
from rawservers.http import router as routing
from rawservers.http.conversation import ANSWER_STEPS, LOOKUP_STEPS, STEPS
from rawservers.http.ranges import MAX_RANGES
from rawservers.http.request import Request
from rawservers.http.response import Response
from rawservers.http.router import HANDLER_STEPS
from rawservers.settings import SiteConfig
from tests.harness.http import Client, router

GET = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"
MISS = b"HEAD /nope HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def site(tmp_path: Path) -> tuple[Clock, routing.Router]:
    (tmp_path / "f").write_bytes(b"content of f\n")
    os.utime(tmp_path / "f", (1_000_000_000, 1_000_000_000))
    clock = Clock(now=100.0, time=time.time() + 3600)
    calls: list[str] = []

    def count(request: Request) -> Response:
        calls.append(request.target)
        return Response(200, (), b"called")

    return clock, router(clock, SiteConfig(str(tmp_path)), handlers=(("/fn", count),))


@pytest.mark.parametrize(
    ("request_", "most"),
    [
        (MISS, STEPS + ANSWER_STEPS),
        (GET, STEPS + ANSWER_STEPS),
        (b"GET /fn HTTP/1.1\r\nHost: h\r\n\r\n", HANDLER_STEPS + ANSWER_STEPS + LOOKUP_STEPS),
        (b"GET /f HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1,3-4\r\n\r\n", STEPS + ANSWER_STEPS),
    ],
)
def test_a_call_does_no_more_than_its_steps(site: tuple[Clock, routing.Router], request_: bytes, most: int) -> None:
    clock, answering = site
    client = Client(answering, clock)
    client.take(client.conversation.receive(request_ * 500))
    calls = 1
    while client.conversation.waiting is Deadline.TURN:
        assert 0 < client.conversation.steps <= most
        client.conversation.steps = 0
        client.take(client.conversation.resume())
        calls += 1
    assert len(client.replies()) == 500
    assert client.conversation.waiting is Deadline.IDLE
    assert calls >= 500 * LOOKUP_STEPS // STEPS


@pytest.mark.parametrize("size", [10_000, 100_000])
def test_each_part_of_an_answer_is_a_step(tmp_path: Path, size: int) -> None:
    """Parts of a small file are put together one by one; those of a large one are sent by a system call or two each."""
    (tmp_path / "f").write_bytes(bytes(size))
    clock = Clock(now=100.0, time=time.time() + 3600)
    client = Client(router(clock, SiteConfig(str(tmp_path))), clock)
    spans = ",".join(f"{number * 10}-{number * 10}" for number in range(MAX_RANGES))
    client.take(client.conversation.receive(f"GET /f HTTP/1.1\r\nHost: h\r\nRange: bytes={spans}\r\n\r\n".encode() * 10))
    turns = 1
    while client.conversation.waiting is Deadline.TURN:
        assert len(client.replies()) == turns
        assert client.conversation.steps >= MAX_RANGES
        client.take(client.conversation.resume())
        turns += 1
    assert [reply.status for reply in client.replies()] == [206] * 10
    assert turns >= 10


def test_each_call_of_a_function_has_a_turn_of_its_own(site: tuple[Clock, routing.Router]) -> None:
    clock, answering = site
    client = Client(answering, clock)
    client.take(client.conversation.receive(b"GET /fn HTTP/1.1\r\nHost: h\r\n\r\n" * 5))
    turns = 1
    while client.conversation.waiting is Deadline.TURN:
        assert len(client.replies()) == turns
        client.take(client.conversation.resume())
        turns += 1
    assert turns == len(client.replies()) == 5


@pytest.mark.parametrize("cut", range(1, len(MISS)))
def test_a_rest_at_every_cut_of_a_pipeline(
    site: tuple[Clock, routing.Router], monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    clock, answering = site
    monkeypatch.setattr(conversation, "STEPS", 1)
    data = MISS * 3 + GET
    whole = Client(answering, clock).send(data)
    parts = Client(answering, clock).send(data[:cut], data[cut : 2 * cut], data[2 * cut :])
    assert parts.said == whole.said
    assert len(whole.replies()) == 4


def test_each_chunk_of_a_body_is_a_step(site: tuple[Clock, routing.Router]) -> None:
    clock, answering = site
    client = Client(answering, clock)
    head = b"POST /fn HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.take(client.conversation.receive(head + b"1\r\nx\r\n" * 90 + b"0\r\n\r\n" + GET))
    calls = []
    while client.conversation.waiting is Deadline.TURN:
        calls.append(client.conversation.steps)
        client.take(client.conversation.resume())
    assert calls[0] == STEPS
    assert [reply.body for reply in client.replies()] == [b"called", b"content of f\n"]
    body = Client(answering, clock)
    body.take(body.conversation.receive(head))
    body.take(body.conversation.receive(b"1\r\nx\r\n" * 95))
    turns = 0
    while body.conversation.waiting is Deadline.TURN:
        assert body.conversation.steps == STEPS
        body.take(body.conversation.resume())
        turns += 1
    assert (turns, body.conversation.steps, body.conversation.waiting) == (1, 95 - STEPS, Deadline.BODY)
