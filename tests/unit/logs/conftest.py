"""Fixtures of the tests of the logs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.needs import need


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("only root can mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run([need("mount"), "-t", "tmpfs", "-o", "size=64k", "small", path], check=True)
    try:
        yield path
    finally:
        subprocess.run([need("umount"), "-l", path], check=True)
