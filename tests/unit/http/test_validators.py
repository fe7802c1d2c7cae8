"""The validators of files whose mtime says nothing: one that a build has fixed, or one in the future."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rawservers.core.peer import Clock
from rawservers.http import files
from rawservers.http.dates import http_date
from rawservers.http.files import MTIME_GRACE, SMALL_FILE
from rawservers.settings import SiteConfig
from tests.harness.http import Reply, headers
from tests.harness.http_cache import Remembering, get, let_the_clock_tick

YEAR_1980 = 315_532_800
FUTURE = 3_000_000_000  # later than the clock fixture's time
UNRELIABLE = {"1970": 0, "1": 1, "1969": -5, "end of 1979": YEAR_1980 - 1, "future": FUTURE, "far future": 1 << 33}
SIZES = {"small": 100, "at the limit": SMALL_FILE, "large": SMALL_FILE + 1}


class Served:
    """A file and the answers from it, of a service that remembers and of one that does not."""

    def __init__(self, clock: Clock, folder: Path, size: int, mtime: int) -> None:
        self.clock = clock
        self.path = folder / "f.txt"
        self.size = size
        self.mtime = mtime
        self.site = SiteConfig(str(folder))
        self.warm = Remembering(clock, self.site)
        self.write(b"a")

    def write(self, letter: bytes, replaced: bool = False) -> bytes:
        """Give the file another content of the same size and mtime, in place or by a rename."""
        path = self.path.with_name("new") if replaced else self.path
        path.write_bytes(letter * self.size)
        os.utime(path, (self.mtime, self.mtime))
        if replaced:
            path.replace(self.path)
        return letter * self.size

    def ask(self, *lines: str, method: str = "GET", path: str = "/f.txt") -> Reply:
        request = get(path, *lines, method=method)
        cold = Remembering(self.clock, self.site).client().send(request).replies()
        replies = self.warm.client().send(*[request] * 4).replies()
        assert replies == cold * 4
        return replies[0]

    def tag(self, *lines: str) -> str:
        return headers(self.ask(*lines))["ETag"]


@pytest.fixture
def served(clock: Clock, tmp_path: Path, request: pytest.FixtureRequest) -> Served:
    size, mtime = request.param
    return Served(clock, tmp_path, size, mtime)


every_unreliable = pytest.mark.parametrize(
    "served",
    [(size, mtime) for size in SIZES.values() for mtime in UNRELIABLE.values()],
    ids=[f"{size}, {mtime}" for size in SIZES for mtime in UNRELIABLE],
    indirect=True,
)


@every_unreliable
def test_dates_decide_nothing(served: Served) -> None:
    content = served.write(b"b")
    for seconds in (0, served.mtime, served.mtime + 1, YEAR_1980, served.clock.time):
        date = http_date(seconds)
        for lines in (
            [f"If-Modified-Since: {date}"],
            [f"If-Unmodified-Since: {date}"],
            [f"If-Unmodified-Since: {date}", f"If-Modified-Since: {date}"],
            [f"If-Range: {date}", "Range: bytes=0-1"],
        ):
            reply = served.ask(*lines)
            assert (reply.status, reply.body) == (200, content)


@every_unreliable
def test_the_tag_decides_as_ever(served: Served) -> None:
    tag = served.tag()
    assert re.fullmatch(r'"[0-9a-f]{30}"', tag)
    assert served.ask(f"If-None-Match: {tag}").status == 304
    assert served.ask(f"If-None-Match: {tag}", method="HEAD").status == 304
    assert served.ask('If-None-Match: "x"').status == 200
    assert served.ask(f"If-Match: {tag}").status == 200
    assert served.ask('If-Match: "x"').status == 412
    part = served.ask(f"If-Range: {tag}", "Range: bytes=1-3")
    assert (part.status, part.body, headers(part)["ETag"]) == (206, b"aaa", tag)
    assert "Last-Modified" not in headers(part)
    assert served.ask('If-Range: "x"', "Range: bytes=1-3").status == 200
    assert headers(served.ask(method="HEAD"))["ETag"] == tag


@pytest.mark.parametrize("replaced", [False, True], ids=["in place", "renamed"])
@every_unreliable
def test_another_content_has_another_tag(served: Served, tmp_path: Path, replaced: bool) -> None:
    tags = [served.tag()]
    for letter in (b"b", b"c", b"a"):
        let_the_clock_tick(tmp_path)
        content = served.write(letter, replaced)
        for lines in ([f"If-None-Match: {tags[-1]}"], [f"If-Range: {tags[-1]}", "Range: bytes=1-"]):
            reply = served.ask(*lines)
            assert (reply.status, reply.body) == (200, content)
        tags.append(served.tag())
    if served.size > SMALL_FILE:
        assert len(set(tags)) == 4
    else:
        assert len(set(tags[1:])) == 3
        assert tags[0] == tags[3]  # the same content again


@pytest.mark.parametrize("mtime", UNRELIABLE.values(), ids=UNRELIABLE)
def test_when_there_is_a_last_modified(clock: Clock, tmp_path: Path, mtime: int) -> None:
    """Caches would take a date before 1980 for a sign that the file never changes. One in the future must not be sent."""
    served = Served(clock, tmp_path, 100, mtime)
    for method in ("GET", "HEAD"):
        for _ in range(2):
            said = headers(served.ask(method=method))
            assert said.get("Last-Modified") == (said["Date"] if mtime >= FUTURE else None)
            clock.time += 10


@pytest.mark.parametrize("mtime", [YEAR_1980, 784_111_777, 2_000_000_000])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_other_times_are_the_validators(clock: Clock, tmp_path: Path, size: int, mtime: int) -> None:
    served = Served(clock, tmp_path, size, mtime)
    assert served.tag() == f'"{mtime * 10**9:x}-{size:x}"'
    assert headers(served.ask())["Last-Modified"] == http_date(mtime)
    assert served.ask(f"If-Modified-Since: {http_date(mtime)}").status == 304
    assert served.ask(f"If-Unmodified-Since: {http_date(mtime - 1)}").status == 412


def test_copies(clock: Clock, tmp_path: Path) -> None:
    """On each node, a small file has the same tag, and a large one another; the inode cannot be read from it."""
    for size, count in ((100, 1), (SMALL_FILE + 1, 3)):
        tags = set()
        for node in "abc":
            (tmp_path / node).mkdir(exist_ok=True)
            served = Served(clock, tmp_path / node, size, 1)
            tags.add(served.tag())
            assert f"{served.path.stat().st_ino:x}" not in served.tag()
        assert len(tags) == count


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_future_that_comes(clock: Clock, tmp_path: Path, size: int) -> None:
    served = Served(clock, tmp_path, size, FUTURE)
    before = served.tag()
    for seconds in (FUTURE - 1, FUTURE - 0.001):
        clock.time = seconds
        assert served.tag() == before
    for seconds in (FUTURE, FUTURE + 0.001, FUTURE + 1, FUTURE + 1000):
        clock.time = seconds
        said = headers(served.ask())
        assert (said["ETag"], said["Last-Modified"]) == (f'"{FUTURE * 10**9:x}-{size:x}"', http_date(FUTURE))
        assert served.ask(f"If-None-Match: {before}").status == 200


def test_a_large_file_that_may_change_again_unnoticed(clock: Clock, tmp_path: Path) -> None:
    """Until the file system's clock has ticked, another change could leave the same ctime."""
    served = Served(clock, tmp_path, SMALL_FILE + 1, 1)
    changed = served.path.stat().st_ctime
    for age in (-1, 0, MTIME_GRACE - 0.001):
        clock.time = changed + age
        for lines in ([], ["Range: bytes=0-1"], ["If-Match: *"]):
            assert "ETag" not in headers(served.ask(*lines))
        assert served.ask("If-Range:", "Range: bytes=0-1").status == 200
        assert served.ask('If-None-Match: ""').status == 200
        assert served.ask('If-Match: ""').status == 412
    clock.time = changed + MTIME_GRACE + 0.001
    assert served.tag()


def test_a_large_file_without_any_time(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that is made as a whole, such as squashfs, may have no ctime either: nothing tells its versions apart."""
    served = Served(clock, tmp_path, SMALL_FILE + 1, 1)

    class Image:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fstat(self, fd: int) -> Any:
            status = os.fstat(fd)
            fields = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
            return SimpleNamespace(**fields | {"st_ctime": 1.0, "st_ctime_ns": 10**9})

    monkeypatch.setattr(files, "os", Image())
    assert "ETag" not in headers(served.ask())
    served.size = 100
    content = served.write(b"a")
    assert served.ask(f"If-None-Match: {served.tag()}").status == 304
    assert served.ask().body == content


def test_precompressed_variants_have_tags_of_their_own(clock: Clock, tmp_path: Path) -> None:
    served = Served(clock, tmp_path, 100, 1)
    packed = served.path.with_name("f.txt.gz")

    def pack(content: bytes, mtime: int) -> dict[str, str]:
        let_the_clock_tick(tmp_path)
        packed.write_bytes(content)
        os.utime(packed, (mtime, mtime))
        reply = served.ask("Accept-Encoding: gzip")
        assert reply.body == content
        assert headers(reply)["Content-Encoding"] == "gzip"
        return headers(reply)

    plain = served.tag()
    first, second = pack(b"packed", 1), pack(b"pecked", 1)
    assert len({plain, first["ETag"], second["ETag"]}) == 3
    assert re.fullmatch(r'"[0-9a-f]{30}-gzip"', second["ETag"])
    assert served.tag() == plain
    assert served.ask("Accept-Encoding: gzip", f"If-None-Match: {second['ETag']}").status == 304
    assert served.ask("Accept-Encoding: gzip", f"If-None-Match: {first['ETag']}").status == 200
    assert served.ask("Accept-Encoding: gzip", f"If-None-Match: {plain}").status == 200
    assert served.ask(f"If-None-Match: {second['ETag']}").status == 200
    reliable = pack(b"packed", 784_111_777)
    assert (reliable["ETag"], reliable["Last-Modified"]) == (f'"{784_111_777 * 10**9:x}-6-gzip"', http_date(784_111_777))
    ahead = pack(b"packed", FUTURE)
    assert (ahead["ETag"], ahead["Last-Modified"]) == (first["ETag"], ahead["Date"])
    served.mtime = 784_111_777
    served.write(b"a")
    assert pack(b"packed", FUTURE)["ETag"] == first["ETag"]


def test_a_hash_is_made_once_per_read(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []
    fingerprint = files.fingerprint

    def count(data: bytes) -> str:
        hashed.append(data)
        return fingerprint(data)

    monkeypatch.setattr(files, "fingerprint", count)
    for size, most in ((100, 100), (SMALL_FILE, SMALL_FILE), (1 << 20, 200)):
        service = Served(clock, tmp_path, size, 1).warm
        for number in range(20):
            service.ask(get("/f.txt", f"If-None-Match: {number}"), get("/f.txt", "Range: bytes=1-2"))
        assert len(hashed) == 1
        assert len(hashed.pop()) <= most  # a large file is never read for it
    Served(clock, tmp_path, 100, 784_111_777).ask()
    assert not hashed
