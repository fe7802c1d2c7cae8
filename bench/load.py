"""The clients: wrk for HTTP, a C program for lines, and plain sockets that only hold a connection open."""

from __future__ import annotations

import re
import resource
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
DEADLINE = 20.0  # seconds, for an answer
PER_ADDRESS = 20000  # connections from one source address, which has 28,000 ephemeral ports


class Load(NamedTuple):
    """What a client says of one run. rates: by unit, per second; answered: requests or lines; failed: requests that were
    refused or lost; busy: the share of a processor that the client itself took."""

    rates: dict[str, float]
    answered: int
    failed: int
    busy: float = 0.0


class Latency(NamedTuple):
    """What the open-loop client says of one run. due, answered: requests or lines; p50, p99, p999, longest: seconds from when
    one was due to its whole answer, infinite if that never came; late: the 99th percentile of the client's own delay, in
    seconds; busy: as in `Load`."""

    due: int
    answered: int
    p50: float
    p99: float
    p999: float
    longest: float
    late: float
    busy: float = 0.0


class Failed(Exception):
    """What went wrong with a client, in one line."""


def run(command: Sequence[object], seconds: int) -> tuple[str, float]:
    """What `command` prints, and the share of a processor it takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words, limit = [str(word) for word in command], seconds + DEADLINE
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{words[0]}: no end after {limit:.0f} seconds") from error
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise Failed(f"{command[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / seconds


def wrk(
    url: str, seconds: int, connections: int, headers: Sequence[str] = (), script: object = "", arguments: Sequence[object] = ()
) -> Load:
    """Ask for `url` again and again, or for what `script` says."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    for header in headers:
        command += ["-H", header]
    said, busy = run([*command, *(["-s", script] if script else []), url, "--", *arguments], seconds)
    return read_wrk(said)._replace(busy=busy)


def read_wrk(said: str) -> Load:
    """What wrk prints, read."""
    count = re.search(r"(\d+) requests in ", said)
    requests = re.search(r"Requests/sec:\s+([\d.]+)", said)
    transfer = re.search(r"Transfer/sec:\s+([\d.]+)([KMG]?)B", said)
    if not (count and requests and transfer):
        raise Failed(f"wrk said: {said.strip()}")
    lost = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    failed = sum(map(int, lost.groups())) if lost else 0
    failed += int(refused[1]) if refused else 0
    return Load({"requests/s": float(requests[1]), "bytes/s": float(transfer[1]) * UNITS[transfer[2]]}, int(count[1]), failed)


def resume(port: int, path: str, seconds: int) -> Load:
    """Ask for `path` on connections that resume one TLS session."""
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-reuse", "-www", path, "-time", seconds]
    begin = time.monotonic()
    said, busy = run(command, seconds)
    taken = time.monotonic() - begin  # until its clock, of whole seconds, has gone beyond `seconds`
    match = re.search(r"\n(\d+) connections in (\d+) real seconds", said.partition("starting")[2])
    if match is None or "*" in said.partition("starting")[2].partition("\n\n")[0].lstrip("r"):
        raise Failed(f"s_time said: {said.strip()[-200:]}")
    return Load({"requests/s": int(match[1]) / taken, "bytes/s": 0.0}, int(match[1]), 0, busy * seconds / taken)


def lines(program: object, port: int, seconds: int, connections: int, in_flight: int) -> Load:
    """Send lines to an echo, as many under way as is said, with the compiled echo_load.c."""
    said, busy = run([program, port, connections, in_flight, seconds], seconds)
    return read_lines(said)._replace(busy=busy)


def read_lines(said: str) -> Load:
    """What echo_load prints, read."""
    match = re.fullmatch(r"lines (\d+) seconds ([\d.]+)\n", said)
    if match is None:
        raise Failed(f"echo_load said: {said.strip()}")
    count, seconds = int(match[1]), float(match[2])
    return Load({"lines/s": count / seconds}, count, 0)


def paced(program: object, kind: str, port: int, connections: int, per_second: float, seconds: int, path: str) -> Latency:
    """Ask on a schedule, whether the answers come or not, with the compiled paced_load.c."""
    said, busy = run([program, port, kind, connections, f"{per_second:.3f}", seconds, path], seconds)
    return read_paced(said)._replace(busy=busy)


def read_paced(said: str) -> Latency:
    """What paced_load prints, read."""
    match = re.fullmatch(r"due (\d+) answered (\d+) p50 (\S+) p99 (\S+) p999 (\S+) max (\S+) late (\S+)\n", said)
    if match is None:
        raise Failed(f"paced_load said: {said.strip()}")
    return Latency(int(match[1]), int(match[2]), *map(float, match.groups()[2:]))


# Single exchanges


def ask(
    port: int, path: str, headers: Sequence[str] = (), context: ssl.SSLContext | None = None
) -> tuple[int, dict[str, str], int]:
    """The status, the fields and the length of the body of one answer. context: for one over TLS."""
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    if context:
        connection = HTTPSConnection("127.0.0.1", port, timeout=DEADLINE, context=context)
    try:
        connection.request("GET", path, headers=dict(header.split(": ", 1) for header in headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, len(answer.read())
    except HTTPException as error:
        raise Failed(f"no answer: {error!r}") from error
    finally:
        connection.close()


def validators(port: int, path: str) -> list[str]:
    """The header lines with which a client that has `path` asks whether it has changed, as this server takes them."""
    _, fields, _ = ask(port, path)
    pairs = (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified"))
    return [f"{name}: {fields[validator]}" for name, validator in pairs if validator in fields]


class Idle:
    """Connections on which `path` was asked for once, and that are kept since. context: for those with TLS."""

    def __init__(self, port: int, path: str, count: int, context: ssl.SSLContext | None = None) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self._socks: list[socket.socket] = []
        try:
            for number in range(count):
                source = f"127.0.0.{number // PER_ADDRESS + 1}"
                sock = socket.create_connection(("127.0.0.1", port), DEADLINE, (source, 0))
                self._socks.append(context.wrap_socket(sock, server_hostname="127.0.0.1") if context else sock)
                self._exchange(self._socks[-1])
        except (OSError, Failed):
            self.close()
            raise

    def _exchange(self, sock: socket.socket) -> None:
        sock.sendall(self._request)
        answer = sock.recv(65536)
        if not answer.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200")):
            raise Failed(f"an idle connection was answered: {answer[:80]!r}")

    def renew(self) -> None:
        """Ask once more on each, so that none has been idle for too long."""
        for sock in self._socks:
            self._exchange(sock)

    def held(self) -> int:
        """How many are still open."""
        return sum(map(is_open, self._socks))

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


def is_open(sock: socket.socket) -> bool:
    """Whether the peer has not closed it. Nothing unread may be waiting."""
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        sock.settimeout(DEADLINE)
