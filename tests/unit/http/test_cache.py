"""The caches of answers and files: their bounds, in entries, bytes and descriptors, also under floods of requests."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.core.peer import Clock
from rawservers.core.protocol import ResponseEnd
from rawservers.http import files
from rawservers.http.admission import FILTER_SIZE
from rawservers.http.cache import Cache
from rawservers.http.normalized import LOG_LINES_LIMIT
from rawservers.http.response import AccessRecord
from rawservers.logs.access import FORMATS
from rawservers.settings import SiteConfig
from tests.harness.http_cache import OLD, Remembering, Tree, get


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
    assert len(service.answers._cache) <= max(len(useful) + most, 10)  # half the room is for any
    assert len(service.answers._admission) <= FILTER_SIZE


def test_sightings_are_bounded(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawservers.http.admission.FILTER_SIZE", 50)
    Tree(tmp_path)
    service = Remembering(clock, SiteConfig(str(tmp_path / "release-1")), answers=4)
    for number in range(300):
        service.ask(get(f"/f?{number}", "Cookie: x"))
        assert len(service.answers._admission) <= 50
    assert len(service.answers._cache) == 2  # the first, for which there was room
    service.ask(get("/f?299", "Cookie: y"), get("/f?200", "Cookie: y"))
    assert len(service.answers._cache) == 3  # the other was too long ago


AGENT = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize(
    ("folder", "lines"),
    [
        (".", [AGENT]),
        pytest.param(".", [], marks=pytest.mark.slow),
        pytest.param(".", [AGENT, "Referer: " + "\xe9" * 200], marks=pytest.mark.slow),
        pytest.param("d" * 250, [], marks=pytest.mark.slow),
    ],
)
def test_bills_are_true(clock: Clock, tmp_path: Path, folder: str, lines: list[str], alike: bool) -> None:
    """What the entries cost is no less than the memory they take, and not much more."""
    tmp_path /= folder
    tmp_path.mkdir(exist_ok=True)
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
            answered.record.text = FORMATS["combined"].text(answered.record, 1, 0.0)
        del answered
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        files_took = ask("Authorization: x")  # whose answers are never remembered
        assert (len(service.files.small), len(service.answers._cache)) == (count, 0)
        assert files_took <= service.files.small.used_bytes + 10_000
        assert service.files.small.used_bytes <= 2 * files_took
        answers_took = ask(*lines, "Cookie: 1") - files_took
        if alike:
            answers_took = ask(*lines, "Cookie: 2") - files_took
        count += count * alike
        assert len(service.answers._cache) == count
        assert (
            answers_took - 10_000
            <= service.answers._cache.used_bytes
            <= 2 * answers_took + count * (6 * LOG_LINES_LIMIT if alike else 300)
        )
        if alike:  # others ask, at the greatest length
            for agent in ("\xe9" * (LOG_LINES_LIMIT - 14), "x" * 4000):
                answers_took = ask("Cookie: 3", f"User-Agent: {agent}") - files_took
            assert len(service.answers._cache) == count + 100  # the longer one is told too much to be alike
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
    assert len(service.answers._cache) == 40
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
