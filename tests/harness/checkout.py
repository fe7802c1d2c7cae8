"""Copies of the checkout, to build in: without what building or testing has left in it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.harness.needs import ROOT, need, unable


def tracked_files() -> list[str]:
    """The files of the checkout, those included that are not committed yet, and without those that git ignores."""
    git = (need("git"), "-c", "safe.directory=*", "-C", str(ROOT))  # it may be another user's
    done = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True
    )
    if done.returncode:
        unable(f"git does not know this checkout: {done.stderr}")
    return sorted({name for name in done.stdout.split("\0") if name and (ROOT / name).exists()})


def copy_checkout(target: Path) -> Path:
    """Copy these files, links as links."""
    for name in tracked_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target
