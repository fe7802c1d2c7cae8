"""Files and folders as they are opened: errors of the system, links, and what is too young to be cached."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rawservers.core.peer import Clock
from rawservers.http.cache import FreshnessClock
from rawservers.http.files import DocumentRoot, FileCache
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
