"""The HTTP conversation over a real folder, without a socket: every vector, at every cut."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Chunk, Closing, Deadline, FileSlice, ResponseEnd
from rawservers.http.cache import ResponseCache
from rawservers.http.conversation import Conversation
from rawservers.http.files import FileCache
from rawservers.http.response import AccessRecord
from rawservers.http.router import Router
from rawservers.http.site import Site
from rawservers.settings import Handler, SiteConfig
from tests.harness import wire
from tests.harness.server import DEADLINE

CASES = wire.load("http") + wire.load("http_files")


def router(
    clock: Clock,
    *sites: SiteConfig,
    handlers: Sequence[tuple[str, Handler]] = (),
    body_limit: int = 100,
    server_header: bool = True,
) -> Router:
    cache = ResponseCache(clock, 100, 1 << 20)
    files = FileCache(100, 1 << 20, 100)
    return Router([(site.hosts, Site(site, clock, cache, files)) for site in sites], handlers, cache, body_limit, server_header)


class Reply(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Client:
    """Drives one conversation as the core would, and keeps what it says."""

    def __init__(self, site: Router, clock: Clock, requests: int = 0) -> None:
        self.clock = clock
        self.conversation = Conversation(Peer(("192.0.2.1", 4711), clock), site, requests, site.respond_to_error)
        self.said = b""
        self.spans: list[tuple[int, int]] = []  # where in `said` each answer begins and ends
        self.begun = 0
        self.records: list[AccessRecord] = []
        self.patient = True  # waits for what is only promised

    def take(self, chunks: Iterable[object]) -> None:
        for chunk in chunks:
            if isinstance(chunk, ResponseEnd):
                if chunk.record is not None:  # else it is interim: 100 Continue
                    assert isinstance(chunk.record, AccessRecord)
                    self.records.append(chunk.record)
                    self.spans.append((self.begun, len(self.said)))
                self.begun = len(self.said)
            elif isinstance(chunk, FileSlice):
                self.said += os.pread(chunk.file.fd, chunk.count, chunk.offset)
            else:
                assert isinstance(chunk, bytes)
                self.said += chunk

    def send(self, *packets: bytes) -> Client:
        for packet in packets:
            self.clock.epoch += 1
            self.take(self.conversation.receive(packet))
            while (chunks := self.resume()) or self.has_more():
                self.clock.epoch += 1
                self.take(chunks)
        return self

    def has_more(self) -> bool:
        """Whether it rests, or waits for what was promised."""
        promised = self.patient and self.conversation._future is not None
        return self.closing is Closing.KEEP and (self.conversation.waiting is Deadline.TURN or promised)

    def resume(self) -> Sequence[Chunk]:
        """What there is to say besides, once what is promised is there."""
        future = self.conversation._future
        if future is not None and self.patient:
            wait([future], DEADLINE)
        return self.conversation.resume()

    def end(self) -> Client:
        self.take(self.conversation.end())
        return self

    @property
    def closing(self) -> Closing:
        return self.conversation.closing

    def replies(self) -> list[Reply]:
        return [self.parse(self.said[begin:end]) for begin, end in self.spans]

    @staticmethod
    def parse(answer: bytes) -> Reply:
        if not answer.startswith(b"HTTP/1.0 "):
            return Reply(0, [], answer)
        head, _, body = answer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
        return Reply(int(line.split(" ")[1]), headers, body)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("site")
    root = base / "www"
    for name in ("dir", "empty", ".git", ".well-known", "dir/.well-known", "\\evil", "dir\r\nX:1"):
        (root / name).mkdir(parents=True)
    for name, content in {
        "f": b"content of f\n",
        "a+b": b"a plus b",
        "dir/index.html": b"<p>index",
        "what?.jpg": b"a picture",
        ".git/config": b"secret",
        ".well-known/x": b"known",
        ".well-known/.x": b"secret",
        "dir/.well-known/x": b"secret",
        "big": bytes(range(250)) * 160,
        "../outside": b"secret",
        "nothing": b"",
        "page.html": b"as identity",
        "page.html.br": b"as br",
        "page.html.gz": b"as gzip",
        "old.html": b"new",
        "old.html.gz": b"old",
        "leak.html": b"inside",
    }.items():
        (root / name).write_bytes(content)
    (base / "outdoors").mkdir()
    (root / "out").symlink_to("../outside")
    (root / "outside").symlink_to("../outdoors")
    (root / "leak.html.gz").symlink_to("../outside")
    (root / "to-git").symlink_to(".git/config")
    (root / "link").symlink_to("f")
    os.mkfifo(root / "fifo")
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            os.utime(path, (784111777, 784111777))
    os.utime(root / "old.html.gz", (784111776, 784111776))
    os.utime(base / "outside", (784111777, 784111777))
    return root


@pytest.fixture
def clock() -> Clock:
    return Clock(now=100.0, time=2_000_000_000.0)


@pytest.fixture
def site(root: Path, clock: Clock) -> Router:
    return router(clock, SiteConfig(str(root)))


def bytes_of(case: dict[str, Any]) -> bytes:
    text = case["send"]
    if "repeat" in case:
        piece, count = case["repeat"]
        text = text.replace("{}", piece * count)
    return wire.unescape(text)


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
