"""Fixtures of the tests of HTTP: a clock, and folders to serve."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rawservers.core.peer import Clock
from tests.harness.auth import SECRETS, write_users


@pytest.fixture(scope="module")
def vector_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the vectors ask for."""
    base = tmp_path_factory.mktemp("site")
    root = base / "www"
    for name in (
        "dir", "empty", ".git", ".well-known", "dir/.well-known", "\\evil", "dir\r\nX:1", "private/open/closed", "shut",
    ):  # fmt: skip
        (root / name).mkdir(parents=True)
    for name, content in {
        "f": b"content of f\n",
        "a+b": b"a plus b",
        "dir/index.html": b"<p>index",
        "what?.jpg": b"a picture",
        ".git/config": b"secret",
        ".well-known/x": b"known",
        ".well-known/.x": b"secret",
        "dir/.well-known/x": b"secret",
        "big": bytes(range(250)) * 160,
        "../outside": b"secret",
        "nothing": b"",
        "page.html": b"as identity",
        "page.html.br": b"as br",
        "page.html.gz": b"as gzip",
        "old.html": b"new",
        "old.html.gz": b"old",
        "leak.html": b"inside",
        "private/f": b"content of private/f\n",
        "private/page.html": b"private",
        "private/page.html.gz": b"private as gzip",
        "private/open/f": b"for everybody",
        "private/open/closed/f": b"secret",
        "privateer": b"for everybody",
        "secret.txt": b"secret",
        "secret.txt.gz": b"secret",
        "shut/index.html": b"secret",
        "linked.html": b"open",
    }.items():
        (root / name).write_bytes(content)
    (base / "outdoors").mkdir()
    (root / "out").symlink_to("../outside")
    (root / "outside").symlink_to("../outdoors")
    (root / "leak.html.gz").symlink_to("../outside")
    (root / "to-git").symlink_to(".git/config")
    (root / "link").symlink_to("f")
    (root / "to-private").symlink_to("private/f")
    (root / "private-dir").symlink_to("private")
    (root / "linked.html.gz").symlink_to("private/page.html.gz")
    (root / "private/to-open").symlink_to("../f")
    write_users(base / "users", *SECRETS)
    os.mkfifo(root / "fifo")
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            os.utime(path, (784111777, 784111777))
    os.utime(root / "old.html.gz", (784111776, 784111776))
    os.utime(base / "outside", (784111777, 784111777))
    return root


@pytest.fixture
def clock() -> Clock:
    return Clock(now=100.0, time=2_000_000_000.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small site."""
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
