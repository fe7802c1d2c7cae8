"""What `rawservers --status` says without an address while no server, one, and two are running, as a JSON array.

To be run where no other server is: unshare --map-root-user --pid --fork --mount-proc python3 -m tests.harness.status_of_own
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

from tests.harness.server import Server


def ask(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "rawservers", "--status", *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def main() -> None:
    found = [ask()]
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Server("--http", "0", "--telnet", "off", "--workers", "2"))
        first.address("http")
        found += [ask(), ask("--format", "json")]
        second = stack.enter_context(Server("--http", "0", "--bind", "127.0.0.1"))
        second.address("http")
        found += [ask(), ask(f"pid:{first.process.pid}"), ask(f"pid:{first.pid}")]
        pids = first.process.pid, second.process.pid, first.pid
    print(json.dumps([*found, *pids]))


if __name__ == "__main__":
    main()
