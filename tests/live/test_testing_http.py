"""`rawservers.testing.HTTPServer`: what it serves and expects, what it records, and what it says of that which does not fit."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from rawservers import Request, Response
from rawservers.testing import HTTPServer
from tests.harness.http_client import request as wire_request
from tests.harness.http_client import take_answer
from tests.harness.sockets import receive_all
from tests.harness.waiting import DEADLINE


@pytest.fixture
def lax() -> Iterator[HTTPServer]:
    """A server that is not checked at the end, since the test does."""
    with HTTPServer(strict=False) as server:
        yield server


def get(server: HTTPServer, path: str, method: str = "GET", **arguments: Any) -> requests.Response:
    return requests.request(method, server.url(path), timeout=DEADLINE, allow_redirects=False, **arguments)


# The short form


def test_what_is_served_and_as_what(http_server: HTTPServer, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>")
    (tmp_path / "data").write_bytes(b"\xff")
    http_server.serve("/text", "grüße")
    http_server.serve("/bytes", b"\0\xff")
    http_server.serve("/json", {"name": ["Ada", None, 1.5]})
    http_server.serve("/null", None)
    http_server.serve("/number", 7)
    http_server.serve("/page", tmp_path / "page.html")
    http_server.serve("/data", tmp_path / "data")
    http_server.serve("/error", {"no": 1}, status=503, headers={"Retry-After": "1", "Content-Type": "a/b"})
    http_server.serve("/function", lambda request: {"got": request.body.decode()})
    http_server.serve("/post", "posted", method="POST")

    def answer(path: str, method: str = "GET", **arguments: Any) -> tuple[int, str, bytes]:
        got = get(http_server, path, method, **arguments)
        return got.status_code, got.headers["Content-Type"], got.content

    assert answer("/text") == (200, "text/plain; charset=utf-8", "grüße".encode())
    assert answer("/bytes") == (200, "application/octet-stream", b"\0\xff")
    assert answer("/json") == (200, "application/json", b'{"name": ["Ada", null, 1.5]}')
    assert answer("/null") == (200, "application/json", b"null")
    assert answer("/number") == (200, "application/json", b"7")
    assert answer("/page") == (200, "text/html; charset=utf-8", b"<p>")
    assert answer("/data") == (200, "application/octet-stream", b"\xff")
    assert answer("/error") == (503, "a/b", b'{"no": 1}')
    assert answer("/function", "PUT", data="x") == (200, "application/json", b'{"got": "x"}')
    assert answer("/post", "POST") == (200, "text/plain; charset=utf-8", b"posted")
    assert answer("/text", "HEAD") == (200, "text/plain; charset=utf-8", b"")


def test_a_folder(lax: HTTPServer, tmp_path: Path) -> None:
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / "index.html").write_text("top")
    (root / "sub" / "a b.txt").write_text("leaf")
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    lax.serve("/static", root)
    statuses = {path: get(lax, path) for path in ("/static", "/static/", "/static/sub/a%20b.txt", "/static/link", "/static/no")}
    assert [(got.status_code, got.text) for got in statuses.values()][:3] == [(200, "top"), (200, "top"), (200, "leaf")]
    assert [got.status_code for got in statuses.values()][3:] == [404, 404]
    lax.check()  # what is not in the folder was expected all the same
    assert get(lax, "/statics").status_code == 404
    with pytest.raises(AssertionError, match="GET /statics was not expected"):
        lax.check()
    with socket.create_connection(lax.address, DEADLINE) as sock:
        sock.sendall(wire_request("/static/../secret", keep=True))
        assert take_answer(sock)[0] == 404


def test_a_file_is_served_in_ranges(http_server: HTTPServer, tmp_path: Path) -> None:
    """A client that resumes a download gets the rest of it: as a whole, from a folder, from a function, and in a sequence."""
    file = tmp_path / "f"
    file.write_bytes(b"0123456789")
    http_server.serve("/f", file, headers={"X-A": "b"})
    http_server.serve("/below", tmp_path)
    http_server.serve("/function", lambda request: file)
    http_server.expect_request("/cut").cut_after(4).respond_with_file(file).then.respond_with_file(str(file))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(http_server, "/cut")
    for path in "/f", "/below/f", "/function", "/cut":
        tag = get(http_server, path).headers["ETag"]
        rest = get(http_server, path, headers={"Range": "bytes=4-", "If-Range": tag})
        assert (rest.status_code, rest.content, rest.headers["Content-Range"]) == (206, b"456789", "bytes 4-9/10")
        whole = get(http_server, path, headers={"Range": "bytes=4-", "If-Range": '"other"'})
        assert (whole.status_code, whole.content, whole.headers["Accept-Ranges"]) == (200, b"0123456789", "bytes")
        beyond = get(http_server, path, headers={"Range": "bytes=10-"})
        assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, "bytes */10")
    assert get(http_server, "/f", headers={"Range": "bytes=4-"}).headers["X-A"] == "b"
    http_server.serve("/text", "0123456789", headers={"ETag": '"mine"'})
    assert get(http_server, "/text", headers={"Range": "bytes=4-"}).status_code == 200
    http_server.serve("/mine", file, headers={"ETag": '"mine"'})
    assert get(http_server, "/mine").headers["ETag"] == '"mine"'


def test_a_pattern_is_served(http_server: HTTPServer) -> None:
    http_server.serve(re.compile(r"/users/\d+$"), lambda request: {"id": request.path.rpartition("/")[2]})
    assert get(http_server, "/users/17").json() == {"id": "17"}


def test_a_function_reads_headers_and_json(http_server: HTTPServer) -> None:
    http_server.serve("/a", lambda request: [request.headers["X-Key"], request.headers.get("x-none", "-"), request.json()])
    assert get(http_server, "/a", "POST", json={"a": 1}, headers={"x-key": "k"}).json() == ["k", "-", {"a": 1}]


def test_a_query_is_compared_by_value(lax: HTTPServer) -> None:
    lax.expect_request("/a", query={"page": 2, "tag": ["x", "y"]}).respond_with_data()
    for query, status in (
        ("page=2&tag=x&tag=y", 200),
        ("tag=x&page=2&tag=y", 200),
        ("page=2&tag=y&tag=x", 500),
        ("page=2", 500),
    ):
        assert get(lax, f"/a?{query}").status_code == status, query


def test_raw_text(http_server: HTTPServer) -> None:
    http_server.expect_request("/a").raw("HTTP/1.0 200 \u00e9\r\n\r\nbody")
    assert get(http_server, "/a").text == "body"


def test_what_is_unserved_is_404_and_a_failure_until_more_is_expected(lax: HTTPServer) -> None:
    lax.serve("/users/1", {"name": "Ada"})
    message = "GET /users/2 was not expected; nearest: GET /users/1 (path differs)"
    got = get(lax, "/users/2")
    assert (got.status_code, got.text) == (404, message + "\n")
    lax.expect_request("/other").respond_with_data()
    assert get(lax, "/users/2").status_code == 500
    with pytest.raises(AssertionError, match=f"^{re.escape(message)}\n{re.escape(message)}$"):
        lax.check()
    lax.check()  # it has said so


# Expectations


def test_what_a_request_has_to_be(lax: HTTPServer) -> None:
    lax.expect_request("/q", query={"a": "1", "b": ""}).respond_with_data("mapping")
    lax.expect_request("/q", query="b=&a=1").respond_with_data("text")
    lax.expect_request("/q", query=b"").respond_with_data("none")
    lax.expect_request("/h", headers={"X-A": "1", "x-b": "2"}).respond_with_data("headers")
    lax.expect_request("/d", data="grüße").respond_with_data("text")
    lax.expect_request("/d", data=b"\xff").respond_with_data("bytes")
    lax.expect_request("/d", json={"a": [1, None]}).respond_with_data("json")
    lax.expect_request("/d", json=None).respond_with_data("null")
    lax.expect_request(re.compile("/users/[0-9]+$"), "GET").respond_with_data("regex")
    lax.expect_request("", "DELETE").respond_with_data("any path")
    lax.expect_request("/grüße").respond_with_data("decoded")

    def said(path: str, method: str = "GET", **arguments: Any) -> str:
        got = get(lax, path, method, **arguments)
        return got.text if got.ok else ""

    assert said("/q?a=1&b=") == "mapping"
    assert said("/q?a=1&b=&a=2") == "mapping"  # the first of a name counts
    assert said("/q?a=1") == ""
    assert said("/q") == "none"
    assert said("/h", headers={"x-a": "1", "X-B": "2", "X-C": "3"}) == "headers"
    assert said("/h", headers={"X-A": "1"}) == ""
    assert said("/d", "POST", data="grüße".encode()) == "text"
    assert said("/d", "POST", data=b"\xff") == "bytes"
    assert said("/d", "POST", data='{ "a": [1,null] }') == "json"
    assert said("/d", "POST", data="null") == "null"
    assert said("/d", "POST", data="{") == ""
    assert said("/users/17") == "regex"
    assert said("/users/17", "POST") == ""
    assert said("/anything", "DELETE") == "any path"
    assert said("/gr%C3%BC%C3%9Fe") == "decoded"


def test_sequences(http_server: HTTPServer) -> None:
    http_server.expect_request("/a").respond_with_data("1").then.respond_with_data("2").then.respond_with_data("3", status=201)
    assert [(got.text, got.status_code) for got in [get(http_server, "/a") for _ in range(4)]] == [
        ("1", 200), ("2", 200), ("3", 201), ("3", 201),
    ]  # fmt: skip


def test_one_shots_come_first_and_are_used_up(lax: HTTPServer) -> None:
    lax.expect_request("/a").respond_with_data("permanent")
    lax.expect_oneshot_request("/a").respond_with_data("once")
    lax.expect_oneshot_request("/a").respond_with_data("again").then.respond_with_data("and again")
    assert [get(lax, "/a").text for _ in range(4)] == ["once", "again", "and again", "permanent"]
    lax.check()
    lax.clear()
    lax.expect_oneshot_request("/b").respond_with_data("once")
    get(lax, "/b")
    got = get(lax, "/b")
    assert (got.status_code, got.text) == (500, "GET /b was not expected; nearest: a request for /b (used up)\n")


def test_ordered_requests(lax: HTTPServer) -> None:
    lax.expect_request("/c").respond_with_data("c")
    lax.expect_ordered_request("/a").respond_with_data("a")
    lax.expect_ordered_request("/b", "POST").respond_with_data("b")
    assert [get(lax, "/a").text, get(lax, "/b", "POST").text, get(lax, "/c").text] == ["a", "b", "c"]
    lax.check()


def test_a_request_out_of_order_is_the_end(lax: HTTPServer) -> None:
    lax.expect_request("/c").respond_with_data("c")
    lax.expect_ordered_request("/a").respond_with_data("a")
    got = get(lax, "/c")
    assert (got.status_code, got.text) == (500, "GET /c was not expected; next in order: a request for /a (path differs)\n")
    assert get(lax, "/a").status_code == 500  # as in pytest-httpserver
    with pytest.raises(AssertionError) as caught:
        lax.check()
    assert str(caught.value).splitlines()[1:] == [
        "GET /a came after a request that was out of order",
        "a request for /a was expected, but never came",
    ]


def test_what_has_not_come(lax: HTTPServer) -> None:
    lax.expect_oneshot_request("/once", "PUT", query="a=1").respond_with_data()
    lax.expect_oneshot_request("/twice").respond_with_data().then.respond_with_data()
    lax.expect_ordered_request(re.compile("/in.order")).respond_with_data()
    lax.expect_request("/any number").respond_with_data()
    get(lax, "/in-order")
    get(lax, "/twice")
    with pytest.raises(AssertionError) as caught:
        lax.check()
    assert str(caught.value).splitlines() == [
        "PUT /once with query 'a=1' was expected, but never came",
        "a request for /twice was expected, but came too rarely",
    ]
    lax.check()


@pytest.mark.parametrize(
    ("expected", "sent", "difference"),
    [
        ({"path": "/a", "method": "GET"}, {"path": "/b"}, "GET /b was not expected; nearest: GET /a (path differs)"),
        (
            {"path": "/a", "method": "GET"},
            {"path": "/a", "method": "PUT"},
            "PUT /a was not expected; nearest: GET /a (method differs)",
        ),
        (
            {"path": "/a", "query": "x=2"},
            {"path": "/a?x=1"},
            "GET /a?x=1 was not expected; nearest: a request for /a with query 'x=2' "
            "(query differs: expected 'x=2', got 'x=1')",
        ),
        (
            {"path": "/a", "headers": {"X-A": "1"}},
            {"path": "/a"},
            "GET /a was not expected; nearest: a request for /a (header X-A differs: expected '1', got None)",
        ),
        (
            {"path": "/a", "data": "x" * 99},
            {"path": "/b", "data": "y", "method": "POST"},
            "POST /b was not expected; nearest: a request for /a (path differs; "
            f"body differs: expected b'{'x' * 58}..., got b'y')",
        ),
        (
            {"path": re.compile("/[0-9]"), "json": [1]},
            {"path": "/1", "data": "[2]", "method": "POST"},
            "POST /1 was not expected; nearest: a request for re.compile('/[0-9]') (JSON differs: expected [1], got b'[2]')",
        ),
    ],
)
def test_the_nearest_difference(lax: HTTPServer, expected: Any, sent: Any, difference: str) -> None:
    lax.expect_request("/something/else", data="z", query="z", headers={"Z": "z"}).respond_with_data()
    lax.expect_request(**expected).respond_with_data()
    assert get(lax, **sent).text == difference + "\n"
    with pytest.raises(AssertionError, match=f"^{re.escape(difference)}$"):
        lax.check()


def test_nothing_was_expected(lax: HTTPServer) -> None:
    got = get(lax, "/a")
    assert (got.status_code, got.text) == (500, "GET /a was not expected; nothing was\n")


def test_an_expectation_without_a_response(lax: HTTPServer) -> None:
    lax.expect_request("/a").delay(0)
    got = get(lax, "/a")
    assert (got.status_code, got.text) == (500, "GET /a was expected, but not how to respond\n")


def test_a_malformed_request_is_a_failure(lax: HTTPServer) -> None:
    with socket.create_connection(lax.address, DEADLINE) as sock:
        sock.sendall(b"GET /a b HTTP/1.1\r\n\r\n")
        assert receive_all(sock).startswith(b"HTTP/1.0 400 ")
    with pytest.raises(AssertionError, match=r"a malformed request came: .* \('GET /a b HTTP/1.1'\)"):
        lax.check()


def returns_none(request: Request) -> None:
    """A forgotten return."""


def raises(request: Request) -> Response:
    assert request.body == b"expected"
    raise LookupError("of the handler")


@pytest.mark.parametrize(
    ("handler", "body", "message", "cause"),
    [
        (returns_none, "", "the handler for PUT /a raised TypeError: the handler has returned None", TypeError),
        (raises, "", "the handler for PUT /a raised AssertionError: ", AssertionError),
        (raises, "expected", "the handler for PUT /a raised LookupError: of the handler", LookupError),
        (lambda request: Response(99), "", "the handler for PUT /a raised ValueError: not the status of a final", ValueError),
        (lambda request: object(), "", "the handler for PUT /a raised TypeError: Object of type object is not JSON", TypeError),
    ],
)
def test_a_handler_that_fails(
    lax: HTTPServer, handler: Callable[[Request], Any], body: str, message: str, cause: type[Exception]
) -> None:
    lax.expect_request("/a").respond_with_handler(handler)
    got = get(lax, "/a", "PUT", data=body)
    assert got.status_code == 500
    assert got.text.startswith(message)
    with pytest.raises(AssertionError, match=re.escape(message)) as caught:
        lax.check()
    assert isinstance(caught.value.__cause__, cause)


def test_a_handler_may_be_answered_by_another_thread(http_server: HTTPServer) -> None:
    with ThreadPoolExecutor() as pool:

        def later(request: Request) -> Future[Response]:
            return pool.submit(lambda: Response(200, [], request.body))

        http_server.expect_request("/a").respond_with_handler(later)
        assert get(http_server, "/a", "POST", data="x" * 100_000).text == "x" * 100_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda server: server.expect_request("a"), "the path must begin with a slash: 'a'"),
        (lambda server: server.expect_request("/a?b"), "the path contains a query"),
        (lambda server: server.expect_request("/a", "get"), "unknown method 'get' (one name in upper case, or None for any)"),
        (lambda server: server.expect_request("/a", query="?b"), "the query is written without its \"?\": '?b'"),
        (lambda server: server.serve("/a", str, status=404), "status and headers are those of what the function returns"),
        (lambda server: server.serve("/a", Path("/"), headers={"a": "b"}), "status and headers are those of the files"),
        (lambda server: server.serve(re.compile("/a"), Path("/")), "a folder is served at a path, not a pattern"),
        (lambda server: server.expect_request("/a", data="", json=1), "data and json exclude each other"),
        (lambda server: server.expect_request("/a").close().reset(), "a second answer or fault in one reply"),
        (
            lambda server: server.expect_request("/a").respond_with_data().respond_with_json(1),
            "a second answer or fault in one reply",
        ),
        (lambda server: server.expect_request("/a").then, "`then` comes after an answer, such as"),
        (lambda server: server.expect_request("/a").respond_with_data(status=99), "not the status of a final response: 99"),
        (lambda server: server.serve("/a", status="404"), "not the status of a final response: '404'"),
        (lambda server: server.expect_request("/a").respond_with_data(headers={"a b": "c"}), "malformed header"),
        (lambda server: server.expect_request("/a").respond_with_data(headers={"a": "b\nc"}), "malformed header"),
        (lambda server: server.expect_request("/a").respond_with_data(headers={"Date": "b\nc"}), "malformed header"),
        (lambda server: server.expect_request("/a").delay(-1), "expected a number of 0 or more, not -1"),
        (lambda server: server.expect_request("/a").trickle(0), "expected a number of 1 or more, not 0"),
        (lambda server: server.expect_request("/a").cut_after(1, "burn"), "unknown ending 'burn'"),
    ],
)
def test_what_cannot_be_meant(wrong: Callable[[HTTPServer], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong(HTTPServer())


def test_what_cannot_be_served() -> None:
    with pytest.raises(TypeError):
        HTTPServer().serve("/a", object())
    with pytest.raises(FileNotFoundError):
        HTTPServer().serve("/a", Path("/nonexistent"))
    with pytest.raises(FileNotFoundError):
        HTTPServer().expect_request("/a").respond_with_file("/nonexistent")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda server: server.expect_request("/a", query_string="b"),
            "unknown argument 'query_string' (known: query, headers, data, json)",
        ),
        (lambda server: server.expect_request("/a").delay("1"), "expected a number, not '1'"),
        (lambda server: server.expect_request("/a").raw(1), "expected text or bytes, not 1"),
        (lambda server: server.serve("/a", headers={"Retry-After": 1}), "header is not text: 'Retry-After': 1"),
        (lambda server: server.serve("/a", headers={"Content-Length": 1}), "header is not text: 'Content-Length': 1"),
    ],
)
def test_what_is_of_the_wrong_type(wrong: Callable[[HTTPServer], object], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        wrong(HTTPServer())


@pytest.mark.parametrize("use", [HTTPServer.url, lambda server: server.address, lambda server: server.down()])
def test_a_server_that_was_not_started_says_so(use: Callable[[HTTPServer], object]) -> None:
    server = HTTPServer()
    with pytest.raises(LookupError, match=r"^the server was not started$"):
        use(server)
    server.stop()


def test_a_port_that_is_in_use_is_named(http_server: HTTPServer) -> None:
    host, port = http_server.address
    with pytest.raises(OSError, match=rf"Address already in use: '127\.0\.0\.1:{port}'$"):
        HTTPServer(host, port=port).start()


def test_a_url_has_a_path(http_server: HTTPServer) -> None:
    with pytest.raises(ValueError, match=r"^the path must begin with a slash: 'a'$"):
        http_server.url("a")


# Records


def test_what_is_recorded(http_server: HTTPServer) -> None:
    http_server.serve("/a b", "", method="POST")
    get(http_server, "/a%20b?x=1&y=%20", "POST", json={"n": 1}, headers={"X-A": "1"})
    (got,) = http_server.requests
    assert (got.method, got.path, got.query, got.body, got.json()) == ("POST", "/a b", "x=1&y=%20", b'{"n": 1}', {"n": 1})
    assert got.headers["X-A"] == got.headers["x-a"] == got.headers.get("X-a") == "1"
    assert "CONTENT-TYPE" in got.headers
    assert got.headers.get("X-B") is None
    assert got.raw.startswith(b"POST /a%20b?x=1&y=%20 HTTP/1.1\r\n")
    assert got.raw.endswith(b'\r\n\r\n{"n": 1}')
    assert got.address[0] == "127.0.0.1"
    assert str(got) == "POST /a b?x=1&y=%20"
    http_server.clear()
    assert http_server.requests == []


def test_a_chunked_body_is_recorded_decoded(http_server: HTTPServer) -> None:
    http_server.expect_request("/a", "POST", data="one two").respond_with_data("got it")
    assert get(http_server, "/a", "POST", data=iter([b"one ", b"two"])).text == "got it"
    (got,) = http_server.requests
    assert (got.body, got.headers["Transfer-Encoding"], got.raw[-11:]) == (b"one two", "chunked", b"\r\n\r\none two")


def test_requests_are_recorded_before_they_are_answered_however_many_ask(http_server: HTTPServer) -> None:
    http_server.expect_request(re.compile("/[0-9]+")).respond_with_handler(lambda request: request.path)

    def ask(number: int) -> None:
        with requests.Session() as session:
            for part in range(10):
                path = f"/{number}{part}"
                assert session.get(http_server.url(path), timeout=DEADLINE).text == path
                assert path in [request.path for request in http_server.requests]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(10, 18)))
    assert len(http_server.requests) == 80
    assert len({request.address for request in http_server.requests}) == 8  # connections are kept


def test_who_waits_holds_up_nobody_else(http_server: HTTPServer) -> None:
    http_server.expect_request("/slow").delay(3600).respond_with_data("late")
    http_server.expect_request("/trickle").trickle(1, every=3600).respond_with_data("late")
    http_server.serve("/quick", "quick")
    address = http_server.address
    with socket.create_connection(address, DEADLINE) as slow, socket.create_connection(address, DEADLINE) as trickle:
        trickle.sendall(wire_request("/trickle"))
        assert trickle.recv(100) == b"H"
        slow.sendall(wire_request("/slow"))
        assert get(http_server, "/quick").text == "quick"
        for sock in slow, trickle:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)


# Servers


def test_several_servers_and_ipv6(http_server_factory: Callable[..., HTTPServer]) -> None:
    servers = [http_server_factory(), http_server_factory(), http_server_factory(host="::1"), http_server_factory("localhost")]
    for number, server in enumerate(servers):
        server.serve("/", number)
    assert [get(server, "/").json() for server in servers] == [0, 1, 2, 3]
    assert servers[2].url("/a") == f"http://[::1]:{servers[2].address[1]}/a"
    assert servers[2].requests[0].address[0] == "::1"
    with servers[2].down(), pytest.raises(requests.ConnectionError):
        get(servers[2], "/")
    assert get(servers[2], "/").json() == 2


def test_a_server_that_is_down_keeps_its_port_and_drops_its_connections(http_server: HTTPServer) -> None:
    http_server.serve("/", "up")
    before = http_server.address
    with httpx.Client(timeout=DEADLINE) as client:
        assert client.get(http_server.url()).text == "up"
        with http_server.down():
            with pytest.raises(httpx.ConnectError):
                client.get(http_server.url())
            with pytest.raises(OSError, match="in use"), socket.socket() as other:
                other.bind(before)
        assert client.get(http_server.url()).text == "up"
    assert http_server.address == before


@pytest.mark.parametrize("fault", [HTTPServer.down, HTTPServer.full_backlog, HTTPServer.never_read])
def test_a_fault_that_is_never_left_ends_with_the_server(fault: Callable[[HTTPServer], object]) -> None:
    with HTTPServer() as server:
        fault(server)
        threads = threading.active_count()
    assert threading.active_count() < threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, DEADLINE)


def test_a_server_that_is_down_cannot_fall(http_server: HTTPServer) -> None:
    http_server.serve("/", "up")
    with http_server.down():
        for fault in http_server.down, http_server.full_backlog:
            with pytest.raises(RuntimeError, match="does not listen already"):
                fault()
    assert get(http_server, "/").text == "up"


def test_a_server_may_be_taken_down_by_a_handler(http_server: HTTPServer) -> None:
    def fall(request: Request) -> str:
        http_server.down()
        return "never sent, since all connections are closed"

    http_server.serve("/", fall)
    with pytest.raises(requests.ConnectionError):
        get(http_server, "/")
    with pytest.raises(requests.ConnectionError, match="refused"):
        get(http_server, "/")


@pytest.mark.parametrize("fault", [HTTPServer.down, HTTPServer.full_backlog, HTTPServer.never_read])
def test_a_fault_of_the_server_ends_open_connections(http_server: HTTPServer, fault: Callable[[HTTPServer], Any]) -> None:
    http_server.serve("/", "up")
    with socket.create_connection(http_server.address, DEADLINE) as kept:
        kept.sendall(wire_request("/", keep=True))
        assert take_answer(kept)[1:] == (True, b"up")
        with fault(http_server):
            assert kept.recv(1) == b""
    assert get(http_server, "/").text == "up"


def test_a_large_body_to_a_server_that_never_reads_does_not_leave(http_server: HTTPServer) -> None:
    with http_server.never_read(), pytest.raises(httpx.WriteTimeout):
        httpx.post(http_server.url("/a"), content=bytes(64 << 20), timeout=httpx.Timeout(DEADLINE, write=0.3))
    assert http_server.requests == []


def test_the_contract(http_server: HTTPServer) -> None:
    http_server.serve("/users/1", {"name": "Ada"})
    http_server.expect_request("/a", method="GET").reset().then.delay(0.1).respond_with_json({"ok": 1})

    def fetch(url: str) -> Any:
        for _ in range(2):
            try:
                return json.loads(requests.get(url, timeout=DEADLINE).content)
            except requests.ConnectionError:
                pass

    assert fetch(http_server.url("/users/1")) == {"name": "Ada"}
    assert fetch(http_server.url("/a")) == {"ok": 1}
    assert [request.path for request in http_server.requests] == ["/users/1", "/a", "/a"]
