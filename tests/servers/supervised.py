"""The command, with answers in code besides, and quicker in all that it does by the clock: for the tests of the supervisor.

python3 -m tests.servers.supervised ARGUMENTS OF THE COMMAND
"""

import contextlib
import gc
import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from rawservers import Config, Request, Response, cli
from rawservers.config import source
from rawservers.core.record import replace
from rawservers.daemon import startup, worker

QUICK = {
    "core.loop.TICK": 0.1,
    "daemon.child.TICK": 0.1,
    "daemon.supervisor.SETTLE_TIME": float(os.environ.get("SETTLE_TIME", "0.1")),
    "daemon.transitions.KILL_DELAY": float(os.environ.get("KILL_DELAY", "0.3")),
    "daemon.transitions.START_TIME": float(os.environ.get("START_TIME", "30")),
}
CONFIGURE = cli.configure
WORKER = worker.Worker
READ_VERSION = source.read_version


def pid(request: Request) -> Response:
    """Which process serves."""
    return Response(200, [("Content-Type", "text/plain")], str(os.getpid()).encode())


def environment(request: Request) -> Response:
    """The names in its environment."""
    return Response(200, [("Content-Type", "text/plain")], "\n".join(os.environ).encode())


def endless(request: Request) -> Response:
    for _ in itertools.repeat(None):
        pass
    raise AssertionError


def deaf(request: Request) -> Response:
    """The same, with all signals blocked that can be."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return endless(request)


def slow(request: Request) -> Response:
    """Holds the loop for a while: for longer, if it is asked for at /very-slow."""
    time.sleep(1.1 if request.path == "/very-slow" else 0.3)
    return Response(200)


HANDLERS = {
    "/pid": pid, "/environment": environment, "/endless": endless, "/deaf": deaf, "/slow": slow, "/very-slow": slow,
    "/collections": lambda request: Response(200, [], repr([*gc.get_threshold(), *gc.callbacks]).encode()),
}  # fmt: skip


def begin(resources: startup.Resources, *more: Any) -> worker.Worker:
    """A worker; but none if the variable BROKEN names a file, as soon as that says "now".

    With a folder behind that word, only those are meant that are to serve it. "stop" stops the supervisor once, instead.
    """
    flag = Path(os.environ.get("BROKEN", "none"))
    with contextlib.suppress(FileNotFoundError):
        while True:
            when, _, folder = flag.read_text().partition(" ")
            if folder not in ("", resources.config.sites[0].root):
                break
            if when == "now":
                raise startup.CannotStart("cannot start: it is broken")
            if when == "stop":
                flag.unlink()
                os.kill(os.getppid(), signal.SIGSTOP)
                break
            time.sleep(0.01)
    return WORKER(resources, *more)


class Editor:
    """Writes the configuration file in pieces, one before each time that it is read, however long the readers wait.

    The variable EDITOR names a file with a pattern of the places between the pieces. As long as there is none, nothing is
    written. An empty pattern: the file is whole, and has another comment each time.
    """

    def __init__(self) -> None:
        self._contents: Iterator[str | None] | None = None  # of the file; None: what it was

    def read_version(self, path: str) -> tuple[source.Version, bytes]:
        with contextlib.suppress(FileNotFoundError):
            pattern = Path(os.environ.get("EDITOR", "none")).read_text()
            self._contents = self._contents or edited(Path(path).read_text(), pattern)
            content = next(self._contents)
            if content is not None:
                Path(path).write_text(content)
        return READ_VERSION(path)


def edited(text: str, pattern: str) -> Iterator[str | None]:
    if not pattern:
        yield from (f"{text}# {number}\n" for number in itertools.count())
    while True:
        yield from itertools.accumulate(re.split(pattern, text))
        yield None  # whole, it stays for a second look


def configure(*said: Any) -> Config:
    """With the functions, and with the variable STUCK_TIME, which may be less than a file may say."""
    config = replace(
        CONFIGURE(*said),
        handlers=tuple(HANDLERS.items()),
    )
    stuck_time = os.environ.get("STUCK_TIME")
    return replace(config, stuck_time=float(stuck_time)) if stuck_time else config


if __name__ == "__main__":
    for name, seconds in QUICK.items():
        mock.patch(f"rawservers.{name}", seconds).start()
    mock.patch.object(source, "read_version", Editor().read_version).start()
    mock.patch.object(worker, "Worker", begin).start()
    mock.patch.object(cli, "configure", configure).start()
    sys.exit(cli.main())
