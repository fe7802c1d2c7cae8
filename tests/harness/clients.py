"""Real HTTP clients: run to their end, and counted by what the server saw of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rawservers import status
from tests.harness.server import Server
from tests.harness.waiting import DEADLINE, until

# The variables of this process that clients are given: none that would lead them to a proxy or to somebody's settings.
INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR")


class Entry(NamedTuple):
    """A line of the access log. size: bytes of the body."""

    line: str
    status: int
    size: int


def run(
    *command: str | Path,
    stdin: bytes | None = None,
    status: int = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> bytes:
    """What a command writes to its standard output. It must end in time, and with this exit status."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=DEADLINE, env=env, cwd=cwd)
    assert done.returncode == status, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def private(home: Path, **variables: str | Path) -> dict[str, str]:
    """The environment of a client that is to read and write no settings and caches but those in `home`, which is made."""
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return kept | {"HOME": str(home)} | {name: str(value) for name, value in variables.items()}


def files_below(folder: Path) -> dict[str, bytes]:
    """What a client has made there: each file, by its name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries(lines: list[str]) -> list[Entry]:
    """Lines of an access log in the combined format."""
    found = (re.search(r'"(.*?)" (\d+) (\d+) ', line) for line in lines)
    return [Entry(match[1], int(match[2]), int(match[3])) for match in found if match]


def logged(server: Server, count: int) -> list[Entry]:
    """The entry of each answer: exactly `count` of them."""
    lines = server.await_log(count)
    assert len(lines) == count, lines
    return entries(lines)


@contextlib.contextmanager
def serving(root: Path, *settings: str) -> Iterator[Server]:
    """A server of `root` with listings, and with a status service for `traffic`. settings: further lines below [http]."""
    path = root.with_name(f"{root.name}.toml")
    listeners = [f'[[listen]]\nservice = "{service}"\naddress = "127.0.0.1:0"' for service in ("http", "status")]
    path.write_text("\n".join([*listeners, "[http]", f'root = "{root}"', "listing = true", *settings, ""]))
    with Server("-c", path) as server:
        server.address("status")
        yield server


class Traffic(NamedTuple):
    """What clients have asked for. connections: how many they opened, in all."""

    entries: list[Entry]
    connections: int

    def count(self, status: int, method: str = "") -> int:
        """The answers with this status, to requests of this method."""
        return sum(entry.status == status and entry.line.startswith(method) for entry in self.entries)

    def size(self) -> int:
        """Bytes of all bodies."""
        return sum(entry.size for entry in self.entries)


def traffic(server: Server, skip: int = 0) -> Traffic:
    """Since the start of a server, but for the first `skip` answers. Waits until each connection is closed."""
    seen: dict[str, Any] = {}

    def is_quiet() -> bool:
        seen.update(json.loads(status.fetch("{}:{}".format(*server.address("status")), "json")))
        return not any(seen["connections"]["http"].values())

    until(is_quiet, "the end of all connections")
    counters = seen["counters"]["http"]
    return Traffic(logged(server, counters["answers"])[skip:], counters["accepted"])
