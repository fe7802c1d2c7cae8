"""Functions, which are answers in code: prefixes, request bodies, failures, and answers that take their time."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rawservers.core.peer import Clock
from rawservers.core.protocol import Closing, Deadline
from rawservers.http.chunked import FRAMING_LIMIT
from rawservers.http.request import Request
from rawservers.http.response import Response
from rawservers.settings import Handler, SiteConfig
from tests.harness.core import Waking
from tests.harness.http import Client, router


def answering(clock: Clock, function: Handler, *packets: bytes, body_limit: int = 100, prefix: str = "/api/") -> Client:
    service = router(clock, SiteConfig("/nonexistent"), handlers=((prefix, function),), body_limit=body_limit)
    return Client(service, clock).send(*packets)


def told(request: Request) -> Response:
    body = f"{request.method} {request.path} {request.query} {request.body!r}"
    return Response(200, [("Content-Type", "text/plain; charset=utf-8")], body.encode("utf-8", "surrogateescape"))


def test_a_function_answers_below_its_prefix(clock: Clock) -> None:
    head = b" HTTP/1.1\r\nHost: h\r\n\r\n"
    client = answering(
        clock, told, *[line + head for line in (b"GET /api/x?y=1", b"DELETE /api/%c3%a9", b"HEAD /api/", b"GET /other")]
    )
    assert [reply.status for reply in client.replies()] == [200, 200, 200, 404]
    assert [reply.body for reply in client.replies()[:3]] == [b"GET /api/x ?y=1 b''", "DELETE /api/é  b''".encode(), b""]
    assert client.closing is Closing.KEEP


def test_a_function_knows_the_connection(clock: Clock) -> None:
    client = answering(
        clock, lambda request: Response.json([request.peer.address, request.peer.local]), b"GET /api/ HTTP/1.0\r\n\r\n"
    )
    assert client.said.endswith(b'[["192.0.2.1", 4711], ["", 0]]')


def test_methods_before_a_path(clock: Clock) -> None:
    def answer(name: str) -> Handler:
        return lambda request: Response(body=name)

    functions = (
        ("GET /x", answer("get")), ("POST,PUT /x", answer("post")), ("/x/y", answer("any")), ("DELETE /x/y", answer("delete")),
    )  # fmt: skip
    service = router(clock, SiteConfig("/nonexistent"), handlers=functions)

    def ask(method: str, path: str, body: str = "") -> tuple[int, bytes, str]:
        client = Client(service, clock)
        client.send(f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        (reply,) = client.replies()
        return reply.status, reply.body if reply.status == 200 else b"", dict(reply.headers).get("Allow", "")

    assert ask("GET", "/x") == ask("GET", "/x/z") == (200, b"get", "")
    assert ask("HEAD", "/x") == (200, b"", "")
    assert ask("PUT", "/x", "body") == ask("POST", "/x") == (200, b"post", "")
    for body in ("", "body"):
        assert ask("DELETE", "/x", body) == (405, b"", "GET, HEAD, POST, PUT")
    assert ask("DELETE", "/x/y") == (200, b"delete", "")
    assert ask("GET", "/x/y") == ask("OPTIONS", "/x/y/z") == (200, b"any", "")
    assert ask("GET", "/") == (404, b"", "")


@pytest.mark.parametrize("path", ["", "x", "GET", "GET x", "GET  /x"])
def test_what_is_no_path_of_a_handler(clock: Clock, path: str) -> None:
    with pytest.raises(ValueError, match=r"^handlers: expected a path, as in '/a', 'POST /a' or 'GET,POST /a', not "):
        router(clock, SiteConfig("/nonexistent"), handlers=((path, told),))


@pytest.mark.parametrize("methods", ["get", "GET,", ",GET", "GET,FETCH", "GET,post"])
def test_a_method_that_no_request_has(clock: Clock, methods: str) -> None:
    with pytest.raises(ValueError, match=rf"^handlers: unknown method '\w*' in '{methods} /x'$"):
        router(clock, SiteConfig("/nonexistent"), handlers=((f"{methods} /x", told),))


def test_the_longest_prefix_wins(clock: Clock) -> None:
    def other(request: Request) -> Response:
        return Response(204)

    functions = (("/api/", told), ("/api/more/", other))
    client = Client(router(clock, SiteConfig("/nonexistent"), handlers=functions), clock)
    client.send(b"GET /api/more/x HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /api/mor HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [reply.status for reply in client.replies()] == [204, 200]


OWNED = {
    "/hello": {
        "/hello", "/hello/", "/hello/x", "/hello?x", "//hello", "/x/../hello/.", "/%68ello", "//hello//", "/hello/x/..",
    },
    "/hello/": {"/hello/", "/hello/x", "/x/../hello/.", "//hello//", "/hello/x/.."},
    "/hello/x": {"/hello/x"},
    "/": {
        "/", "/hello", "/hello/", "/hello/x", "/hello?x", "//hello", "/x/../hello/.", "/%68ello", "//hello//", "/hello/x/..",
        "/helloworld", "/hello.html", "/hello%20", "/hello;x", "/Hello", "/hello/../x", "/x/hello", "/hell",
    },
}  # fmt: skip


@pytest.mark.parametrize("prefix", OWNED)
def test_a_function_owns_its_path_and_what_is_below_it(clock: Clock, prefix: str) -> None:
    """Its requests alone may have a body."""
    for path in OWNED["/"]:
        head = f"{path} HTTP/1.1\r\nHost: h\r\n".encode()
        client = answering(clock, told, b"GET " + head + b"\r\n", prefix=prefix)
        client.send(b"POST " + head + b"Content-Length: 3\r\n\r\nabc")
        expected = [200, 200] if path in OWNED[prefix] else [404, 405]
        assert (path, [reply.status for reply in client.replies()]) == (path, expected)
        if path in OWNED[prefix]:
            assert client.replies()[1].body.endswith(b" b'abc'")


BODY = b"POST /api/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcdeGET /api/ HTTP/1.1\r\nHost: h\r\n\r\n"


def test_a_body_at_every_cut(clock: Clock) -> None:
    for at in range(len(BODY)):
        client = answering(clock, told, *filter(None, (BODY[:at], BODY[at:])))
        assert [reply.body for reply in client.replies()] == [b"POST /api/  b'abcde'", b"GET /api/  b''"]
    client = answering(clock, told, *[BODY[i : i + 1] for i in range(len(BODY))])
    assert len(client.replies()) == 2


def test_a_body_that_is_too_long(clock: Clock) -> None:
    client = answering(clock, told, BODY, body_limit=4)
    assert [reply.status for reply in client.replies()] == [413]
    assert client.closing is Closing.LINGER


def test_a_body_has_a_deadline_of_its_own(clock: Clock) -> None:
    client = answering(clock, told, BODY.partition(b"cde")[0])
    assert client.conversation.waiting is Deadline.BODY
    client.take(client.conversation.expire())
    assert [reply.status for reply in client.replies()] == [408]
    assert client.records[0].line == "POST /api/ HTTP/1.1"


CHUNKED = b"POST /api/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_chunked_body_is_handed_over_whole(clock: Clock) -> None:
    seen: list[tuple[bytes, int]] = []

    def note(request: Request) -> Response:
        seen.append((request.body, request.length))
        return Response(204)

    data = CHUNKED + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n" + BODY
    for at in range(len(data)):
        client = answering(clock, note, *filter(None, (data[:at], data[at:])))
        assert [reply.status for reply in client.replies()] == [204, 204, 204]
    answering(clock, note, *[data[i : i + 1] for i in range(len(data))])
    assert seen == [(b"abcde", 5), (b"abcde", 5), (b"", 0)] * (len(data) + 1)


def test_no_body_is_allowed(clock: Clock) -> None:
    """With a limit of 0; but a request without one is, and so is an empty one."""
    for request in (BODY, CHUNKED + b"1\r\nx\r\n0\r\n\r\n"):
        client = answering(clock, told, request, body_limit=0)
        assert ([reply.status for reply in client.replies()], client.closing) == ([413], Closing.LINGER)
    empty = (CHUNKED + b"0\r\n\r\n", CHUNKED.replace(b"Transfer-Encoding: chunked", b"Content-Length: 0"))
    assert [reply.status for reply in answering(clock, told, *empty, body_limit=0).replies()] == [200, 200]


def test_a_chunked_body_has_the_deadline_of_a_body(clock: Clock) -> None:
    client = answering(clock, told, CHUNKED)
    assert client.conversation.waiting is Deadline.BODY
    for packet in (b"3", b"\r\n", b"ab", b"c\r", b"\n" + b"1\r\nd\r\n" * 50, b"2\r\nef\r\n0\r\n", b"A: b\r\n"):
        client.send(packet)
        assert (client.conversation.waiting, client.said) == (Deadline.BODY, b"")
    client.take(client.conversation.expire())
    assert ([reply.status for reply in client.replies()], client.closing) == ([408], Closing.LINGER)


def test_what_is_held_of_a_chunked_body_is_bounded(clock: Clock) -> None:
    """By the limit of its data, and that of its framing, however long a client goes on within its deadline."""
    for endless in (b"1;a=b\r\nx\r\n", b"1;" + b"a" * 200 + b"\r\nx\r\n", b"0\r\n" + b"A: b\r\n" * 9000):
        client = answering(clock, told, CHUNKED, body_limit=5000)
        for _ in range(10_000):
            client.send(endless)
            assert len(client.conversation._buffer) < 5000 + FRAMING_LIMIT + len(endless)
            if client.said:
                break
        assert [reply.status for reply in client.replies()] in ([413], [400])
        assert client.conversation._buffer == b""


def test_expect_100_continue(clock: Clock) -> None:
    ready = b"HTTP/1.1 100 Continue\r\n\r\n"
    head = b"POST /api/ HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n"
    client = answering(clock, told, head)
    assert client.said == ready
    client.send(b"abc")
    assert client.said.startswith(ready + b"HTTP/1.0 200 OK\r\n")
    assert len(client.said) == len(ready) + client.records[-1].head_size + client.records[-1].body_size
    assert answering(clock, told, head + b"abc").said == client.said  # whatever the cut
    chunked = head.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked")
    assert answering(clock, told, chunked).said == ready
    assert answering(clock, told, chunked, b"3\r\nabc\r\n", b"0\r\n\r\n").said == client.said
    old = answering(clock, told, head.replace(b"1.1", b"1.0", 1))
    assert old.said == b""  # RFC 9110 §15.2: no 1xx to an HTTP/1.0 client
    files = answering(clock, told, head.replace(b"/api/", b"/else"))
    assert [reply.status for reply in files.replies()] == [405]
    assert answering(clock, told, head, body_limit=2).replies()[0].status == 413


def test_a_function_that_raises(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request) -> Response:
        raise ZeroDivisionError("as told")

    request = b"GET /api/ HTTP/1.1\r\nHost: h\r\n\r\n"
    client = answering(clock, fail, request, request)
    assert [reply.status for reply in client.replies()] == [500, 500]
    assert client.closing is Closing.KEEP
    assert caplog.text.count("ZeroDivisionError: as told") == 2
    assert b"ZeroDivisionError" not in client.said


def test_a_function_that_fails_is_answered_by_the_site_s_own_page(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), error_pages=((500, "/oops.html"),), headers=(("*", "X-All", "1"),))
    client = Client(router(clock, site, handlers=(("/api/", lambda request: None),)), clock)
    (reply,) = client.send(b"GET /api/ HTTP/1.1\r\nHost: h\r\n\r\n").replies()
    assert (reply.status, reply.body, dict(reply.headers)["X-All"]) == (500, b"my own page", "1")


@pytest.mark.parametrize(
    "response",
    [
        None,
        "text",
        Response(99),
        Response(700),
        Response(101),
        Response(200, [("X", "a\nb")]),
        Response(200, [("Content-Length", "5")]),
        Response(200, [("X", "\u20ac")]),
        Response("200"),  # type: ignore[arg-type]
        Response(200, [("X", 5)]),  # type: ignore[list-item]
        Response(200, 5),  # type: ignore[arg-type]
    ],
)
def test_a_response_that_cannot_be_sent(clock: Clock, caplog: pytest.LogCaptureFixture, response: Any) -> None:
    caplog.set_level(logging.ERROR)
    client = answering(clock, lambda request: response, b"GET /api/ HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [reply.status for reply in client.replies()] == [500]
    assert "handler for /api/ failed" in caplog.text  # the traceback says what is wrong with the response


def test_an_answer_that_takes_its_time(clock: Clock) -> None:
    promise: Future[Response] = Future()
    woken: list[bool] = []
    request = b"GET /api/ HTTP/1.1\r\nHost: h\r\n\r\n"
    client = Client(router(clock, SiteConfig("/nonexistent"), handlers=(("/api/", lambda request: promise),)), clock)
    client.conversation._peer = Waking(lambda: woken.append(True))
    client.patient = False
    client.send(request + request)
    assert (client.said, client.conversation.waiting) == (b"", Deadline.NONE)
    assert client.conversation.resume() == ()  # woken for nothing
    promise.set_result(Response(200, body=b"at last"))
    assert woken == [True]
    client.take(client.conversation.resume())
    assert [reply.body for reply in client.replies()] == [b"at last", b"at last"]
    assert client.conversation.waiting is Deadline.IDLE


def late(clock: Clock, promise: Future[Response]) -> Client:
    """A client that waits for what was promised, and has sent another request."""
    client = Client(router(clock, SiteConfig("/nonexistent"), handlers=(("/api/", lambda request: promise),)), clock)
    client.patient = False
    return client.send(b"GET /api/x HTTP/1.1\r\nHost: h\r\n\r\n" * 2)


def test_a_promise_that_is_not_kept_in_time(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    promise: Future[Response] = Future()
    client = late(clock, promise)
    client.take(client.conversation.expire())
    assert ([reply.status for reply in client.replies()], client.closing) == ([503], Closing.LINGER)
    assert client.records[0].line == "GET /api/x HTTP/1.1"
    counters = client.conversation._counters
    assert (counters.answers, counters.bad_requests) == (1, 0)
    assert caplog.messages == ["no response for /api/x in time: http.function_time has passed"]
    said = client.said
    promise.set_result(Response(200, body=b"too late"))
    client.take(client.conversation.resume())
    assert client.said == said


def test_a_promise_that_is_kept_when_its_time_is_up(clock: Clock) -> None:
    promise: Future[Response] = Future()
    client = late(clock, promise)
    promise.set_result(Response(200, body=b"in time"))
    client.take(client.conversation.expire())
    assert ([reply.body for reply in client.replies()], client.closing) == ([b"in time"] * 2, Closing.KEEP)


def test_a_promise_that_is_broken(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    broken: Future[Response] = Future()
    broken.set_exception(RuntimeError("as told"))
    cancelled: Future[Response] = Future()
    cancelled.cancel()
    left: Future[Response] = Future()
    left.set_exception(SystemExit())  # of a thread: no reason to end the server
    for promise in (broken, cancelled, left):
        client = answering(clock, lambda request, promise=promise: promise, b"GET /api/ HTTP/1.1\r\nHost: h\r\n\r\n")
        assert [reply.status for reply in client.replies()] == [500]
    assert "RuntimeError: as told" in caplog.text


def test_a_thread_pool(clock: Clock) -> None:
    with ThreadPoolExecutor() as pool:
        service = router(clock, SiteConfig("/nonexistent"), handlers=(("/", lambda request: pool.submit(told, request)),))
        client = Client(service, clock)
        client.take(client.conversation.receive(b"GET /x HTTP/1.0\r\n\r\n"))
    client.take(client.conversation.resume())
    assert [reply.body for reply in client.replies()] == [b"GET /x  b''"]
    assert client.closing is Closing.CLOSE


def test_a_pipelined_request_sees_what_the_one_before_it_did(clock: Clock, root: Path) -> None:
    path = root / "main.htm"

    def change(request: Request) -> Response:
        path.write_text("changed")
        return Response(204)

    client = Client(router(clock, SiteConfig(str(root)), handlers=(("/change", change),)), clock)
    clock.time = path.stat().st_mtime + 10
    read, write = b"GET /main.htm HTTP/1.1\r\nHost: h\r\n\r\n", b"POST /change HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    client.send(read, read, read + write + read)
    assert [reply.body for reply in client.replies()] == [b"main", b"main", b"main", b"", b"changed"]
