"""Fixtures of the tests of the logs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.needs import need, need_root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    need_root("mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run([need("mount"), "-t", "tmpfs", "-o", "size=64k", "small", path], check=True)
    try:
        yield path
    finally:
        subprocess.run([need("umount"), "-l", path], check=True)
