"""Fixtures of the tests that start real servers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.supervisor import CONTENT, LARGE, configure


@pytest.fixture
def public() -> Iterator[Path]:
    """As `folder`, but other users can reach it, and its parent. Each run of pytest closes the parent of all `tmp_path`s."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "www"
        root.mkdir()
        for each in (root, root.parent):
            each.chmod(0o755)
        (root / "f").write_bytes(CONTENT)
        yield root


@pytest.fixture
def conf(tmp_path: Path, folder: Path) -> Path:
    """A configuration file: both services on free ports, serving `folder`."""
    path = tmp_path / "conf.toml"
    configure(path, folder)
    (folder / "large").touch()
    os.truncate(folder / "large", LARGE)
    return path
