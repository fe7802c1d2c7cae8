"""What tests need of the machine: the checkout, real clients, rights. A test without is skipped; in CI it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]


def need(command: str) -> str:
    """The path of a real client; without it the test is skipped, in CI it fails."""
    path = shutil.which(command)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{command} is missing")
        pytest.skip(f"{command} is missing")
    return path


def unable(why: str) -> NoReturn:
    """Skip, visibly; in CI, fail."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
