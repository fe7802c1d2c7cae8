"""Fixtures of the tests of HTTP: a clock, and folders to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from rawservers.core.peer import Clock
from tests.harness.http import vector_folder


@pytest.fixture(scope="module")
def vector_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the vectors ask for."""
    return vector_folder(tmp_path_factory.mktemp("site"))


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
