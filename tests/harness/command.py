"""The command line: run to its end, or only understood."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rawservers.cli import configure, parse
from rawservers.settings import Config
from tests.harness.needs import ROOT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rawservers", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)


def asked(*arguments: str | Path, **inherited: Sequence[int]) -> Config:
    """The Config that such a command line comes to."""
    args = parse(list(map(str, arguments)))
    return configure(args, inherited, Path(args.config).read_bytes() if args.config else b"")
