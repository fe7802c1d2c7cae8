"""A service that remembers, and a tree of files that change under it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from rawservers.core.peer import Clock
from rawservers.http.cache import FreshnessClock, ResponseCache
from rawservers.http.files import FileCache
from rawservers.http.router import Router
from rawservers.settings import Config, SiteConfig
from tests.harness.http import Client, make_sites
from tests.harness.waiting import until


class Remembering:
    """A service, and what it remembers."""

    def __init__(self, clock: Clock, *sites: SiteConfig, answers: int = 100, files: int = 100, **bounds: Any) -> None:
        self.clock = clock
        freshness = FreshnessClock(clock)
        self.answers = ResponseCache(freshness, answers, bounds.get("answer_bytes", 1 << 20))
        self.files = FileCache(files, bounds.get("file_bytes", 1 << 20), bounds.get("open_files", 100))
        made = make_sites(sites, freshness, self.answers, self.files)
        self.router = Router(made, Config(handlers=bounds.get("handlers", ()), body_limit=100), self.answers)

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
