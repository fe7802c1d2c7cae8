"""Who is compared, and how each is started: one worker process, and the access log on where there is one.

All are left as they come otherwise, but for what the name says and where the files lie. nginx's main settings are those of
Debian's nginx.conf.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.install import ROOT, compile_c
from bench.process import tree

OURS = "rawservers"
BURDENED = "rawservers, 5,000 idle"
NGINX = "nginx"
CACHED = "nginx, open_file_cache"
LIGHTTPD = "lighttpd"
STANDARD = "http.server"
GRANIAN = "granian"
AIOHTTP = "aiohttp"
UVICORN = "uvicorn, starlette"
ASYNCIO = "asyncio"
UVLOOP = "uvloop"
EPOLL_C = "C, epoll"

DEADLINE = 20.0  # seconds, for a server to come up or to go
STARTUP = re.compile(r"workers run as root|\w+ listening on |limits\.connections |\s*$")  # what ours may say on stderr
PEERS = Path(__file__).resolve().parent / "peers"

NGINX_CONFIG = """
daemon off; worker_processes {workers}; pid {own}/pid; error_log {own}/error;
events {{ worker_connections 20000; }}
http {{
    include /etc/nginx/mime.types; default_type application/octet-stream;
    sendfile on; tcp_nopush on; access_log {own}/access;
    client_body_temp_path {own}/t1; proxy_temp_path {own}/t2; fastcgi_temp_path {own}/t3;
    uwsgi_temp_path {own}/t4; scgi_temp_path {own}/t5; {extra}
    server {{ listen 127.0.0.1:{port}{tls}; root {www}; }}
}}
"""
LIGHTTPD_CONFIG = """
server.modules = ("mod_accesslog")
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{www}"
server.errorlog = "{own}/error"
accesslog.filename = "{own}/access"
server.max-connections = 10000
mimetype.assign = ("" => "application/octet-stream")
"""


class Place(NamedTuple):
    """www: the folder to serve, with `certificate` and `key` for TLS beside it; own: one for the server's own files, of which
    `access` and `output` are logs; python: that runs ours."""

    www: Path
    own: Path
    port: int
    python: str = sys.executable

    @property
    def certificate(self) -> Path:
        return self.www.parent / "certificate"

    @property
    def key(self) -> Path:
        return self.www.parent / "key"


class Peer(NamedTuple):
    """command: of a place; needs: a command or a Python module; idle: connections that are held beside all else; cwd: where the
    command is run: the checkout whose code it is, if it is one of ours; python: that runs ours."""

    command: Callable[[Place], Sequence[object]]
    needs: str = ""
    idle: int = 0
    cwd: Path = ROOT
    python: str = sys.executable

    def missing(self) -> str:
        """Why it cannot run here; empty if it can."""
        if not self.needs or shutil.which(self.needs) or importlib.util.find_spec(self.needs):
            return ""
        return f"{self.needs} is not installed"


class Running(NamedTuple):
    name: str
    pid: int
    place: Place

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.place.port}"

    def empty_logs(self) -> None:
        """So that the disk does not fill."""
        for name in ("access", "output"):
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self.place.own / name, 0)


class CannotRun(Exception):
    """Why, in one line."""


# How each is started


def ours(place: Place, http: object, telnet: object) -> list[object]:
    log = place.own / "access"
    return [place.python, "-m", "rawservers", place.www, "--http", http, "--telnet", telnet, "--access-log", log]


def ours_http(place: Place) -> list[object]:
    return ours(place, place.port, "off")


def ours_https(place: Place) -> list[object]:
    command = ours(place, "off", "off")
    return [*command, "--https", place.port, "--certificate", place.certificate, "--key", place.key]


def ours_roomy(place: Place) -> list[object]:
    """With room for more connections than are held, since near its limit it lets go of idle ones."""
    config = place.own / "rawservers.toml"
    config.write_text("[limits]\nconnections = 20000\n")
    return [*ours_http(place), "--config", config]


def ours_telnet(place: Place) -> list[object]:
    return ours(place, "off", place.port)


def nginx(place: Place, extra: str = "", tls: str = "", workers: int = 1) -> list[object]:
    config = place.own / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(**place._asdict(), extra=extra, tls=tls, workers=workers))
    return ["nginx", "-c", config]


def nginx_cached(place: Place) -> list[object]:
    return nginx(place, "open_file_cache max=20000 inactive=60s; open_file_cache_valid 60s;")


def nginx_https(place: Place, extra: str = "", workers: int = 1) -> list[object]:
    files = f"ssl_certificate {place.certificate}; ssl_certificate_key {place.key};"
    return nginx(place, extra, f" ssl; {files} ssl_protocols TLSv1.2 TLSv1.3", workers)


def lighttpd(place: Place) -> list[object]:
    config = place.own / "lighttpd.conf"
    config.write_text(LIGHTTPD_CONFIG.format(**place._asdict()))
    return ["lighttpd", "-D", "-f", config]


def standard(place: Place) -> list[object]:
    return [sys.executable, "-m", "http.server", place.port, "--bind", "127.0.0.1", "--directory", place.www]


def granian(place: Place) -> list[object]:
    where = ["--host", "127.0.0.1", "--port", place.port, "--static-path-mount", place.www, "--static-path-route", ""]
    return [sys.executable, "-m", "granian", "--workers", 1, "--access-log", *where, "bench.peers.nothing:app"]


def aiohttp(place: Place) -> list[object]:
    return [sys.executable, "-m", "bench.peers.aiohttp_static", place.www, place.port]


def uvicorn(place: Place) -> list[object]:
    where = ["--host", "127.0.0.1", "--port", place.port]
    return ["env", f"FOLDER={place.www}", sys.executable, "-m", "uvicorn", *where, "bench.peers.starlette_static:app"]


def echo_asyncio(place: Place) -> list[object]:
    return [sys.executable, "-m", "bench.peers.line_echo", "asyncio", place.port]


def echo_uvloop(place: Place) -> list[object]:
    return [sys.executable, "-m", "bench.peers.line_echo", "uvloop", place.port]


def echo_c(place: Place) -> list[object]:
    return [compile_c(PEERS / "line_echo.c", place.own / "line_echo"), place.port]


HTTP = {
    OURS: Peer(ours_http),
    NGINX: Peer(nginx, "nginx"),
    CACHED: Peer(nginx_cached, "nginx"),
    LIGHTTPD: Peer(lighttpd, "lighttpd"),
    STANDARD: Peer(standard),
    GRANIAN: Peer(granian, "granian"),
    AIOHTTP: Peer(aiohttp, "aiohttp"),
    UVICORN: Peer(uvicorn, "uvicorn"),
}
ECHO = {
    OURS: Peer(ours_telnet),
    ASYNCIO: Peer(echo_asyncio),
    UVLOOP: Peer(echo_uvloop, "uvloop"),
    EPOLL_C: Peer(echo_c, "gcc"),
}
HTTPS = {OURS: Peer(ours_https), NGINX: Peer(nginx_https, "nginx")}
ALONE_AND_BURDENED = {OURS: Peer(ours_http), BURDENED: Peer(ours_http, idle=5000)}


# Running one


@contextlib.contextmanager
def running(name: str, peer: Peer, base: Path) -> Iterator[Running]:
    """A server of base/www, from when it accepts connections. CannotRun says why not."""
    if why := peer.missing():
        raise CannotRun(why)
    own = base / re.sub(r"\W+", "-", name)
    own.mkdir()
    server = Running(name, 0, Place(base / "www", own, free_port(), peer.python))
    try:
        command = [str(word) for word in peer.command(server.place)]
    except RuntimeError as error:
        raise CannotRun(str(error)) from error
    with open(own / "output", "ab") as output:
        process = subprocess.Popen(command, cwd=peer.cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        await_accept(process, server.place)
        yield server._replace(pid=process.pid)
    finally:
        stop(process)
        shutil.rmtree(own, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def await_accept(process: subprocess.Popen[bytes], place: Place) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", place.port), timeout=1).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"it did not start: {last_line(place.own / 'output')}") from None
            time.sleep(0.01)


def last_line(path: Path) -> str:
    return next(reversed(path.read_text(errors="replace").split("\n")[:-1]), "")


def strange(said: str) -> list[str]:
    """The lines of its stderr that our server should not have said."""
    return [line for line in said.splitlines() if not STARTUP.match(line)]


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; if it does not, end it and all that it has started."""
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        for pid in tuple(tree(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.wait()


# Versions

REPORTS = {"nginx": ["nginx", "-v"], "lighttpd": ["lighttpd", "-v"], "wrk": ["wrk", "-v"], "gcc": ["gcc", "--version"]}
MODULES = ("granian", "aiohttp", "uvicorn", "starlette", "uvloop")


def versions() -> dict[str, str]:
    """Of all that is here, by its name."""
    found = {}
    for name, command in REPORTS.items():
        if shutil.which(name):
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            match = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
            found[name] = match[0] if match else "?"
    for name in MODULES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
