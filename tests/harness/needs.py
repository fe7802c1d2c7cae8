"""What tests need of the machine: the checkout, real clients, rights.

A test without is skipped. In CI it fails, unless it is without what only root can have.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"  # haproxy, nginx and ip are there, and not in everybody's PATH


def need(command: str) -> str:
    """The path of a real client; without it the test is skipped, in CI it fails."""
    path = shutil.which(command, path=os.environ.get("PATH", os.defpath) + SYSTEM)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{command} is missing")
        pytest.skip(f"{command} is missing")
    return path


def need_root(why: str) -> None:
    """Without root the test is skipped, in CI as well."""
    if os.geteuid() != 0:
        pytest.skip(f"only root can {why}")


def unable(why: str) -> NoReturn:
    """Skip, visibly; in CI, fail."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
