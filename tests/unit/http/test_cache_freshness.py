"""What is remembered is never stale, never too much, and never anything else than the long way would have said."""

from __future__ import annotations

import gc
import os
import random
import shutil
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawservers.core.peer import Clock
from rawservers.core.protocol import Chunk, Closing, ResponseEnd
from rawservers.http import conversation, files, framing
from rawservers.http.cache import ADMISSION_FILTER_SIZE, KEY_FIELDS, LOG_LINES_LIMIT, Cache, ResponseCache, normalized_key
from rawservers.http.conversation import Conversation
from rawservers.http.files import FileCache
from rawservers.http.request import FIELD_LIMIT, Request, parse
from rawservers.http.response import AccessRecord, Response
from rawservers.http.router import Router
from rawservers.http.site import Site
from rawservers.logs.access import format_combined
from rawservers.settings import SiteConfig
from tests.harness.server import until
from tests.unit.http.test_conversation import Client, clock

__all__ = ["clock"]  # a fixture


class Remembering:
    """A service, and what it remembers."""

    def __init__(self, clock: Clock, *sites: SiteConfig, answers: int = 100, files: int = 100, **bounds: Any) -> None:
        self.clock = clock
        self.answers = ResponseCache(clock, answers, bounds.get("answer_bytes", 1 << 20))
        self.files = FileCache(files, bounds.get("file_bytes", 1 << 20), bounds.get("open_files", 100))
        made = [(site.hosts, Site(site, clock, self.answers, self.files)) for site in sites]
        self.router = Router(made, bounds.get("handlers", ()), self.answers, 100)

    def client(self) -> Client:
        return Client(self.router, self.clock)

    def ask(self, *packets: bytes) -> bytes:
        return self.client().send(*packets).said


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", *lines, "", ""]).encode("latin-1")


def let_the_clock_tick(folder: Path) -> None:
    """Wait until the file system gives another time to what changes from here on."""
    probe = folder / "tick"
    probe.touch()
    before = probe.stat().st_ctime_ns

    def has_ticked() -> bool:
        probe.touch()
        return probe.stat().st_ctime_ns > before

    until(has_ticked, "the file system's clock ticks")


# Never stale: one change of each kind, noticed at once


OLD = (784_111_777_000_000_000, 784_111_777_000_000_000)  # a time of last change that every file begins with, and keeps


class Tree:
    """A folder of files, served through a link, and a place outside."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "current"
        self.first = base / "release-1"
        self.outside = base / "outside"
        for name in (
            "f", "index.html", "page.html", "sub/page.html", "sub/page.html.gz", "a/b/c/f", "main/main.htm", "big",
            "folder/index.html", "listed/one", "elsewhere/f", "../outside/f", "../release-2/f", "../release-2/a/b/c/f",
        ):  # fmt: skip
            self.write(name)
        (self.first / "big").write_bytes(b"." * 40_000)
        self.link("link", "f")
        self.link("../release-2/link", "../release-1/f")
        self.link("linked", "a/b")
        self.link("into", "elsewhere")
        self.link("out", "../outside/f")
        (self.first / "empty").mkdir()
        self.root.symlink_to("release-1")
        for path in (*base.rglob("*"),):
            if not path.is_symlink():
                os.utime(path, ns=OLD)

    def write(self, name: str, content: str = "") -> None:
        """Make a file that differs from others in its content, not in its size or time."""
        path = self.first / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content or os.path.basename(name):.<40}{os.urandom(4).hex()}")
        os.utime(path, ns=OLD)

    def overwrite(self, name: str) -> None:
        """Change a file in place: it stays the same one, of the same size and time of last change."""
        before = (self.first / name).stat()
        with open(self.first / name, "r+b", buffering=0) as file:
            file.write(os.urandom(4).hex().encode())
        os.utime(self.first / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = (self.first / name).stat()
        assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)

    def replace(self, name: str) -> None:
        self.write(f"{name}.new", os.path.basename(name))
        os.replace(self.first / f"{name}.new", self.first / name)

    def remove(self, name: str) -> None:
        path = self.first / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def link(self, name: str, target: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.first / f"{name}.new")
        (self.first / f"{name}.new").symlink_to(target)
        os.replace(self.first / f"{name}.new", self.first / name)

    def move(self, name: str, to: str) -> None:
        os.rename(self.first / name, self.first / to)

    def move_and_link(self, name: str, to: str) -> None:
        """Move a file or folder, and leave a link to its new place."""
        self.move(name, to)
        self.link(name, os.path.relpath(self.first / to, (self.first / name).parent))

    def deploy(self) -> None:
        os.symlink("release-2", self.base / "next")
        os.replace(self.base / "next", self.root)


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


PROBES = [
    get(path, *fields, method=method)
    for path in sorted({case.path for case in CHANGES.values()})
    for method in ("GET", "HEAD")
    for fields in ((), ("Accept-Encoding: br;q=0.5, gzip",), ("If-None-Match: *", "Cookie: x=y"))
]


@pytest.mark.parametrize("seed", range(3))
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
@pytest.mark.parametrize("seed", range(3))
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


def test_system_calls_per_level(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path)
    looked: list[bytes] = []

    class Counting(Disk):
        def stat(self, path: Any) -> Any:
            looked.append(path)
            return super().stat(path)

        def lstat(self, path: Any) -> Any:
            looked.append(path)
            return super().lstat(path)

    monkeypatch.setattr(files, "os", Counting(clock, 1))
    service = Remembering(clock, SiteConfig(str(tree.root)))
    for path, count in {"/f": 1, "/link": 2, "/sub/page.html": 5, "/a/b/c/f": 4, "/linked/c/f": 5, "/into/f": 3}.items():
        service.ask(*[get(path)] * 3)
        looked.clear()
        clock.epoch += 1
        for _ in range(3):
            assert service.answers.lookup(get(path))
        assert (len(looked), path) == (count, path)
        assert len(set(looked)) == count


# Never anything else than the long way would have said

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

    def count(head: bytes) -> Any:
        answer = recall(head)
        if answer:
            hits.append(head)
        return answer

    for target in TARGETS:
        for method in ("GET", "HEAD"):
            for line in ("Accept-Encoding: gzip", "X: y"):
                service.ask(*[get(target, line, f"Cookie: {number}", method=method) for number in range(3)])
    service.router.lookup = count  # type: ignore[method-assign]
    long = Remembering(clock, site).router
    long.lookup = lambda head: None  # type: ignore[method-assign]
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

    @settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
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


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
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
    return request.line, fields, request.host, request.keep_alive, request.connection_unspecified, request.length


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
    assert len(service.answers) == 3  # the first as it came, what decides in it, and the one that has too much to tell


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


# Never too much


def floods() -> Iterator[tuple[str, Callable[[int], bytes], int]]:
    """Requests of which no two are the same: what differs, how, and the number of answers to remember meanwhile."""
    yield "a cookie", lambda number: get("/f", f"Cookie: {number}"), 1
    yield "a name of a field", lambda number: get("/f", f"X-{number}: y"), 1
    yield "an agent", lambda number: get("/f", f"User-Agent: {number}"), 1
    yield "a long agent", lambda number: get("/f", f"User-Agent: {number} {'x' * LOG_LINES_LIMIT}"), 0
    yield "a query", lambda number: get(f"/f?{number}"), 0
    yield "an encoding", lambda number: get("/f", f"Accept-Encoding: {number}"), 0
    yield "a host", lambda number: get("/f").replace(b": h", b": h%d" % number), 0
    yield "a missing file", lambda number: get(f"/{number}.x"), 0
    yield "a target that is twice the same", lambda number: get(f"/f?{number // 2}"), 20


@pytest.mark.parametrize(("make", "most"), [flood[1:] for flood in floods()], ids=[flood[0] for flood in floods()])
def test_a_flood_of_different_requests(clock: Clock, tmp_path: Path, make: Callable[[int], bytes], most: int) -> None:
    """It takes no more memory than it may, and drives out nothing that others use."""
    Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tmp_path / "release-1"), fallback=None), answers=20)
    useful = [get(path) for path in ("/page.html", "/sub/page.html", "/a/b/c/f", "/folder/")]
    service.ask(*useful * 2)
    client = service.client()
    lost = 0
    for number in range(1500):
        client.take(client.conversation.receive(make(number)))
        if number % 10 == 0:
            clock.epoch += 1
            lost += sum(service.answers.lookup(request) is None for request in useful)
            service.ask(*[request for request in useful if service.answers.lookup(request) is None])
    assert lost <= 6
    assert len(service.answers) <= max(len(useful) + most, 10)  # half the room is for any
    assert len(service.answers._admission_filter) <= ADMISSION_FILTER_SIZE


def test_sightings_are_bounded(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawservers.http.cache.ADMISSION_FILTER_SIZE", 50)
    Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tmp_path / "release-1")), answers=4)
    for number in range(300):
        service.ask(get(f"/f?{number}", "Cookie: x"))
        assert len(service.answers._admission_filter | service.answers._previous_filter) <= 100
    assert len(service.answers) == 2  # the first, for which there was room
    service.ask(get("/f?299", "Cookie: y"), get("/f?200", "Cookie: y"))
    assert len(service.answers) == 3  # the other was too long ago


AGENT = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("lines", [[], [AGENT], [AGENT, "Referer: " + "\xe9" * 200]])
def test_bills_are_true(clock: Clock, tmp_path: Path, lines: list[str], alike: bool) -> None:
    """What the entries cost is no less than the memory they take, and not much more."""
    count = 100
    names = [f"{number}/n{'n' * (number % 50)}.html" for number in range(count)]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x" * (number * 10))
        os.utime(tmp_path / name, ns=OLD)  # or else dates are remembered as well
    bounds = {"answers": 1000, "files": 1000, "answer_bytes": 1 << 30, "file_bytes": 1 << 30}
    service = Remembering(clock, SiteConfig(str(tmp_path)), **bounds)
    conversation = service.client().conversation

    def ask(*lines: str) -> int:
        """The bytes taken, once every file was asked for by these lines, and told to the log."""
        for name in names:
            *_, answered = conversation.receive(get(f"/{name}", *lines))
            assert isinstance(answered, ResponseEnd)
            assert isinstance(answered.record, AccessRecord)
            answered.record.text = format_combined(answered.record, 1, 0.0)
        del answered
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        files_took = ask("Authorization: x")  # whose answers are never remembered
        assert (len(service.files.small), len(service.answers)) == (count, 0)
        assert files_took <= service.files.small.used_bytes + 10_000
        assert service.files.small.used_bytes <= 2 * files_took
        answers_took = ask(*lines, "Cookie: 1") - files_took
        if alike:
            answers_took = ask(*lines, "Cookie: 2") - files_took
        count += count * alike
        assert len(service.answers) == count
        assert (
            answers_took - 10_000
            <= service.answers._cache.used_bytes
            <= 2 * answers_took + count * (6 * LOG_LINES_LIMIT if alike else 300)
        )
        if alike:  # others ask, at the greatest length
            for agent in ("\xe9" * (LOG_LINES_LIMIT - 14), "x" * 4000):
                answers_took = ask("Cookie: 3", f"User-Agent: {agent}") - files_took
            assert len(service.answers) == count + 100  # the longer one is told too much to be alike
            assert answers_took - 10_000 <= service.answers._cache.used_bytes
    finally:
        tracemalloc.stop()


def test_an_answer_holds_no_content_that_its_file_has_not(clock: Clock, tmp_path: Path) -> None:
    """Forty files of 10,000 bytes, and memory for ten."""
    for number in range(40):
        (tmp_path / str(number)).write_bytes(os.urandom(10_000))
    service = Remembering(clock, SiteConfig(str(tmp_path)), answers=1000, files=1000, file_bytes=120_000)
    requests = [get(f"/{number}") for number in range(40)]
    for request in requests:
        service.ask(*[request] * 3)
    assert len(service.answers) == 40
    assert sum(service.answers.lookup(request) is not None for request in requests) <= 10
    gc.collect()
    contents = [thing for thing in gc.get_objects() if type(thing) is files.File and hasattr(thing, "body")]
    mine = [file for file in contents if bytes(tmp_path) in file._path]
    assert len(mine) <= 10
    for number in (0, 39, 20, 0):
        assert service.ask(requests[number]).endswith((tmp_path / str(number)).read_bytes())


def open_large(tmp_path: Path) -> int:
    """How many descriptors this process has of large files in `tmp_path`."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{entry}").startswith(str(tmp_path))
    return count


@pytest.mark.parametrize(("open_files", "kept"), [(10, 10), (3, 3), (0, 0), (1000, 30)])
def test_no_more_files_are_kept_open_than_allowed(clock: Clock, tmp_path: Path, open_files: int, kept: int) -> None:
    for number in range(30):
        (tmp_path / str(number)).write_bytes(bytes(20_000))
    service = Remembering(clock, SiteConfig(str(tmp_path)), file_bytes=1 << 26, open_files=open_files)
    for _ in range(2):
        for number in range(30):
            service.ask(*[get(f"/{number}")] * 3)
            assert open_large(tmp_path) <= open_files
    assert open_large(tmp_path) == kept
    del service
    gc.collect()
    assert open_large(tmp_path) == 0


@pytest.mark.parametrize("bounds", [{"answers": 0}, {"files": 0}, {"answer_bytes": 0}, {"file_bytes": 0}])
def test_nothing_need_be_remembered(clock: Clock, tmp_path: Path, bounds: dict[str, int]) -> None:
    Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tmp_path / "release-1")), **bounds)
    for path in ("/f", "/big"):
        said = {service.ask(get(path)) for _ in range(4)}
        assert len(said) == 1
        assert service.answers.lookup(get(path)) is None


def test_sites_share_what_they_may_remember(clock: Clock, tmp_path: Path) -> None:
    Tree(tmp_path)
    root = str(tmp_path / "release-1")
    sites = [SiteConfig(root), SiteConfig(root, hosts=("plain",), precompressed=False), SiteConfig(root, hosts=("x",))]
    service = Remembering(clock, *sites, files=4, open_files=0)
    request = get("/sub/page.html", "Accept-Encoding: gzip")
    for _ in range(3):
        for host in (b"h", b"plain", b"x"):
            client = service.client().send(request.replace(b": h", b": " + host))
            assert ("Content-Encoding" in dict(client.replies()[0].headers)) == (host != b"plain")
    assert len(service.files.small) == 4


class Item:
    """An entry of a cache."""

    def __init__(self, cost: int, epoch: int = 0) -> None:
        self.cost = cost
        self.epoch = self.clock_mark = epoch
        self.left = 0

    def on_evict(self) -> None:
        self.left += 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 200), st.booleans()), max_size=60), st.integers(0, 6))
def test_a_cache_keeps_its_bounds(steps: Iterable[tuple[int, int, bool]], entries: int) -> None:
    cache: Cache[Item] = Cache(entries, 1000)
    items = []
    for wake, (key, cost, used) in enumerate(steps):
        item = Item(cost, wake)
        items.append(item)
        assert cache.put(key, item) == (cost <= 125 and entries > 0) == (cache.get(key) is item)
        if used and (other := cache.get(key // 2)):
            other.epoch = wake
        kept = list(cache._entries.values())
        assert len(cache) == len(kept) <= entries
        assert cache.used_bytes == sum(item.cost for item in kept) <= 1000
    assert all(item.left <= 1 for item in items)


def test_a_head_that_trickles_in_is_judged_once(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[bytes] = []
    monkeypatch.setattr(framing, "check_request_line", judged.append)
    data = get("/" + "x" * 8000, *["X: " + "y" * 50] * 20)
    service = Remembering(clock, SiteConfig(str(tmp_path)))
    client = service.client().send(*[data[at : at + 1] for at in range(len(data))])
    assert [reply.status for reply in client.replies()] == [404]
    assert len(judged) == 1
