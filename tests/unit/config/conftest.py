"""Fixtures of the tests of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the configuration file is written."""
    return tmp_path / "conf.toml"
