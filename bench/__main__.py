"""rawservers and nginx, side by side: python3 -m bench [--rounds N] [--seconds S] [WORK]...

These machines are shared and noisy, so a figure alone says little. What is printed are medians over several rounds, in each
of which every server has its turn, and their ratios. One worker process each, access logs on, wrk as the client, all on
loopback. nginx and wrk are installed with apt where they are missing and this runs as root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OURS = "rawservers"

NGINX = """
daemon off; worker_processes 1; pid {base}/nginx.pid; error_log {base}/nginx.error;
events {{ worker_connections 20000; }}
http {{
    include /etc/nginx/mime.types; sendfile on; tcp_nopush on; access_log {base}/nginx.access;
    client_body_temp_path {base}/t1; proxy_temp_path {base}/t2; fastcgi_temp_path {base}/t3;
    uwsgi_temp_path {base}/t4; scgi_temp_path {base}/t5; {extra}
    server {{ listen 127.0.0.1:{port}; root {base}/www; }}
}}
"""
SERVERS = {
    OURS: None,
    "nginx": "",
    "nginx, open_file_cache": "open_file_cache max=20000 inactive=60s; open_file_cache_valid 60s;",
}


class Work(NamedTuple):
    """path: the file; connections: of wrk; headers: of each request; unit: requests or bytes per second."""

    path: str
    connections: int = 64
    headers: tuple[str, ...] = ()
    unit: str = "requests/s"


WORKS = {
    "1 KiB, kept": Work("1k"),
    "1 KiB, a connection each": Work("1k", headers=("Connection: close",)),
    "100 KiB, kept": Work("100k"),
    "100 MiB, 4 connections": Work("100m", 4, unit="bytes/s"),
}


def install() -> None:
    missing = [package for command, package in (("nginx", "nginx-light"), ("wrk", "wrk")) if shutil.which(command) is None]
    if not missing:
        return
    if os.geteuid() != 0:
        sys.exit(f"bench: install {' and '.join(missing)} first")
    subprocess.run(["apt-get", "update", "-qq"], check=False)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=True)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(name: str, base: Path) -> Iterator[str]:
    """The address of a server of `name` that serves base/www."""
    port = free_port()
    extra = SERVERS[name]
    if extra is None:
        log = base / "rawservers.access"
        command = [sys.executable, "-m", OURS, base / "www", "--http", str(port), "--telnet", "off", "--access-log", log]
    else:
        config = base / f"nginx-{port}.conf"
        config.write_text(NGINX.format(base=base, port=port, extra=extra))
        command = ["nginx", "-c", config]
    with open(base / "errors", "ab") as errors, subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=errors) as process:
        try:
            await_port(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def measure(address: str, work: Work, seconds: int) -> float:
    headers = [word for header in work.headers for word in ("-H", header)]
    command = ["wrk", "-t1", f"-c{work.connections}", f"-d{seconds}s", *headers, f"{address}/{work.path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or re.search(r"Socket errors: .*(connect|read|write) [1-9]", said):
        raise RuntimeError(said)
    if work.unit == "bytes/s":
        match = re.search(r"Transfer/sec:\s+([\d.]+)([KMG]?)B", said)
        assert match
        return float(match[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[match[2]]
    match = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert match
    return float(match[1])


def fill(www: Path) -> None:
    www.mkdir()
    for name, size in (("1k", 1 << 10), ("100k", 100 << 10), ("100m", 100 << 20)):
        (www / name).write_bytes(os.urandom(size))
    for path in (www, *www.iterdir()):
        os.utime(path, (1_000_000_000, 1_000_000_000))


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m bench", description="rawservers and nginx, side by side")
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"one or more of: {'; '.join(WORKS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    said = parser.parse_args()
    if unknown := set(said.works) - set(WORKS):
        parser.error(f"no such work: {', '.join(unknown)}")
    install()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        base.chmod(0o755)  # nginx's worker is another user
        fill(base / "www")
        for name in said.works or WORKS:
            compare(name, base, said.rounds, said.seconds)


def compare(name: str, base: Path, rounds: int, seconds: int) -> None:
    """Print a row for each server at the work of this name."""
    work = WORKS[name]
    figures: dict[str, list[float]] = {server: [] for server in SERVERS}
    with contextlib.ExitStack() as stack:
        addresses = {server: stack.enter_context(running(server, base)) for server in SERVERS}
        for address in addresses.values():
            measure(address, work, 1)  # warm
        for _ in range(rounds):
            for server, address in addresses.items():
                figures[server].append(measure(address, work, seconds))
    ours = statistics.median(figures[OURS])
    print(f"\n{name} ({work.unit}, median of {rounds} rounds)")
    for server, found in figures.items():
        median = statistics.median(found)
        ratio = "" if server == OURS else f"   rawservers is {ours / median:.2f} of it"
        print(f"  {server:24}{median:15,.0f}{ratio}", flush=True)


if __name__ == "__main__":
    main()
