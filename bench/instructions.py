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
from typing import TypeAlias

from bench.install import ROOT, forget_python_settings, install_commands, interpreter
from bench.servers import free_port

FEW, MANY = 200, 1200
DEADLINE = 60.0  # seconds, for a server under valgrind to come up, and for an answer
OLD = 1_000_000_000  # when the file was last changed: long ago
GET = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"
LINE = b"x" * 62 + b"\r\n"
SERVE = """
import logging
import sys
from rawservers import serve
from rawservers.cli import configure, parse
from rawservers.core import loop

loop.TICK = loop.SHORT = 20.0  # seconds: no ticks, and no books of slow wakes, which depend on the time
logging.basicConfig(level=logging.INFO)
service, port, folder = sys.argv[1:]
serve(configure(parse([f"--{service}", f"127.0.0.1:{port}", "--access-log", f"{folder}/log", folder])))
"""


def kept(port: int, pid: int, times: int, said: bytes) -> None:
    """Exchanges on one connection."""
    with connect(port) as sock:
        for _ in range(times):
            exchange(sock, said)


def each(port: int, pid: int, times: int, said: bytes) -> None:
    """Exchanges on a connection each. The server is stopped meanwhile, so that it finds connection and request together."""
    for _ in range(times):
        os.kill(pid, signal.SIGSTOP)
        with connect(port) as sock:
            sock.sendall(said)
            os.kill(pid, signal.SIGCONT)
            while sock.recv(65536):
                pass


Drive: TypeAlias = Callable[[int, int, int, bytes], None]
WORKS: dict[str, tuple[str, Drive, bytes]] = {
    "kept GET": ("http", kept, GET),
    "new connection": ("http", each, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")),
    "Telnet line": ("telnet", kept, LINE),
}


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), DEADLINE)


def exchange(sock: socket.socket, said: bytes) -> None:
    sock.sendall(said)
    if not sock.recv(65536):
        raise ConnectionError("no answer")


def count(tree: Path, service: str, drive: Drive, said: bytes, times: int) -> int:
    """The instructions of a whole run with so many exchanges."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(b"x" * 1024)
        os.utime(path, (OLD, OLD))
        port = free_port()
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", interpreter(), "-c", SERVE, service]
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        process = subprocess.Popen([*command, str(port), folder], cwd=tree, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        for line in process.stderr:
            if " listening on " in line or "Traceback" in line:
                break
        drive(port, process.pid, 20, said)
        drive(port, process.pid, times, said)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        process.wait(DEADLINE)
    match = re.search(r"Collected : (\d+)", rest)
    if match is None:
        raise RuntimeError(rest)
    return int(match[1])


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m bench.instructions", description="instructions, as callgrind counts them")
    parser.add_argument("trees", nargs="*", type=Path, metavar="TREE", default=[ROOT], help="a checkout (default: this one)")
    trees = [tree.resolve() for tree in parser.parse_args().trees]
    forget_python_settings()
    install_commands({"valgrind": "valgrind"})
    if shutil.which("valgrind") is None:
        sys.exit("bench.instructions: valgrind is not installed")
    for tree in trees:  # or the first run would count the compiler's instructions
        subprocess.run([interpreter(), "-m", "compileall", "-q", tree / "rawservers"], check=True)
    for name, (service, drive, said) in WORKS.items():
        counts = [
            (count(tree, service, drive, said, MANY) - count(tree, service, drive, said, FEW)) / (MANY - FEW) for tree in trees
        ]
        print(name, *(f"{number:,.0f} ({number / counts[0]:.3f})" for number in counts), sep="\t", flush=True)


if __name__ == "__main__":
    main()
