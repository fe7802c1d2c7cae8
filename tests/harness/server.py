"""A real server process: it is started, talked to, looked at and ended. Every wait has a deadline."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.process import cpu_seconds
from bench.servers import strange
from tests.harness.needs import ROOT
from tests.harness.processes import children, memory, opened
from tests.harness.sockets import receive_all
from tests.harness.waiting import DEADLINE, until


class Server:
    """`python -m MODULE ARGUMENTS`, `python -c PROGRAM` or another `command`, from its first line to its last."""

    def __init__(
        self,
        *arguments: str | Path,
        module: str = "rawservers",
        program: str = "",
        command: Sequence[str | Path] = (),
        before: Sequence[str] = (),
        may_fail: bool = False,
        **popen: object,
    ) -> None:
        self.may_fail = may_fail  # whether a traceback on its standard error is no surprise
        self._addresses: dict[str, tuple[str, int]] = {}
        self.process = subprocess.Popen(
            [*before, *(command or (sys.executable, *(("-c", program) if program else ("-m", module)))), *map(str, arguments)],
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
        return strange(self.stderr())

    def log(self) -> list[str]:
        """The access log's lines so far."""
        self.pump()
        return self._read[self._stdout].decode().splitlines()

    def await_log(self, count: int) -> list[str]:
        until(lambda: len(self.log()) >= count, f"{count} lines of log")
        return self.log()

    def settled_log(self, before: bytes = b"", service: str = "http") -> int:
        """The number of lines of the access log, once it has all responses so far. For a single worker.

        before: what it expects before a request.
        """
        request = f"GET /settled-{len(self.log())}-{time.monotonic_ns()}"
        exchange(self, before + request.encode() + b"\r\n", service)
        until(lambda: any(request in line for line in self.log()), "its line in the log")
        return len(self.log())

    def address(self, service: str) -> tuple[str, int]:
        """Where it says that `service` listens."""
        if service not in self._addresses:
            line = re.compile(rf"^{service} listening on (?:https?://)?(.*?):([0-9]+)(?:/? .*)?$", re.MULTILINE)
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
        found = list(opened(self.pid).values())
        assert found, "the server has ended"
        return found

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of memory: VmRSS now, VmHWM at its peak."""
        return memory(self.pid, field)

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return cpu_seconds(self.pid)

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
        return int(self.process.returncode)

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


def exchange(server: Server, data: bytes, service: str = "http") -> bytes:
    """All that comes back for `data` and a FIN."""
    with server.connect(service) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)
