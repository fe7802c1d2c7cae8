"""The command line: run to its end, or only understood."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rawservers.cli import configure, parse
from rawservers.settings import Config
from tests.harness.needs import ROOT


def run(*arguments: str | Path, before: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """before: a piece of Python that the process runs first, which changes what the command inherits."""
    command = [sys.executable, "-m", "rawservers", *map(str, arguments)]
    if before:
        command = [sys.executable, "-c", f"import os, sys\n{before}\nos.execv(sys.argv[1], sys.argv[1:])", *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options: dict[str, Any] = {"cwd": cwd, "env": environment, "stdin": subprocess.DEVNULL, "timeout": 20}
    return subprocess.run(command, capture_output=True, text=True, **options)


def asked(*arguments: str | Path, **inherited: Sequence[int]) -> Config:
    """The Config that such a command line comes to."""
    args = parse(list(map(str, arguments)))
    return configure(args, inherited, Path(args.config).read_bytes() if args.config else b"")
