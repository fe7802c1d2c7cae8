"""Fuzzing for about a minute a target; `python3 -m tests.fuzz` goes on for longer."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.fuzz import NAMES
from tests.harness.needs import ROOT, unable

RUNS = {"chunked": 60_000, "configuration": 15_000, "memory": 30_000, "proxy": 60_000, "tls": 6000}  # by target, about a minute
MINUTE = 15_000  # of any other


def fuzz(name: str, runs: int, **variables: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("atheris") is None:
        unable("atheris is missing: it is there for x86-64 only")
    command = [sys.executable, "-m", "tests.fuzz", name, "--runs", str(runs), "--seed", "1"]
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | variables
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NAMES)
def test_no_input_fails(name: str) -> None:
    runs = RUNS.get(name, MINUTE)
    done = fuzz(name, runs)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(rf"Done {runs} runs in \d+ second", done.stdout)


@pytest.mark.slow
def test_an_input_that_fails_is_shown() -> None:
    """With a limit of lines that no input keeps."""
    done = fuzz("head", 100, FUZZ_LINES="-1000000")
    assert done.returncode == 1
    assert "TooManyLines" in done.stdout
    assert re.search(r"\ncrash: b['\"].*['\"]\n", done.stdout)
