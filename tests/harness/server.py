"""A real server process, and plain sockets to talk to it. Every wait has a deadline."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 20.0


def need(command: str) -> str:
    """The path of a real client; without it the test is skipped, in CI it fails."""
    path = shutil.which(command)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{command} is missing")
        pytest.skip(f"{command} is missing")
    return path


def children(pid: int) -> list[int]:
    """The process ids of the children of this one, oldest first; of one that has ended, none."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def until(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Poll until `condition` holds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        select.select([], [], [], 0.01)


class Server:
    """`python -m MODULE ARGUMENTS`, or `python -c PROGRAM`, from its first line to its last."""

    def __init__(
        self,
        *arguments: str | Path,
        module: str = "rawservers",
        program: str = "",
        before: Sequence[str] = (),
        may_fail: bool = False,
        **popen: object,
    ) -> None:
        self.may_fail = may_fail  # whether a traceback on its standard error is no surprise
        self._addresses: dict[str, tuple[str, int]] = {}
        self.process = subprocess.Popen(
            [*before, sys.executable, *(("-c", program) if program else ("-m", module)), *map(str, arguments)],
            cwd=ROOT,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen,  # type: ignore[call-overload]
        )
        self._stderr = self.process.stderr.fileno()
        self._stdout = self.process.stdout.fileno() if self.process.stdout else self._stderr
        self._read = {self._stdout: b"", self._stderr: b""}  # what it has written so far

    @property
    def pid(self) -> int:
        """The process that serves: the first worker, if there is a supervisor."""
        return next(iter(self.workers()), self.process.pid)

    def workers(self) -> list[int]:
        """The process ids of the workers, oldest first."""
        return children(self.process.pid)

    # What it says

    def pump(self, timeout: float = 0) -> None:
        """Take what it has written so far."""
        for fd in select.select(list(self._read), [], [], timeout)[0]:
            self._read[fd] += os.read(fd, 1 << 20)

    def stderr(self) -> str:
        self.pump()
        return self._read[self._stderr].decode()

    def complaints(self) -> list[str]:
        """The lines of its standard error that it does not begin with, wherever it listens and whoever starts it."""
        usual = re.compile(r"\w+ listening on |workers run as root")
        return [line for line in self.stderr().splitlines() if not usual.match(line)]

    def log(self) -> list[str]:
        """The access log's lines so far."""
        self.pump()
        return self._read[self._stdout].decode().splitlines()

    def await_log(self, count: int) -> list[str]:
        until(lambda: len(self.log()) >= count, f"{count} lines of log")
        return self.log()

    def address(self, service: str) -> tuple[str, int]:
        """Where it says that `service` listens."""
        if service not in self._addresses:
            line = re.compile(rf"^{service} listening on (?:http://)?(.*):([0-9]+)(?:/ .*)?$", re.MULTILINE)
            until(lambda: self.process.poll() is not None or line.search(self.stderr()) is not None, f"{service} listening")
            match = line.search(self.stderr())
            assert match, self.stderr()
            self._addresses[service] = match[1].strip("[]"), int(match[2])
        return self._addresses[service]

    @property
    def url(self) -> str:
        host, port = self.address("http")
        return f"http://{host}:{port}"

    def connect(self, service: str = "http", **options: int) -> socket.socket:
        sock = socket.create_connection(self.address(service), timeout=DEADLINE)
        if "rcvbuf" in options:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["rcvbuf"])
        return sock

    # What it takes

    def descriptors(self) -> list[str]:
        """What its descriptors are open on."""
        found = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(entry))
        return found

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of memory: VmRSS now, VmHWM at its peak."""
        match = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert match
        return int(match[1]) * 1024

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # Its end

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Its exit status, once it has ended by itself."""
        end = time.monotonic() + deadline
        while self.process.poll() is None:
            assert time.monotonic() < end, "the server does not end"
            self.pump(0.01)
        for fd in self._read:
            while data := os.read(fd, 1 << 20):
                self._read[fd] += data
        return self.process.returncode

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            if self.process.poll() is None:
                self.signal()
                self.wait()
            if failure[0] is None and not self.may_fail:
                assert "Traceback" not in self.stderr(), self.stderr()
        finally:
            self.process.kill()
            self.process.wait()
            for stream in filter(None, (self.process.stdout, self.process.stderr)):
                stream.close()


def receive_all(sock: socket.socket) -> bytes:
    """Everything until the peer's FIN. A RST is an error."""
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def receive_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = sock.recv(65536)
        assert more, f"FIN after {data!r}"
        data += more
    return data


def exchange(server: Server, data: bytes, service: str = "http") -> bytes:
    """All that comes back for `data` and a FIN."""
    with server.connect(service) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)
