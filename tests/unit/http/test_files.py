"""Files and folders as they are opened: errors of the system, links, and what is too young to be cached."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from rawservers.core.peer import Clock
from rawservers.http.cache import FreshnessClock
from rawservers.http.files import LINK_REPORT_TIME, LINK_REPORTS, DocumentRoot, FileCache
from rawservers.settings import SiteConfig
from tests.harness.http import Client, router


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
    files = DocumentRoot(str(root), FreshnessClock(clock), lambda path: (), FileCache(10, 1 << 20, 10))
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
        assert len(service.lookup.__self__._cache) == remembered  # type: ignore[attr-defined]


def test_a_link_that_leads_out_of_the_root_is_logged(clock: Clock, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its path and where it leads; so is one to a hidden name, but nothing of what is not there or asked for as hidden."""
    (root / "index.html").unlink()
    outside = root.parent / "out\nside"
    (outside / "sub").mkdir(parents=True)
    (outside / "f").write_text("secret")
    (root / ".git").mkdir()
    (root / ".git/config").write_text("secret")
    links = {
        "o\x1but": "../out\nside/f", "to-folder": "../out\nside", "to-git": ".git", "sub/index.html": "/etc/passwd",
        "broken": "../nothing", "loop": "loop", ".out": "/etc/passwd", "in": "main.htm",
    }  # fmt: skip
    for name, place in links.items():
        (root / name).symlink_to(place)
    reached = {
        "/o%1but": outside / "f", "/to-folder": outside, "/to-folder/": outside, "/to-folder/sub/": outside / "sub",
        "/to-git/config": root / ".git/config", "/sub/": Path("/etc/passwd"),
    }  # fmt: skip
    service = router(clock, SiteConfig(str(root), listing=True))

    def lines(path: str) -> list[str]:
        caplog.clear()
        Client(service, clock).send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return [record.getMessage() for record in caplog.records]

    for path, place in reached.items():
        (line,) = lines(path)
        assert str(place).encode("unicode_escape").decode() in line
        assert unquote(path).encode("unicode_escape").decode() in line
        assert line.isprintable()
        assert lines(path) == []  # until a while has passed
    for path in ("/", "/broken", "/loop", "/.out", "/.git/config", "/in", "/nope", "/../f", "/to-folder/nope", "/in/x"):
        assert lines(path) == []
    clock.now += LINK_REPORT_TIME
    assert len(lines("/to-folder/")) == 1


def test_few_links_are_logged_in_a_while(clock: Clock, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root.parent / "outside").mkdir()
    (root / "out").symlink_to("../outside")
    for number in range(100):
        (root.parent / f"outside/{number}").touch()
    client = Client(router(clock, SiteConfig(str(root))), clock)
    for rounds in (1, 2):
        client.send(*[f"GET /out/{number} HTTP/1.1\r\nHost: h\r\n\r\n".encode() for number in range(100)])
        assert len(caplog.records) == rounds * LINK_REPORTS
        clock.now += LINK_REPORT_TIME
    assert {reply.status for reply in client.replies()} == {404}
