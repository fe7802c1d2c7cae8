"""A supervisor with its workers, quicker in all that it does by the clock: started, configured, asked, robbed of workers."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from tests.harness.http_client import request, take_answer
from tests.harness.processes import has_ended
from tests.harness.server import Server
from tests.harness.waiting import DEADLINE, until

CONTENT = b"content of f\n"
LARGE = 32 << 20  # bytes: more than the kernel holds for a client that does not read


def supervise(*arguments: str | Path, workers: int = 2, **options: Any) -> Server:
    """The command with `tests.servers.supervised` around it, on free ports."""
    return Server(*arguments, "--workers", str(workers), module="tests.servers.supervised", **options)


def configure(path: Path, root: Path, **more: object) -> None:
    """more: further keys at the top, or under limits, http, or listen."""
    sections = {name: more.pop(name) for name in ("listen", "limits") if name in more}
    listen = sections.get("listen", (("http", "127.0.0.1:0"), ("telnet", "127.0.0.1:0")))
    lines = [f"{key} = {value}" for key, value in more.items()]
    lines += [f'[[listen]]\nservice = "{service}"\naddress = "{address}"' for service, address in listen]  # type: ignore[attr-defined]
    lines += ["[http]", f'root = "{root}"', "[limits]"]
    lines += [f"{key} = {value}" for key, value in sections.get("limits", {}).items()]  # type: ignore[attr-defined]
    path.write_text("\n".join(lines) + "\n")


def get(server: Server, path: str = "/f") -> bytes:
    """The body of an answer on a connection of its own."""
    with server.connect() as sock:
        sock.sendall(request(path))
        status, _, body = take_answer(sock)
        assert status == 200
        return body


def kill(server: Server, victim: int) -> tuple[float, float]:
    """When this worker was killed, and when it had ended for good."""
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    until(lambda: has_ended(victim), "its end")
    return killed, time.monotonic()


def replaced(server: Server, *victims: int, workers: int = 2) -> None:
    """Wait until others have taken their places."""
    until(lambda: len(server.workers()) == workers and not set(victims) & set(server.workers()), "other workers")


def ask(path: Path) -> bytes:
    """The body of an answer that comes by a unix socket; b"" if nobody listens there."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return b""
        sock.sendall(request("/f"))
        return take_answer(sock)[2]


def rotate(log: Path, number: int) -> None:
    log.rename(log.with_name(f"log.{number}"))
