"""What a site and a function can be told to do: hosts, headers, pages of one's own, redirects, listings, answers in code."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest

from rawservers.core.peer import Clock
from rawservers.core.protocol import Closing, Deadline
from rawservers.http.files import DocumentRoot, FileCache
from rawservers.http.listing import builder, entries, html
from rawservers.http.listing.entries import ListingEntry
from rawservers.http.request import Request
from rawservers.http.response import Response
from rawservers.http.router import Router
from rawservers.settings import Handler, SiteConfig
from tests.harness.server import DEADLINE
from tests.unit.http.test_conversation import Client, Reply, clock, router

__all__ = ["clock"]  # a fixture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "www"
    for name, content in {
        "index.html": "home",
        "main.htm": "main",
        "sub/data.json": "{}",
        "sub/other/main.htm": "sub main",
        "oops.html": "my own page",
        "assets/x.css": "css",
        "a b&c.txt": "text",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def get(clock: Clock, *sites: SiteConfig, path: str = "/", method: str = "GET", **fields: str) -> Reply:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in ({"Host": "h"} | fields).items())
    request = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()
    (reply,) = Client(router(clock, *sites), clock).send(request).replies()
    return reply


def headers(reply: Reply) -> dict[str, str]:
    return dict(reply.headers)


def test_sites_by_host(clock: Clock, tmp_path: Path) -> None:
    for name in ("one", "two", "default"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    sites = [
        SiteConfig(str(tmp_path / "default")),
        SiteConfig(str(tmp_path / "one"), hosts=("one.example", "www.One.example")),
        SiteConfig(str(tmp_path / "two"), hosts=("two.example",)),
    ]

    def body(host: str, path: str = "/f") -> bytes:
        return get(clock, *sites, path=path, Host=host).body

    assert body("one.example") == body("ONE.example:8080") == body("one.example.") == body("www.one.example") == b"one"
    assert body("two.example") == b"two"
    assert body("three.example") == body("127.0.0.1") == b"default"
    assert body("one.example", path="http://two.example/f") == b"two"  # RFC 9112 §3.2.2


def test_an_answer_is_remembered_for_its_own_host_alone(clock: Clock, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    client = Client(router(clock, *(SiteConfig(str(tmp_path / name), hosts=(name,)) for name in ("one", "two"))), clock)
    for _ in range(3):
        for name in ("one", "two"):
            client.send(f"GET /f HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    assert [reply.body for reply in client.replies()] == [b"one", b"two"] * 3


def test_index_names(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), index=("default.htm", "main.htm"))
    assert get(clock, site).body == b"main"
    assert get(clock, site, path="/sub/other/").body == b"sub main"
    assert get(clock, site, path="/sub/").status == 403
    assert get(clock, SiteConfig(str(root), index=())).status == 403


def test_an_index_that_appears_or_vanishes_is_noticed(clock: Clock, root: Path) -> None:
    client = Client(router(clock, SiteConfig(str(root), index=("first.htm", "main.htm"))), clock)
    request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    for expected in (b"main", b"first", b"main"):
        if expected == b"first":
            (root / "first.htm").write_text("first")
        else:
            (root / "first.htm").unlink(missing_ok=True)
        for _ in range(4):
            client.send(request)
        assert {reply.body for reply in client.replies()[-4:]} == {expected}


def test_a_neighbour_that_appears_or_vanishes_is_noticed(clock: Clock, root: Path) -> None:
    client = Client(router(clock, SiteConfig(str(root))), clock)
    request = b"GET /assets/x.css HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n"
    for expected in (b"css", b"packed", b"css"):
        if expected == b"packed":
            (root / "assets/x.css.gz").write_text("packed")
        else:
            (root / "assets/x.css.gz").unlink(missing_ok=True)
        for _ in range(4):
            client.send(request)
        assert {reply.body for reply in client.replies()[-4:]} == {expected}


def test_no_neighbours_when_not_wanted(clock: Clock, root: Path) -> None:
    (root / "assets/x.css.gz").write_text("packed")
    reply = get(clock, SiteConfig(str(root), precompressed=False), path="/assets/x.css", Accept_Encoding="gzip")
    assert reply.body == b"css"
    assert not headers(reply).keys() & {"Vary", "Content-Encoding"}


def test_max_age_and_types(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), max_age=3600, types=((".json", "application/geo+json"), (".htm", "text/x; charset=latin-1")))
    reply = get(clock, site, path="/sub/data.json")
    assert headers(reply)["Cache-Control"] == "max-age=3600"
    assert headers(reply)["Content-Type"] == "application/geo+json"
    assert headers(get(clock, site, path="/main.htm"))["Content-Type"] == "text/x; charset=latin-1"
    assert headers(get(clock, site, path="/sub/data.json", If_None_Match="*"))["Cache-Control"] == "max-age=3600"
    assert "Cache-Control" not in headers(get(clock, site, path="/nope"))


def test_headers_by_path(clock: Clock, root: Path) -> None:
    rules = (("*", "X-All", "1"), ("/assets/*", "Cache-Control", "immutable"), ("/*.css", "Content-Type", "text/weird"))
    site = SiteConfig(str(root), max_age=5, headers=rules)
    css = get(clock, site, path="/assets/x.css")
    assert {"X-All": "1", "Cache-Control": "immutable", "Content-Type": "text/weird"}.items() <= headers(css).items()
    assert len(headers(css)) == len(css.headers)
    home = headers(get(clock, site))
    assert {"X-All": "1", "Cache-Control": "max-age=5"}.items() <= home.items()
    for other in ("/nope", "/sub", "/sub/"):
        assert headers(get(clock, site, path=other))["X-All"] == "1"
    assert headers(get(clock, site, path="/f", method="OPTIONS"))["X-All"] == "1"
    assert headers(get(clock, site, path="/f%zz", method="PUT"))["X-All"] == "1"


@pytest.mark.parametrize("rule", [("*", "X", "a\r\nY: b"), ("*", "X Y", "a"), ("*", "Connection", "close"), ("*", "", "a")])
def test_headers_that_cannot_be_sent(clock: Clock, root: Path, rule: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match=r"malformed header|set by the server"):
        router(clock, SiteConfig(str(root), headers=(rule,)))


def test_redirects(clock: Clock, root: Path) -> None:
    table = (("/old", "/new"), ("/docs/*", "https://docs.example/v2/*"), ("/q", "/other?x=1"), ("/main.htm", "/"))
    site = SiteConfig(str(root), redirects=table)

    def location(path: str) -> str:
        reply = get(clock, site, path=path)
        assert reply.status == 301
        return headers(reply)["Location"]

    assert location("/old") == "/new"
    assert location("/old?a=b") == "/new?a=b"
    assert location("/docs/a/b%20c%0d%0a?q") == "https://docs.example/v2/a/b%20c%0D%0A?q"
    assert location("/docs/") == "https://docs.example/v2/"
    assert location("/q?y") == "/other?x=1"
    assert location("/main.htm") == "/"
    assert get(clock, site, path="/older").status == 404


def test_error_pages(clock: Clock, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = SiteConfig(str(root), error_pages=((404, "/oops.html"), (403, "/missing.html"), (405, "/oops.html")))
    reply = get(clock, site, path="/nope")
    assert (reply.status, reply.body) == (404, b"my own page")
    assert headers(reply)["Content-Type"] == "text/html; charset=utf-8"
    assert get(clock, site, path="/nope", method="HEAD").body == b""
    refused = get(clock, site, path="/nope", method="DELETE")
    assert (refused.status, refused.body, headers(refused)["Allow"]) == (405, b"my own page", "GET, HEAD, OPTIONS")
    assert b"403 Forbidden" in get(clock, site, path="/sub/").body
    assert "cannot read the error page /missing.html" in caplog.text


REFUSED = {
    b"GET /%2f HTTP/1.1\r\nHost: one\r\n\r\n": 404,
    b"GET /% HTTP/1.1\r\nHost: one:80\r\n\r\n": 400,
    b"GET http://one/% HTTP/1.1\r\nHost: two\r\n\r\n": 400,
    b"POST /f HTTP/1.1\r\nHost: one\r\nContent-Length: 3\r\n\r\n": 405,
    b"GET /f HTTP/1.1\r\n\r\n": 400,
    b"BREW /f HTTP/1.1\r\nHost: one\r\n\r\n": 501,
    b"GET /f HTTP/2.0\r\n\r\n": 505,
    b"HEAD /f HTTP/2.0\r\n\r\n": 505,
    b"GET /" + b"x" * 9000: 414,
    b"\0": 400,
}


@pytest.mark.parametrize(("data", "status"), REFUSED.items(), ids=[str(data[:30]) for data in REFUSED])
def test_error_pages_for_what_is_refused(clock: Clock, root: Path, data: bytes, status: int) -> None:
    """From the site that is asked, or from the default one while nobody can tell which that is."""
    pages = tuple((number, "/oops.html") for number in REFUSED.values())
    mains = tuple((number, "/main.htm") for number in REFUSED.values())
    sites = SiteConfig(str(root), error_pages=mains), SiteConfig(str(root), hosts=("one",), error_pages=pages)
    understood = b"one" in data and status != 501
    client = Client(router(clock, *sites), clock).send(data)
    (reply,) = client.replies()
    assert (reply.status, client.closing) == (status, Closing.LINGER)
    assert reply.body == (b"" if data.startswith(b"HEAD") else b"my own page" if understood else b"main")
    assert headers(reply)["Content-Type"] == "text/html; charset=utf-8"
    assert client.records[0].head_size + client.records[0].body_size == len(client.said)
    assert client.conversation._counters.bad_requests == (status != 405)
    assert client.conversation._counters.answers == 1


def test_an_error_page_for_what_takes_too_long(clock: Clock, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = SiteConfig(str(root), error_pages=((408, "/oops.html"), (400, "/missing.html")))
    client = Client(router(clock, site), clock).send(b"GET /f HT")
    client.take(client.conversation.expire())
    assert (client.replies()[0].status, client.replies()[0].body) == (408, b"my own page")
    client = Client(router(clock, site), clock).send(b" ")
    assert b"This is not an HTTP request." in client.said
    assert "cannot read the error page /missing.html" in caplog.text


def test_answers_without_a_server_header(clock: Clock, root: Path) -> None:
    for server_header in (True, False):
        client = Client(router(clock, SiteConfig(str(root)), server_header=server_header), clock)
        for line in ("Cookie: 1", "Cookie: 2", "Cookie: 3", "If-None-Match: *", "Range: bytes=0-1", "Connection: close"):
            client.send(f"GET /main.htm HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n".encode())
        assert [reply.status for reply in client.replies()] == [200, 200, 200, 304, 206, 200]
        assert [("Server" in headers(reply)) for reply in client.replies()] == [server_header] * 6
        assert sum(record.head_size + record.body_size for record in client.records) == len(client.said)
    refused = Client(router(clock, SiteConfig(str(root)), server_header=False), clock).send(b"\0").replies()[0]
    assert "Server" not in headers(refused)


def test_a_range_that_cannot_be_had_keeps_its_header_on_a_page_of_ones_own(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), error_pages=((416, "/oops.html"),))
    reply = get(clock, site, path="/main.htm", Range="bytes=100-")
    assert (reply.status, reply.body, headers(reply)["Content-Range"]) == (416, b"my own page", "bytes */4")


def test_the_fallback(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), fallback="/index.html")
    for path in ("/users/42", "/users/", "/nope?x"):
        reply = get(clock, site, path=path)
        assert (reply.status, reply.body) == (200, b"home")
    for path in ("/nope.js", "/.git", "/.git/config", "/users/.hidden"):
        assert get(clock, site, path=path).status == 404
    assert get(clock, site, path="/assets/x.css").body == b"css"


def test_a_file_that_appears_replaces_the_fallback(clock: Clock, root: Path) -> None:
    client = Client(router(clock, SiteConfig(str(root), fallback="/index.html")), clock)
    request = b"GET /later HTTP/1.1\r\nHost: h\r\n\r\n"
    client.send(*[request] * 4)
    (root / "later").write_text("here now")
    client.send(request)
    assert [reply.body for reply in client.replies()] == [b"home"] * 4 + [b"here now"]


def test_a_listing(clock: Clock, root: Path) -> None:
    (root / ".hidden").write_text("x")
    (root / "out").symlink_to("/etc/passwd")
    (root / "index.html").unlink()
    site = SiteConfig(str(root), listing=True)
    page = get(clock, site)
    assert (page.status, headers(page)["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers(page)["Vary"] == "Accept"
    assert b'href="./a%20b%26c.txt"' in page.body
    assert b".hidden" not in page.body
    assert b"passwd" not in page.body
    told = json.loads(get(clock, site, Accept="application/json").body)
    assert [entry["name"] for entry in told["entries"]] == ["assets", "sub", "a b&c.txt", "main.htm", "oops.html"]
    assert told["entries"][3] | {"modified": ""} == {
        "name": "main.htm",
        "href": "./main.htm",
        "type": "file",
        "size": 4,
        "modified": "",
    }
    assert get(clock, site, path="/nope/").status == 404
    assert get(clock, site, path="/sub").status == 301
    assert get(clock, site, method="HEAD").body == b""


def test_a_listing_is_made_anew_each_time(clock: Clock, root: Path) -> None:
    (root / "index.html").unlink()
    client = Client(router(clock, SiteConfig(str(root), listing=True)), clock)
    request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    client.send(*[request] * 3)
    (root / "newcomer").write_text("x")
    client.send(request)
    assert [b"newcomer" in reply.body for reply in client.replies()] == [False, False, False, True]


class Reader:
    """Stands in for what reads a folder. Holds each of its readings, once it has read, until it is let go."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.failure: BaseException | None = None
        self._has_read = Semaphore(0)
        self._go = Semaphore(0)

    def entries(
        self, files: DocumentRoot, path: bytes, entries: Callable[[DocumentRoot, bytes], Iterable[ListingEntry]]
    ) -> Iterator[ListingEntry]:
        found = list(entries(files, path))
        self.read.append(path)
        self._has_read.release()
        assert self._go.acquire(timeout=DEADLINE)
        if self.failure:
            raise self.failure
        yield from found

    def await_read(self) -> None:
        assert self._has_read.acquire(timeout=DEADLINE)

    def let_go(self, count: int = 1) -> None:
        self._go.release(count)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, root: Path) -> Iterator[Reader]:
    """And there is no index in the root."""
    (root / "index.html").unlink()
    reader = Reader()
    entries = DocumentRoot.list_directory
    monkeypatch.setattr(DocumentRoot, "list_directory", lambda files, path: reader.entries(files, path, entries))
    yield reader
    reader.let_go(1000)


LIST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
LIST_AS_JSON = b"GET / HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n"


def asking(service: Router, clock: Clock, request: bytes = LIST) -> Client:
    """Somebody who has asked, and does not wait."""
    client = Client(service, clock)
    client.patient = False
    return client.send(request)


def heard(client: Client) -> Reply:
    """What somebody who has asked is told at last."""
    client.patient = True
    client.take(client.resume())
    (reply,) = client.replies()
    return reply


def test_a_listing_is_built_once_for_all_who_ask_in_time(clock: Clock, root: Path, reader: Reader) -> None:
    service = router(clock, SiteConfig(str(root), listing=True))
    first = asking(service, clock)
    assert (first.said, first.conversation.waiting) == (b"", Deadline.NONE)
    reader.await_read()
    (root / "newcomer").write_text("x")
    later = [asking(service, clock) for _ in range(20)]
    programs = [asking(service, clock, LIST_AS_JSON) for _ in range(20)]
    elsewhere = asking(service, clock, LIST.replace(b"/ ", b"/sub/ ", 1))
    reader.let_go(100)
    assert b"newcomer" not in heard(first).body  # it had been read
    assert b"newcomer" in heard(later[0]).body
    assert len({later_one.said for later_one in later if heard(later_one)}) == 1
    assert "newcomer" in {entry["name"] for entry in json.loads(heard(programs[0]).body)["entries"]}
    assert len({program.said for program in programs if heard(program)}) == 1
    assert b"data.json" in heard(elsewhere).body
    assert reader.read == [b"/", b"/", b"/", b"/sub/"]
    assert {client.conversation.waiting for client in (first, *later, *programs)} == {Deadline.IDLE}


def test_two_sites_do_not_share_a_listing(clock: Clock, tmp_path: Path, root: Path, reader: Reader) -> None:
    (tmp_path / "two").mkdir()
    sites = SiteConfig(str(root), listing=True), SiteConfig(str(tmp_path / "two"), hosts=("two",), listing=True)
    service = router(clock, *sites)
    busy = asking(service, clock)
    reader.await_read()
    others = [asking(service, clock, LIST.replace(b": h", b": two")), asking(service, clock)]
    reader.let_go(3)
    assert [b"This folder is empty" in heard(client).body for client in (busy, *others)] == [False, True, False]


def test_a_head_reads_no_folder(clock: Clock, root: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    site = SiteConfig(str(root), listing=True, headers=(("*", "X-All", "1"),))
    client = Client(router(clock, site), clock).send(*[LIST.replace(b"GET", b"HEAD") * 100, LIST.replace(b"GET", b"HEAD")])
    assert reader.read == []
    assert {(reply.status, reply.body) for reply in client.replies()} == {(200, b"")}
    assert client.closing is Closing.KEEP
    told = headers(client.replies()[0])
    reader.let_go()
    assert set(headers(heard(asking(router(clock, site), clock)))) - set(told) == {"Content-Length"}
    assert "Content-Security-Policy" in told
    assert headers(get(clock, site, method="HEAD", Accept="application/json"))["Content-Type"] == "application/json"
    for path, status in (("/nope/", 404), ("/main.htm/", 404), ("/.git/", 404)):
        assert get(clock, site, path=path, method="HEAD").status == get(clock, site, path=path).status == status
    assert get(clock, SiteConfig(str(root)), method="HEAD").status == 403

    def fail(path: bytes, flags: int, *more: Any) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "as told")
        return opened(path, flags, *more)

    opened = os.open
    monkeypatch.setattr("rawservers.http.files.os.open", fail)
    assert get(clock, site, method="HEAD").status == get(clock, site).status == 403


@pytest.mark.parametrize("bound", ["MAX_BUILDS", "MAX_REQUESTS"])
def test_more_listings_than_can_wait(
    clock: Clock, root: Path, reader: Reader, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, bound, 2)
    site = SiteConfig(str(root), listing=True)
    service = router(clock, site, SiteConfig(str(root), hosts=("own",), listing=True, error_pages=((503, "/oops.html"),)))
    waiting = [asking(service, clock)]
    reader.await_read()
    if bound == "MAX_BUILDS":
        waiting += [asking(service, clock, request) for request in (LIST, LIST_AS_JSON, LIST)]  # two, one of them shared
    else:
        waiting.append(asking(service, clock))
    refused = Client(service, clock).send(LIST.replace(b"/ ", b"/sub/ ", 1), LIST.replace(b": h", b": own"))
    assert [(reply.status, headers(reply)["Retry-After"]) for reply in refused.replies()] == [(503, "1")] * 2
    assert [reply.body == b"my own page" for reply in refused.replies()] == [False, True]
    assert refused.closing is Closing.KEEP
    reader.let_go(100)
    assert {heard(client).status for client in waiting} == {200}
    assert refused.send(LIST).replies()[-1].status == 200


@pytest.mark.parametrize(("number", "status"), [(13, 403), (24, 503), (2, 404), (5, 500), (20, 404)])
def test_what_goes_wrong_with_a_listing(
    clock: Clock, root: Path, reader: Reader, number: int, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    pages = tuple((page, "/oops.html") for page in (403, 404, 500, 503))
    service = router(clock, SiteConfig(str(root), listing=True, error_pages=pages))
    reader.failure = OSError(number, "as told")
    reader.let_go(2)
    client = Client(service, clock).send(LIST)
    reader.failure = None
    client.send(LIST)
    assert [reply.status for reply in client.replies()] == [status, 200]
    assert client.replies()[0].body == b"my own page"
    assert ("cannot read '/': as told" in caplog.text) is (status == 500)


def test_a_folder_that_vanishes_before_it_is_read_is_not_there(clock: Clock, root: Path, reader: Reader) -> None:
    service = router(clock, SiteConfig(str(root), listing=True, fallback="/main.htm"))
    (root / "empty").mkdir()
    busy = asking(service, clock)
    reader.await_read()
    client = asking(service, clock, LIST.replace(b"/ ", b"/empty/ ", 1))
    (root / "empty").rmdir()
    reader.let_go(2)
    assert (heard(client).status, heard(client).body) == (200, b"main")
    assert heard(busy).status == 200


def test_a_listing_that_fails_in_an_unexpected_way(
    clock: Clock, root: Path, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    service = router(clock, SiteConfig(str(root), listing=True))
    reader.failure = ZeroDivisionError("as told")
    busy = asking(service, clock)
    reader.await_read()
    clients = [asking(service, clock) for _ in range(3)]
    reader.let_go(2)
    assert [heard(client).status for client in (busy, *clients)] == [500] * 4
    assert "listing of / failed" in caplog.text
    assert "ZeroDivisionError: as told" in caplog.text
    assert b"ZeroDivisionError" not in clients[0].said
    reader.failure = None
    reader.let_go()
    assert clients[0].send(LIST).replies()[-1].status == 200


def test_who_has_gone_does_not_disturb_the_others(clock: Clock, root: Path, reader: Reader) -> None:
    service = router(clock, SiteConfig(str(root), listing=True))
    busy, gone, there = (asking(service, clock) for _ in range(3))
    gone.conversation._peer.detach()
    gone.end()
    reader.let_go(3)
    assert heard(busy).status == heard(there).status == 200


def test_a_long_listing_leaves_in_pieces(clock: Clock, tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number}").touch()
    (tmp_path / "folder").mkdir()
    client = asking(router(clock, SiteConfig(str(tmp_path), listing=True)), clock)
    client.patient = True
    chunks = client.resume()
    client.take(chunks)
    (reply,) = client.replies()
    assert len(chunks) > 4  # with the head, and the end
    assert [size for chunk in chunks[1:-2] if (size := len(chunk)) not in range(65536, 70000)] == []  # type: ignore[arg-type]
    assert headers(reply)["Content-Length"] == str(len(reply.body))
    status = {path.name: path.stat() for path in tmp_path.iterdir()}
    entries = [ListingEntry(name.encode(), name == "folder", its.st_size, its.st_mtime) for name, its in status.items()]
    assert reply.body == b"".join(html.render(b"/", entries))
    assert client.records[0].body_size == len(reply.body)


def test_no_slice_of_a_listing_is_long(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two rests there are at most so many entries looked up, and so many written."""
    counts = Counter[str]()
    most = Counter[str]()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:
            counts[name] += 1
            most[name] = max(most[name], counts[name])
            return function(*arguments)

        return count

    for number in range(3 * builder.SLICE):
        (tmp_path / f"{number}").touch()
    monkeypatch.setattr(builder, "pause", counts.clear)
    monkeypatch.setattr(DocumentRoot, "_listing_entry", counted("looked up", DocumentRoot._listing_entry))
    monkeypatch.setattr(entries, "natural_key", counted("keyed", entries.natural_key))
    monkeypatch.setattr(html, "table_row", counted("written", html.table_row))
    assert get(clock, SiteConfig(str(tmp_path), listing=True)).status == 200
    assert set(most) == {"looked up", "keyed", "written"}
    assert max(most.values()) <= builder.SLICE + 1


def test_an_entry_that_is_no_link_is_not_opened(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    for name in ("folder", ".git", ".well-known"):
        (root / name).mkdir(parents=True)
    for number in range(100):
        (root / f"{number}").touch()
    os.mkfifo(root / "fifo")
    for name, target in {
        "out": tmp_path,
        "loop": "loop",
        "in": "folder",
        "to-git": ".git",
        "gone": "nowhere",
        "f": "1",
    }.items():
        (root / name).symlink_to(target)
    files = DocumentRoot(str(root), clock, lambda path: (), FileCache(10, 1 << 20, 10))
    opened: list[bytes] = []
    really = os.open
    monkeypatch.setattr("rawservers.http.files.os.open", lambda path, *flags: opened.append(path) or really(path, *flags))
    descriptors = len(os.listdir("/proc/self/fd"))
    found = {entry.name: entry.is_directory for entry in files.list_directory(b"/")}
    assert found == {b"%d" % number: False for number in range(100)} | {
        b"folder": True,
        b".well-known": True,
        b"in": True,
        b"f": False,
    }
    assert len(opened) == 2 + 6  # the folder, and the links
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(("number", "status"), [(13, 403), (24, 503), (23, 503), (5, 500), (40, 404), (36, 404)])
def test_what_goes_wrong_with_a_file(
    clock: Clock, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def fail(*arguments: Any) -> int:
        raise OSError(number, "as told")

    site = router(clock, SiteConfig(str(root)))
    monkeypatch.setattr("rawservers.http.files.os.open", fail)
    client = Client(site, clock).send(b"GET /main.htm HTTP/1.1\r\nHost: h\r\n\r\n")
    monkeypatch.undo()
    client.send(b"GET /main.htm HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [reply.status for reply in client.replies()] == [status, 200]


def test_a_file_that_changed_a_moment_ago_is_not_remembered(clock: Clock, root: Path) -> None:
    path = root / "main.htm"
    changed = path.stat().st_mtime
    for age, remembered in ((0.001, 0), (0.019, 0), (0.025, 1), (100, 1)):
        clock.time = changed + age
        service = router(clock, SiteConfig(str(root)))
        Client(service, clock).send(*[b"GET /main.htm HTTP/1.1\r\nHost: h\r\n\r\n"] * 3)
        assert len(service.lookup.__self__) == remembered  # type: ignore[attr-defined]


# Functions


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


def test_the_longest_prefix_wins(clock: Clock) -> None:
    def other(request: Request) -> Response:
        return Response(204)

    functions = (("/api/", told), ("/api/more/", other))
    client = Client(router(clock, SiteConfig("/nonexistent"), handlers=functions), clock)
    client.send(b"GET /api/more/x HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /api/mor HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [reply.status for reply in client.replies()] == [204, 200]


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


def test_expect_100_continue(clock: Clock) -> None:
    ready = b"HTTP/1.1 100 Continue\r\n\r\n"
    head = b"POST /api/ HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n"
    client = answering(clock, told, head)
    assert client.said == ready
    client.send(b"abc")
    assert client.said.startswith(ready + b"HTTP/1.0 200 OK\r\n")
    assert len(client.said) == len(ready) + client.records[-1].head_size + client.records[-1].body_size
    assert answering(clock, told, head + b"abc").said == client.said  # whatever the cut
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
        Response(200, body="text"),  # type: ignore[arg-type]
        Response("200"),  # type: ignore[arg-type]
        Response(200, [("X", 5)]),  # type: ignore[list-item]
        Response(200, 5),  # type: ignore[arg-type]
    ],
)
def test_a_response_that_cannot_be_sent(clock: Clock, caplog: pytest.LogCaptureFixture, response: Any) -> None:
    caplog.set_level(logging.ERROR)
    client = answering(clock, lambda request: response, b"GET /api/ HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [reply.status for reply in client.replies()] == [500]
    assert "returned an invalid response" in caplog.text


def test_an_answer_that_takes_its_time(clock: Clock) -> None:
    promise: Future[Response] = Future()
    woken: list[bool] = []
    request = b"GET /api/ HTTP/1.1\r\nHost: h\r\n\r\n"
    client = Client(router(clock, SiteConfig("/nonexistent"), handlers=(("/api/", lambda request: promise),)), clock)
    client.conversation._peer._wake = lambda: woken.append(True)
    client.patient = False
    client.send(request + request)
    assert (client.said, client.conversation.waiting) == (b"", Deadline.NONE)
    assert client.conversation.resume() == ()  # woken for nothing
    promise.set_result(Response(200, body=b"at last"))
    assert woken == [True]
    client.take(client.conversation.resume())
    assert [reply.body for reply in client.replies()] == [b"at last", b"at last"]
    assert client.conversation.waiting is Deadline.IDLE


def test_a_promise_that_is_broken(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    broken: Future[Response] = Future()
    broken.set_exception(RuntimeError("as told"))
    cancelled: Future[Response] = Future()
    cancelled.cancel()
    for promise in (broken, cancelled):
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


def test_a_redirect_to_the_root_does_not_lead_to_another_host(clock: Clock, root: Path) -> None:
    site = SiteConfig(str(root), redirects=(("/old/*", "/*"),))
    for path in ("/old/evil.example/x", "/old//evil.example/x", "/old///evil.example/x"):
        assert headers(get(clock, site, path=path))["Location"] == "/evil.example/x"


@pytest.mark.parametrize(
    ("of_the_file", "of_the_neighbour", "taken"), [(1.9, 1.1, False), (1.9, 1.0, True), (1.9, 1.9, True), (1.9, 0.9, False)]
)
def test_a_neighbour_that_is_older(clock: Clock, root: Path, of_the_file: float, of_the_neighbour: float, taken: bool) -> None:
    (root / "assets/x.css.gz").write_text("packed")
    for name, age in (("x.css", of_the_file), ("x.css.gz", of_the_neighbour)):
        os.utime(root / "assets" / name, ns=(int(age * 1e9), int(age * 1e9)))
    reply = get(clock, SiteConfig(str(root)), path="/assets/x.css", Accept_Encoding="gzip")
    assert reply.body == (b"packed" if taken else b"css")
