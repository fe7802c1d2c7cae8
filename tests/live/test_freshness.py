"""Freshness of the real process's answers: no file is stale, whatever is kept of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.harness.http_client import KEPT, take_body
from tests.harness.server import Server


def test_never_stale(folder: Path, server: Server) -> None:
    with server.connect() as sock:
        for number in range(1000):
            text = b"%06d" % number
            (folder / "f").write_bytes(text)
            for _ in range(3):
                sock.sendall(KEPT)
                assert take_body(sock) == text


def test_never_stale_when_size_and_mtime_are_kept(folder: Path, server: Server) -> None:
    path = folder / "f"
    long_ago = 1_000_000_000
    with server.connect() as sock:
        for number in range(200):
            text = b"%06d" % number
            path.write_bytes(text)
            os.utime(path, (long_ago, long_ago))
            if number % 20 == 0:
                time.sleep(0.03)  # so that it is old enough to be remembered: the age is what this is about
            for _ in range(3):
                sock.sendall(KEPT)
                assert take_body(sock) == text


def test_a_moved_root_is_followed(tmp_path: Path) -> None:
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "f").write_text(release)
    (tmp_path / "current").symlink_to("one")
    with Server(tmp_path / "current", "--http", "0", "--telnet", "off") as server, server.connect() as sock:
        for release in ("one", "two", "one"):
            (tmp_path / "new").symlink_to(release)
            (tmp_path / "new").rename(tmp_path / "current")
            for _ in range(3):
                sock.sendall(KEPT)
                assert take_body(sock) == release.encode()
