"""Cached answers are the same as answers made anew, for any request, and so are their lines in the access log."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from re import Match
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawservers.core.peer import Clock
from rawservers.core.protocol import Chunk, Closing
from rawservers.http import conversation, framing
from rawservers.http.conversation import Conversation
from rawservers.http.normalized import KEY_FIELDS, LOG_LINES_LIMIT, normalized_key
from rawservers.http.request import FIELD_LIMIT, Request, parse
from rawservers.http.router import Router
from rawservers.settings import SiteConfig
from tests.harness.http import Client
from tests.harness.http_cache import Remembering, Tree, get


def test_what_is_asked_again_within_a_wake_is_said_again(clock: Clock, tmp_path: Path) -> None:
    """To whomever, as it was made; and not a moment longer, nor to a connection on which something else is due."""
    tree = Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tree.root)))
    request = get("/f")
    clients = [service.client().send(request) for _ in range(3)]
    limited = Client(service.router, clock, requests=3).send(request)
    one, two, three = (client.conversation for client in clients)

    def ask(*conversations: Conversation) -> list[Sequence[Chunk]]:
        clock.epoch += 1
        return [conversation.receive(request) for conversation in conversations]

    def fresh() -> bytes:
        return Remembering(clock, SiteConfig(str(tree.root))).ask(request)

    first, *others = ask(one, two, three, one)
    assert {id(chunks) for chunks in others} == {id(others[0])}
    assert first[0] == others[0][0] == fresh()
    assert one._counters.cache_hits == 2
    tree.overwrite("f")
    assert [chunks[0] for chunks in ask(one, two, three)] == [fresh()] * 3
    clock.time += 1
    assert [chunks[0] for chunks in ask(one, two, three)] == [fresh()] * 3
    assert [chunks[0] for chunks in ask(one, two, limited.conversation, limited.conversation)][2:] == [
        fresh(),
        fresh().replace(b"keep-alive", b"close"),
    ]
    two.receive(b"GET /f")
    one.drain()
    said = [b"".join(chunk for chunk in chunks if isinstance(chunk, bytes)) for chunks in ask(three, three, three, one, two)]
    assert said[:4] == [fresh()] * 3 + [fresh().replace(b"keep-alive", b"close")]
    assert said[4].startswith(b"HTTP/1.0 400 ")
    three.expire()
    assert (one.closing, three.closing) == (Closing.CLOSE, Closing.LINGER)
    assert three.receive(request) == ()


TARGETS = ["/f", "/page.html", "/big", "/missing", "/sub/", "/f?q", "http://h/f", "/%2e/"]
DECIDING = [
    "Host: h", "host:h", "Host: other", "Accept-Encoding: gzip", "accept-encoding: br", "ACCEPT-ENCODING:", "Connection: close",
    "connection: keep-alive", "If-None-Match: *", 'if-match: "x"', "If-Modified-Since: Sun, 06 Nov 2094 08:49:37 GMT",
    "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "Range: bytes=0-1", "Content-Length: 0", "Content-Length: 3",
    "Transfer-Encoding: chunked", "Authorization: x", "If-Range: x",
]  # fmt: skip
IDLE = [
    "Cookie: a=b", "cookie:", "User-Agent: Firefox", "user-agent: curl", "User-Agent:\t spaced \t", "Referer: http://a/",
    "REFERER: b", "Accept: */*", "Accept: application/json", "Date: x", "X: \xff\x80", "Expect: 100-continue", "Hosts: h",
    "A-Connection: close", "Connection-: close", "Keep-Alive: 5", "Upgrade: x", "Accept-Encoding-: gzip",
    "Cookie: " + "c" * 500, "Referer: " + "r" * LOG_LINES_LIMIT,
]  # fmt: skip
BAD = [
    "Cookie : a",
    " folded",
    "\tfolded",
    "Cookie",
    ":x",
    "C\0: a",
    "X: \x7f",
    "X: a\rb",
    "X: \v",
    "Co okie: a",
    "\xff: a",
    "X: a\r",
]
ENDS = ["\r\n\r\n"] * 8 + ["\n\n", "\r\n\n", "\n\r\n", "\r\n", "\r\n\r\nX: y\r\n", "\r\n\r\nX: y\r\n\r\n", "\r\n\r\n\r\n\r\n"]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Heads that mostly decide the same, with all that may stand between; some are not well formed, some are two."""
    method = draw(st.sampled_from(["GET", "GET", "GET", "HEAD", "POST"]))
    target = draw(st.sampled_from(["/f", *TARGETS]))
    lines = [
        "Host: h",
        *draw(st.lists(st.sampled_from(IDLE), max_size=5)),
        *draw(st.sampled_from([[], ["Accept-Encoding: gzip"]])),
    ]
    lines += draw(st.lists(st.sampled_from(DECIDING + BAD), max_size=1))
    lines = draw(st.permutations(lines))
    line_end = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    head = f"{method} {target} HTTP/1.{draw(st.sampled_from('110'))}\r\n" + line_end.join(lines) + draw(st.sampled_from(ENDS))
    data = head.encode("latin-1")
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"\0", b":", b"Host: h\r\n"])) + data[at:]
    return data * draw(st.sampled_from([1, 1, 1, 2]))


class Pair(NamedTuple):
    """Two services over the same files, of which one remembers nothing; how often the other did."""

    quick: Router
    long: Router
    hits: list[bytes]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    clock = Clock(100.0, 2_000_000_000.0)
    root = Tree(tmp_path_factory.mktemp("pair")).root
    hits: list[bytes] = []
    site = SiteConfig(str(root), listing=True)
    service = Remembering(clock, site, answers=1000)
    recall = service.answers.lookup

    def count(head: bytes, recheck: bool) -> Any:
        answer = recall(head, recheck)
        if answer:
            hits.append(head)
        return answer

    for target in TARGETS:
        for method in ("GET", "HEAD"):
            for line in ("Accept-Encoding: gzip", "X: y"):
                service.ask(*[get(target, line, f"Cookie: {number}", method=method) for number in range(3)])
    service.router.lookup = count
    long = Remembering(clock, site).router
    long.lookup = lambda head, recheck: None
    return Pair(service.router, long, hits)


def told(client: Client) -> list[tuple[object, ...]]:
    return [
        (record.line, record.referer, record.agent, record.status, record.head_size, record.body_size)
        for record in client.records
    ]


def compare(pair: Pair, clock: Clock, packets: list[bytes]) -> None:
    clients = [Client(service, clock).send(*packets) for service in (pair.long, pair.quick, pair.quick)]
    expected = (clients[0].said, clients[0].closing, told(clients[0]))
    for client in clients[1:]:
        assert (client.said, client.closing, told(client)) == expected, packets


def test_the_quick_way_and_the_long_way_say_the_same(pair: Pair) -> None:
    clock = Clock(100.0, 2_000_000_000.0)

    @settings(suppress_health_check=list(HealthCheck))
    @given(data=heads(), cuts=st.lists(st.integers(0, 300), max_size=4))
    def say_the_same(data: bytes, cuts: list[int]) -> None:
        places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        compare(pair, clock, [data[a:b] for a, b in pairwise(places)])

    for line in IDLE + DECIDING + BAD:  # each by itself, to begin with
        for lines in ([line, "Cookie: x"], ["Cookie: x", line], ["User-Agent: x", line, "Cookie: x"]):
            for path in ("/f", "/page.html"):
                for method in ("GET", "HEAD"):
                    compare(pair, clock, [get(path, *lines, method=method)])
    for end in dict.fromkeys(ENDS):
        for lines in (["Cookie: x"], ["Host: h", "Cookie: x"], ["Cookie: x", "Host: h"]):
            compare(pair, clock, ["\r\n".join(["GET /f HTTP/1.1", *lines]).encode() + end.encode()])
    say_the_same()
    assert len(set(pair.hits)) > 100, "the quick way was hardly taken"


ESSENTIAL = st.lists(st.sampled_from([*DECIDING, *IDLE, *BAD]), max_size=6).map("\r\n".join) | st.text(
    st.sampled_from("aC:\r\n \t\0"), max_size=12
)


@settings(suppress_health_check=list(HealthCheck))
@given(text=ESSENTIAL, other=ESSENTIAL)
def test_what_has_the_essence_of_a_good_head_is_one(text: str, other: str) -> None:
    """The proof in small: whatever is inserted into a good head and vanishes again, was well formed, and decided nothing."""
    good = f"GET / HTTP/1.1\r\nHost: h\r\n{text}\r\n\r\n".encode("latin-1")
    for line in other.split("\r\n"):
        for at in range(len(good)):
            inserted = good[:at] + line.encode("latin-1") + b"\r\n" + good[at:]
            if normalized_key(inserted) != normalized_key(good):
                continue
            first, second = parsed(good), parsed(inserted)
            if first is not None:
                assert second == first, inserted


def parsed(head: bytes) -> object:
    """All that decides in `head`; None if it is not a good one, or more than one."""
    try:
        request = parse(head)
    except Exception:
        return None
    fields = {name: value for name, value in request.fields.items() if name in KEY_FIELDS}
    return request.line, fields, request.host, request.keep_alive, request.length


def test_as_many_lines_as_are_allowed(clock: Clock, tmp_path: Path) -> None:
    Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tmp_path / "release-1")))
    service.ask(*[get("/f", f"X: {number}") for number in range(3)])
    for count in range(FIELD_LIMIT - 3, FIELD_LIMIT + 3):
        (reply,) = service.client().send(get("/f", *["X: y"] * (count - 1))).replies()
        assert (reply.status, count) == (200 if count <= FIELD_LIMIT else 431, count)


def test_the_log_is_told_of_each_request(clock: Clock, tmp_path: Path) -> None:
    Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tmp_path / "release-1")))
    askers = [
        ("a", "b"),
        ("a", "b"),
        ("", ""),
        ("c", ""),
        ("", "d"),
        ("a", "b"),
        ("c" * LOG_LINES_LIMIT, "e"),
        ("é\xff", "\t x"),
        ("a", "b"),
        ("a", "b"),
    ]
    client = service.client()
    for number, (referer, agent) in enumerate(askers):
        lines = [f"Referer: {referer}"] * bool(referer) + [f"user-agent: {agent} "] * bool(agent)
        client.send(get("/f", *lines, f"Cookie: {number}"))
    client.send(get("/f", "Referer: a", "Referer: b", "Cookie: x"))
    expected = [(referer, agent.strip()) for referer, agent in askers] + [("a, b", "")]
    assert [(record.referer, record.agent) for record in client.records] == expected
    assert len(client.records) == len({id(record) for record in client.records}) + 1  # two askers in a row are told as one
    assert len({record.head_size + record.body_size for record in client.records}) == 1
    assert len(service.answers._cache) == 3  # the first as it came, what decides in it, and the one that has too much to tell


class Watched(dict[str, str]):
    """Header fields that note which of them somebody wants to know."""

    def __init__(self, fields: dict[str, str], wanted: set[str]) -> None:
        super().__init__(fields)
        self.wanted = wanted

    def get(self, name: str, default: Any = None) -> Any:
        self.wanted.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.wanted.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.wanted.add(str(name))
        return super().__contains__(name)


def test_no_other_field_decides_what_is_remembered(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path)
    wanted: set[str] = set()

    def watch(head: bytes) -> Request:
        request = parse(head)
        request.fields = Watched(request.fields, wanted)
        return request

    monkeypatch.setattr(conversation, "parse", watch)
    site = SiteConfig(str(tree.root), fallback="/page.html", max_age=1, headers=(("*", "X", "y"),))
    service = Remembering(clock, site)
    for line in ["X: y", *DECIDING[3:]]:
        for path in ("/f", "/sub/page.html", "/folder/", "/big", "/missing"):
            for method in ("GET", "HEAD"):
                service.ask(get(path, line, method=method))
    assert wanted - {"referer", "user-agent", "expect"} <= set(KEY_FIELDS)
    assert wanted >= {"accept-encoding", "if-none-match", "range"}


def test_a_head_that_trickles_in_is_judged_once(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    check = framing.check_request_line

    def judge(text: str) -> Match[str]:
        judged.append(text)
        return check(text)

    monkeypatch.setattr(framing, "check_request_line", judge)
    data = get("/" + "x" * 8000, *["X: " + "y" * 50] * 20)
    service = Remembering(clock, SiteConfig(str(tmp_path)))
    client = service.client().send(*[data[at : at + 1] for at in range(len(data))])
    assert [reply.status for reply in client.replies()] == [404]
    assert len(judged) == 1
