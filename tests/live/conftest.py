"""Fixtures of the tests that start real servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness.supervisor import LARGE, configure


@pytest.fixture
def conf(tmp_path: Path, folder: Path) -> Path:
    """A configuration file: both services on free ports, serving `folder`."""
    path = tmp_path / "conf.toml"
    configure(path, folder)
    (folder / "large").touch()
    os.truncate(folder / "large", LARGE)
    return path
