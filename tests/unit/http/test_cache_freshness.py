"""Freshness of cached answers: every kind of change on the disk is noticed by the next request."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from rawservers.core.peer import Clock
from rawservers.http import files
from rawservers.http.request import Request
from rawservers.http.response import Response
from rawservers.settings import SiteConfig
from tests.harness.http_cache import Remembering, Tree, get, let_the_clock_tick


class Case(NamedTuple):
    path: str
    change: Callable[[Tree], object]
    fields: tuple[str, ...] = ()


ZIPPED = ("Accept-Encoding: gzip",)
CHANGES = {
    "a file is overwritten": Case("/f", lambda tree: tree.overwrite("f")),
    "a file grows": Case("/f", lambda tree: tree.write("f", "x" * 100)),
    "a file is replaced": Case("/f", lambda tree: tree.replace("f")),
    "a file is removed": Case("/f", lambda tree: tree.remove("f")),
    "a file becomes a folder": Case("/f", lambda tree: (tree.remove("f"), tree.write("f/index.html"))),
    "a file is touched": Case("/f", lambda tree: os.utime(tree.first / "f", (800_000_000, 800_000_000))),
    "a file gets a time that says nothing": Case("/f", lambda tree: os.utime(tree.first / "f", (1, 1))),
    "a large file gets a time that says nothing": Case("/big", lambda tree: os.utime(tree.first / "big", (1, 1))),
    "a file gets a time in the future": Case("/f", lambda tree: os.utime(tree.first / "f", (3_000_000_000, 3_000_000_000))),
    "a file becomes a link outside": Case("/f", lambda tree: tree.link("f", "../outside/f")),
    "a file is moved outside": Case("/f", lambda tree: tree.move_and_link("f", "../outside/moved")),
    "a file is hidden": Case("/f", lambda tree: tree.move_and_link("f", ".f")),
    "a large file is overwritten": Case("/big", lambda tree: tree.overwrite("big")),
    "a large file is replaced": Case("/big", lambda tree: tree.replace("big")),
    "a deep file is overwritten": Case("/a/b/c/f", lambda tree: tree.overwrite("a/b/c/f")),
    "its folder is removed": Case("/a/b/c/f", lambda tree: tree.remove("a/b/c")),
    "its folder is renamed": Case("/a/b/c/f", lambda tree: tree.move("a/b", "a/x")),
    "its folder is moved outside": Case("/a/b/c/f", lambda tree: tree.move_and_link("a/b/c", "../outside/c")),
    "the folder of its folder is moved outside": Case("/a/b/c/f", lambda tree: tree.move_and_link("a/b", "../outside/b")),
    "the uppermost folder is moved outside": Case("/a/b/c/f", lambda tree: tree.move_and_link("a", "../outside/a")),
    "its folder is hidden": Case("/a/b/c/f", lambda tree: tree.move_and_link("a/b", "a/.b")),
    "another folder is put in its place": Case("/a/b/c/f", lambda tree: (tree.move("a", "old"), tree.write("a/b/c/f"))),
    "a neighbour appears": Case("/page.html", lambda tree: tree.write("page.html.gz"), ZIPPED),
    "a neighbour appears, for others": Case("/page.html", lambda tree: tree.write("page.html.gz")),
    "a better neighbour appears": Case("/sub/page.html", lambda tree: tree.write("sub/page.html.br"), ("Accept-Encoding: *",)),
    "a neighbour is overwritten": Case("/sub/page.html", lambda tree: tree.overwrite("sub/page.html.gz"), ZIPPED),
    "a neighbour is removed": Case("/sub/page.html", lambda tree: tree.remove("sub/page.html.gz"), ZIPPED),
    "a neighbour leads outside": Case("/sub/page.html", lambda tree: tree.link("sub/page.html.gz", "../../outside/f"), ZIPPED),
    "a neighbour grows too old": Case(
        "/sub/page.html", lambda tree: os.utime(tree.first / "sub/page.html.gz", (700_000_000, 700_000_000)), ZIPPED
    ),
    "its file grows too young": Case(
        "/sub/page.html", lambda tree: os.utime(tree.first / "sub/page.html", (800_000_000, 800_000_000)), ZIPPED
    ),
    "an index is overwritten": Case("/folder/", lambda tree: tree.overwrite("folder/index.html")),
    "an index is removed": Case("/folder/", lambda tree: tree.remove("folder/index.html")),
    "an index appears": Case("/empty/", lambda tree: tree.write("empty/index.html")),
    "an index appears before another": Case("/main/", lambda tree: tree.write("main/index.html")),
    "the root's index is removed": Case("/", lambda tree: tree.remove("index.html")),
    "the folder of an index is moved outside": Case("/folder/", lambda tree: tree.move_and_link("folder", "../outside/x")),
    "a listed folder gains a file": Case("/listed/", lambda tree: tree.write("listed/two")),
    "a listed folder loses a file": Case("/listed/", lambda tree: tree.remove("listed/one")),
    "a listed file grows": Case("/listed/", lambda tree: tree.write("listed/one", "x" * 100)),
    "a link moves": Case("/link", lambda tree: tree.link("link", "page.html")),
    "a link moves outside": Case("/link", lambda tree: tree.link("link", "../outside/f")),
    "a link moves inside": Case("/out", lambda tree: tree.link("out", "f")),
    "a link becomes a file": Case("/link", lambda tree: tree.replace("link")),
    "what a link leads to is overwritten": Case("/link", lambda tree: tree.overwrite("f")),
    "what a link leads to is moved outside": Case("/link", lambda tree: tree.move_and_link("f", "../outside/moved")),
    "a linked folder is moved outside": Case("/linked/c/f", lambda tree: tree.move_and_link("a", "../outside/a")),
    "a link to a folder moves": Case("/into/f", lambda tree: tree.link("into", "a/b/c")),
    "a link to a folder moves outside": Case("/into/f", lambda tree: tree.link("into", "../outside")),
    "the root moves": Case("/f", Tree.deploy),
    "the root moves, for a deep file": Case("/a/b/c/f", Tree.deploy),
    "the root moves, and a link in it leads to where it was": Case("/link", Tree.deploy),
    "what the fallback stands for appears": Case("/missing", lambda tree: tree.write("missing")),
    "the fallback is overwritten": Case("/missing", lambda tree: tree.overwrite("page.html")),
}  # fmt: skip
SITE = {"listing": True, "index": ("index.html", "main.htm"), "fallback": "/page.html"}


def methods(case: Case, tag: str) -> dict[str, bytes]:
    return {
        "GET": get(case.path, *case.fields),
        "HEAD": get(case.path, *case.fields, method="HEAD"),
        "304": get(case.path, *case.fields, f"If-None-Match: {tag}"),
    }


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed_at_once(clock: Clock, tmp_path: Path, name: str) -> None:
    case = CHANGES[name]
    tree = Tree(tmp_path)
    change: list[Callable[[], object]] = []
    site = SiteConfig(str(tree.root), **SITE)  # type: ignore[arg-type]

    def do(request: Request) -> Response:
        change.pop()()
        return Response(204)

    service = Remembering(clock, site, handlers=(("/change", do),))
    old = service.client().send(get(case.path, *case.fields)).replies()[0]
    requests = methods(case, dict(old.headers).get("ETag", '"none"'))
    kept = service.client()
    kept.send(*[request for request in requests.values() for _ in range(4)])
    if old.status == 200 and b"Index of" not in old.body:
        assert all(service.answers.lookup(request) for request in requests.values())
    let_the_clock_tick(tree.base)
    change.append(lambda: case.change(tree))
    changing = b"POST /change HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    heard = len(kept.said)
    kept.send(requests["HEAD"] + changing + b"".join(requests.values()))  # all in one receive
    expected = b"".join(Remembering(clock, site).ask(request) for request in requests.values())
    assert kept.said[heard:].split(b"\r\n\r\n", 2)[2] == expected, "behind the change, in one receive"
    assert kept.replies()[-3] != old, "a change that nobody can see"
    assert service.ask(*requests.values()) == expected, "on a new connection"
    assert service.ask(b"".join(requests.values())) == expected, "pipelined"
    heard = len(kept.said)
    assert kept.send(*requests.values()).said[heard:] == expected, "on the kept connection"


PROBES = [
    get(path, *fields, method=method)
    for path in sorted({case.path for case in CHANGES.values()})
    for method in ("GET", "HEAD")
    for fields in ((), ("Accept-Encoding: br;q=0.5, gzip",), ("If-None-Match: *", "Cookie: x=y"))
]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_any_changes_in_any_order(clock: Clock, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    tree = Tree(tmp_path)
    site = SiteConfig(str(tree.root), **SITE)  # type: ignore[arg-type]
    service = Remembering(clock, site, answers=chance.choice([20, 1000]), files=chance.choice([5, 1000]))
    kept = service.client()
    for _ in range(15):
        probes = chance.sample(PROBES, 60)
        expected = Remembering(clock, site).ask(*probes)
        for _ in range(3):
            heard = len(kept.said)
            assert kept.send(*probes).said[heard:] == expected
        let_the_clock_tick(tree.base)
        with suppress(OSError):
            chance.choice(list(CHANGES.values())).change(tree)


class Disk:
    """The file system's clock as coarse as a kernel's may be, whatever the present one does; it stands in for `os`."""

    def __init__(self, clock: Clock, tick: float) -> None:
        self._clock = clock
        self._tick = tick
        self._times: dict[tuple[int, int], int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def touch(self, path: Path) -> None:
        """The content at `path` changes now, as far as that can be told."""
        status = os.stat(path)
        self._times[status.st_dev, status.st_ino] = int(self._clock.time // self._tick * self._tick * 1000) * 1_000_000

    def _seen(self, status: os.stat_result) -> Any:
        changed = self._times.get((status.st_dev, status.st_ino), 10**18)
        fields = {name: getattr(status, name) for name in ("st_dev", "st_ino", "st_size", "st_mode")}
        return SimpleNamespace(
            **fields, st_mtime=1e9, st_mtime_ns=10**18, st_ctime=changed / 1e9, st_ctime_ns=changed
        )  # who keeps the time of the last change leaves no trace but in ctime

    def stat(self, *arguments: Any) -> Any:
        return self._seen(os.stat(*arguments))

    def lstat(self, *arguments: Any) -> Any:
        return self._seen(os.lstat(*arguments))

    def fstat(self, *arguments: Any) -> Any:
        return self._seen(os.fstat(*arguments))


@pytest.mark.parametrize("tick", [0.004, 0.010, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_changes_within_one_tick(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tick: float, seed: int) -> None:
    chance = random.Random(seed)
    disk = Disk(clock, tick)
    monkeypatch.setattr(files, "os", disk)
    path = tmp_path / "f"
    path.write_text("0000")
    service = Remembering(clock, SiteConfig(str(tmp_path)))
    kept = service.client()
    recalled = 0
    for number in range(200):
        clock.time += tick * chance.choice([0, 0.1, 0.3, 1, 2, 4])
        if chance.random() < 0.4:
            path.write_text(f"{number:04}")
            disk.touch(path)
        for _ in range(chance.choice([1, 1, 3])):
            recalled += service.answers.lookup(get("/f")) is not None
            kept.send(get("/f"))
            assert kept.said.endswith(b"\r\n\r\n" + path.read_bytes())
    assert recalled > 20, "nothing was remembered, so nothing was tried"


@pytest.mark.parametrize("name", ["f", "a", "a/b", "a/b/c", "a/b/c/f"])
@pytest.mark.parametrize("place", ["../outside/moved", ".hidden"])
def test_a_move_that_leaves_no_trace_but_a_link(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    """A file system need not note any time when something is renamed."""
    monkeypatch.setattr(files, "os", Disk(clock, 0.001))
    tree = Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tree.root)))
    request = get("/f" if name == "f" else "/a/b/c/f")
    kept = service.client().send(*[request] * 3)
    assert service.answers.lookup(request)
    tree.move_and_link(name, place)
    kept.send(request)
    assert [reply.status for reply in kept.replies()] == [200, 200, 200, 404]


def test_a_link_that_moves_while_its_file_is_read(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path)

    class Moving(Disk):
        def open(self, path: bytes, *arguments: Any) -> int:
            fd = os.open(path, *arguments)
            if path.endswith(b"/link"):
                tree.link("link", "page.html")
            return fd

    monkeypatch.setattr(files, "os", Moving(clock, 1))
    service = Remembering(clock, SiteConfig(str(tree.root)))
    bodies = [reply.body for reply in service.client().send(*[get("/link")] * 4).replies()]
    assert bodies == [(tree.first / "f").read_bytes(), *[(tree.first / "page.html").read_bytes()] * 3]


@pytest.mark.parametrize(("path", "name"), [("/route", "route"), ("/empty/", "empty/index.html")])
def test_a_file_that_appears_while_another_is_sent_in_its_place(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    tree = Tree(tmp_path)

    class Appearing(Disk):
        def open(self, path: bytes, *arguments: Any) -> int:
            try:
                return os.open(path, *arguments)
            except FileNotFoundError:
                tree.write(name)
                raise

    monkeypatch.setattr(files, "os", Appearing(clock, 1))
    tree.write("empty/second.html")
    service = Remembering(clock, SiteConfig(str(tree.root), index=("index.html", "second.html"), fallback="/page.html"))
    bodies = [reply.body for reply in service.client().send(*[get(path)] * 3).replies()]
    assert bodies[1:] == [(tree.first / name).read_bytes()] * 2
    assert bodies[0] != bodies[1]


def test_a_file_that_is_forgotten_within_a_wake(clock: Clock, tmp_path: Path) -> None:
    Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tmp_path / "release-1")), files=1)
    request, other = get("/f"), get("/page.html")
    said = service.ask(*[request] * 3)
    clock.epoch += 1
    for data in (request, other, request, request):
        client = service.client()
        client.take(client.conversation.receive(data))
        assert (client.said == said[: len(client.said)]) == (data is request)


def test_a_file_that_an_error_page_drives_out_within_a_wake(clock: Clock, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tree.root), error_pages=((408, "/page.html"),)), files=1)
    request = get("/f")
    expected = service.ask(*[request] * 3)[-200:]
    clock.epoch += 1
    kept, slow = service.client(), service.client()
    slow.take(slow.conversation.receive(b"GET /f HT"))
    kept.take(kept.conversation.receive(request))
    slow.take(slow.conversation.expire())
    assert [reply.status for reply in slow.replies()] == [408]
    assert slow.said.endswith((tree.first / "page.html").read_bytes())
    kept.take(kept.conversation.receive(request))
    assert kept.said.endswith(expected)
    assert len(kept.replies()) == 2


@pytest.fixture
def looked(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is looked at on the disk: a path for each call of stat and lstat."""
    found: list[bytes] = []

    class Counting(Disk):
        def stat(self, path: Any) -> Any:
            found.append(path)
            return super().stat(path)

        def lstat(self, path: Any) -> Any:
            found.append(path)
            return super().lstat(path)

    monkeypatch.setattr(files, "os", Counting(clock, 1))
    return found


def test_system_calls_per_level(clock: Clock, tmp_path: Path, looked: list[bytes]) -> None:
    tree = Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tree.root)))
    for path, count in {"/f": 1, "/link": 2, "/sub/page.html": 5, "/a/b/c/f": 4, "/linked/c/f": 5, "/into/f": 3}.items():
        service.ask(*[get(path)] * 3)
        looked.clear()
        clock.epoch += 1
        for _ in range(3):
            assert service.answers.lookup(get(path))
        assert (len(looked), path) == (count, path)
        assert len(set(looked)) == count


def test_system_calls_of_requests_in_one_receive(clock: Clock, tmp_path: Path, looked: list[bytes]) -> None:
    """All of them had come before the first was looked at. But a handler between them may have changed a file."""
    tree = Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tree.root)), handlers=(("/do", lambda request: Response(204)),))
    request, handled = get("/f"), get("/do")
    service.ask(*[request] * 3)
    for packet, expected in {request * 4: 1, request + handled + request * 2: 2, handled * 2 + request: 1}.items():
        client = service.client()
        looked.clear()
        client.send(packet)
        assert (len(looked), len(client.replies())) == (expected, packet.count(b"\r\n\r\n"))
        client.send(packet)
        assert len(looked) == 2 * expected, "what comes later is looked at anew"
