"""A minute of what `python3 -m bench.soak` does for a quarter of an hour."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.harness.needs import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_minute_of_everything() -> None:
    command = [sys.executable, "-m", "bench.soak", "--minutes", "1", "--reload", "10", "--clients", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "5 reloads" in done.stdout
    assert done.stdout.endswith("nothing is wrong\n")
