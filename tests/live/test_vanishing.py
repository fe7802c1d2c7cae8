"""Peers that vanish without a word: neither FIN nor RST, and no acknowledgement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.harness.needs import ROOT, need, need_root, unable
from tests.harness.waiting import DEADLINE


def test_peers_that_vanish_are_given_up(tmp_path: Path) -> None:
    """A silent session, a client that has all, and one in the middle of a download, without a deadline of their own."""
    for command in ("ip", "nft"):
        need(command)
    apart = [need("unshare"), "--map-root-user", "--net"]
    if subprocess.run([*apart, "nft", "list", "tables"], capture_output=True).returncode:
        need_root("make a network here")
        unable("no network with nftables to be made here")
    whole = [*apart, sys.executable, "-m", "tests.harness.vanishing", str(tmp_path)]
    done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=3 * DEADLINE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["held"] == found["before"] + 3
    assert found["last"].endswith("content of f\n")
    assert found["complaints"] == []
