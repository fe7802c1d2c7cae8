"""Instructions per request, line and connection, as callgrind counts them: python3 -m bench.instructions [TREE]...

A count does not depend on what else the machine does, so that a small difference between two checkouts can be told. Each TREE
(default: this checkout) serves a few exchanges, then many more, under valgrind; the difference is divided by how many more.
The ratio is to the first tree.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from bench.install import ROOT, forget_python_settings, install_commands, interpreter

FEW, MANY = 200, 1200
TOGETHER = 8  # requests or connections that the server finds when it wakes
FILES = 64  # each asked for in turn
WARM = 2 * FILES  # exchanges before any is counted
DEADLINE = 60.0  # seconds, for a server under valgrind to come up, and for an answer
OLD = 1_000_000_000  # when the files were last changed: long ago
SERVE = """
import logging
import sys
from rawservers import serve
from rawservers.cli import configure, parse
from rawservers.core import loop

loop.TICK = loop.SHORT = 20.0  # seconds: no ticks, and no books of slow wakes, which depend on the time
logging.basicConfig(level=logging.INFO)
service, folder = sys.argv[1:]
serve(configure(parse([f"--{service}", "127.0.0.1:0", "--access-log", f"{folder}/log", folder])))
"""


Message: TypeAlias = Callable[[int], bytes]  # what is sent, by its number


def kept(port: int, pid: int, times: int, message: Message) -> None:
    """Exchanges on one connection."""
    with connect(port) as sock:
        for number in range(times):
            sock.sendall(message(number))
            receive(sock)


def together(port: int, pid: int, times: int, message: Message) -> None:
    """Exchanges on several connections. The server is stopped meanwhile, so that it finds several requests when it wakes."""
    socks = [connect(port) for _ in range(TOGETHER)]
    for number in range(0, times, TOGETHER):
        os.kill(pid, signal.SIGSTOP)
        for place, sock in enumerate(socks):
            sock.sendall(message(number + place))
        os.kill(pid, signal.SIGCONT)
        for sock in socks:
            receive(sock)
    for sock in socks:
        sock.close()


def each(port: int, pid: int, times: int, message: Message) -> None:
    """Exchanges on a connection each, several of which the server finds when it wakes, with their requests."""
    for number in range(0, times, TOGETHER):
        os.kill(pid, signal.SIGSTOP)
        socks = [connect(port) for _ in range(TOGETHER)]
        for place, sock in enumerate(socks):
            sock.sendall(message(number + place))
        os.kill(pid, signal.SIGCONT)
        for sock in socks:
            receive(sock)
            while sock.recv(65536):
                pass
            sock.close()


Drive: TypeAlias = Callable[[int, int, int, Message], None]


class Work(NamedTuple):
    service: str
    drive: Drive
    message: Message


WORKS = {
    "kept GET": Work("http", kept, lambda number: b"GET /0 HTTP/1.1\r\nHost: h\r\n\r\n"),
    "another file": Work("http", together, lambda number: b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % (number % FILES)),
    "another header": Work("http", together, lambda number: b"GET /0 HTTP/1.1\r\nHost: h\r\nCookie: %d\r\n\r\n" % number),
    "new connection": Work("http", each, lambda number: b"GET /0 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
    "Telnet line": Work("telnet", kept, lambda number: b"x" * 62 + b"\r\n"),
    "Telnet lines": Work("telnet", together, lambda number: b"x" * 62 + b"\r\n"),
}


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), DEADLINE)


def receive(sock: socket.socket) -> None:
    if not sock.recv(65536):
        raise ConnectionError("no answer")


def count(tree: Path, work: Work, python: str, times: int) -> int:
    """The instructions of a whole run with so many exchanges, under this Python."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(FILES):
            path = Path(folder) / str(number)
            path.write_bytes(b"x" * 1024)
            os.utime(path, (OLD, OLD))
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", python, "-c", SERVE, work.service]
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        command.append(folder)
        with subprocess.Popen(command, cwd=tree, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            try:
                port = 0
                while not port and (line := process.stderr.readline()):
                    if match := re.search(r" listening on .*127\.0\.0\.1:(\d+)", line):
                        port = int(match[1])
                work.drive(port, process.pid, WARM, work.message)
                work.drive(port, process.pid, times, work.message)
                process.send_signal(signal.SIGTERM)
                rest = process.stderr.read()
            finally:
                process.kill()  # if the client has failed, while the server was stopped, perhaps
    match = re.search(r"Collected : (\d+)", rest)
    if match is None:
        raise RuntimeError(rest)
    return int(match[1])


def per_exchange(tree: Path, work: Work, python: str) -> float:
    """The instructions of one exchange."""
    return (count(tree, work, python, MANY) - count(tree, work, python, FEW)) / (MANY - FEW)


def compile_package(tree: Path, python: str) -> None:
    """Compile the package, or the first run would count the compiler's instructions."""
    subprocess.run([python, "-m", "compileall", "-q", tree / "rawservers"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m bench.instructions", description="instructions, as callgrind counts them")
    parser.add_argument("trees", nargs="*", type=Path, metavar="TREE", default=[ROOT], help="a checkout (default: this one)")
    trees = [tree.resolve() for tree in parser.parse_args().trees]
    forget_python_settings()
    install_commands({"valgrind": "valgrind"})
    if shutil.which("valgrind") is None:
        sys.exit("bench.instructions: valgrind is not installed")
    python = interpreter()
    for tree in trees:
        compile_package(tree, python)
    for name, work in WORKS.items():
        counts = [per_exchange(tree, work, python) for tree in trees]
        print(name, *(f"{number:,.0f} ({number / counts[0]:.3f})" for number in counts), sep="\t", flush=True)


if __name__ == "__main__":
    main()
