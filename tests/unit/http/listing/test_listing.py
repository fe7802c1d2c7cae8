"""Listings as clients get them: built once for all who ask in time, sent in pieces, refused when too many wait; failures."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest

from rawservers.core.peer import Clock
from rawservers.core.protocol import Closing, Deadline
from rawservers.http.files import DocumentRoot
from rawservers.http.listing import builder, entries, html
from rawservers.http.listing.entries import ListingEntry
from rawservers.http.router import Router
from rawservers.settings import SiteConfig
from tests.harness.http import Client, Reply, get, headers, router
from tests.harness.waiting import DEADLINE


def test_a_listing(clock: Clock, root: Path) -> None:
    (root / ".hidden").write_text("x")
    (root / "out").symlink_to("/etc/passwd")
    (root / "index.html").unlink()
    site = SiteConfig(str(root), listing=True)
    page = get(clock, site)
    assert (page.status, headers(page)["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers(page)["Vary"] == "Accept"
    assert b'href="a%20b%26c.txt"' in page.body
    assert b".hidden" not in page.body
    assert b"passwd" not in page.body
    told = json.loads(get(clock, site, Accept="application/json").body)
    assert [entry["name"] for entry in told["entries"]] == ["assets", "sub", "a b&c.txt", "main.htm", "oops.html"]
    assert told["entries"][3] | {"modified": ""} == {
        "name": "main.htm",
        "href": "main.htm",
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
    monkeypatch.setattr(builder, "sleep", lambda seconds: counts.clear())
    monkeypatch.setattr(DocumentRoot, "_listing_entry", counted("looked up", DocumentRoot._listing_entry))
    monkeypatch.setattr(entries, "natural_key", counted("keyed", entries.natural_key))
    monkeypatch.setattr(html, "table_row", counted("written", html.table_row))
    assert get(clock, SiteConfig(str(tmp_path), listing=True)).status == 200
    assert set(most) == {"looked up", "keyed", "written"}
    assert max(most.values()) <= builder.SLICE + 1
