"""Health checks, and how a stop is announced to them: by the server as a whole, and by no reload."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rawservers.daemon import control
from tests.harness.server import Server, exchange
from tests.harness.supervisor import supervise
from tests.harness.waiting import until

LISTEN = '[[listen]]\nservice = "http"\naddress = "0"\n[[listen]]\nservice = "telnet"\naddress = "0"\n'
HASH = "$2y$04$NGSefgfj.HnBfI0ARXjAPOx6ZjCcCrGh32T1CcPWVu9GM2w8atNDS"  # by htpasswd, of "x"
OK = b"Content-Length: 3\r\n\r\nok\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    for name, content in {"one/f": "f\n", "own/health": "a file\n", "app/index.html": "the page\n"}.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(content)
    return place


@pytest.fixture(scope="module")
def sites(place: Path) -> Iterator[Server]:
    (place / "users").write_text(f"ada:{HASH}\n")
    (place / "users").chmod(0o600)
    path = place / "sites.toml"
    path.write_text(f"""
{LISTEN}
[http]
root = "one"
[[http.sites]]
hosts = ["own.example"]
root = "own"
[[http.sites]]
hosts = ["app.example"]
root = "app"
fallback = "/index.html"
[[http.sites]]
hosts = ["closed.example"]
root = "one"
auth = [{{ path = "/", users = "users" }}]
[[http.sites]]
hosts = ["open.example"]
root = "one"
auth = [{{ path = "/", users = "users" }}, {{ path = "/health", users = "off" }}]
[[http.sites]]
hosts = ["redirected.example"]
root = "app"
redirects."/health" = "/status"
""")
    with Server("-c", path) as server:
        yield server


def get(server: Server, path: str = "/health", host: str = "h", method: str = "GET") -> bytes:
    return exchange(server, f"{method} {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())


@pytest.mark.parametrize("request_line", ["GET /health", "GET //health?x", "GET /./he%61lth"])
def test_a_server_is_healthy(sites: Server, request_line: str) -> None:
    method, path = request_line.split()
    response = get(sites, path, method=method)
    assert response.startswith(b"HTTP/1.0 200 OK\r\n")
    assert response.endswith(OK)
    assert b"Cache-Control: no-store\r\n" in response
    assert exchange(sites, b"GET /health\r\n") == b"ok\n"


def test_a_server_without_a_document_root_is_healthy() -> None:
    with Server("-p", "0", "--telnet", "off") as server:
        assert get(server).endswith(OK)
        assert get(server, "/healthy").startswith(b"HTTP/1.0 404 ")


def test_methods(sites: Server) -> None:
    assert get(sites, method="HEAD").endswith(b"Content-Length: 3\r\n\r\n")
    assert get(sites, method="OPTIONS").startswith(b"HTTP/1.0 204 ")
    assert get(sites, method="POST").startswith(b"HTTP/1.0 405 ")


def test_what_a_site_has_comes_first(sites: Server) -> None:
    assert get(sites, host="own.example").endswith(b"a file\n")
    assert b"\r\nLocation: /status\r\n" in get(sites, host="redirected.example")
    assert get(sites, host="app.example").endswith(OK)  # but not what stands for any path that is not there
    for path in ("/health/", "/healthy", "/HEALTH", "/f/health"):
        assert get(sites, path).startswith(b"HTTP/1.0 404 ")


def test_below_a_protected_path(sites: Server) -> None:
    assert get(sites, host="closed.example").startswith(b"HTTP/1.0 401 ")
    assert get(sites, host="open.example").endswith(OK)
    assert get(sites, "/f", host="open.example").startswith(b"HTTP/1.0 401 ")


def test_it_is_not_logged(sites: Server) -> None:
    lines = sites.settled_log()
    for _ in range(3):
        get(sites)
    get(sites, "/f")
    assert [line.split('"')[1] for line in sites.await_log(lines + 1)[lines:]] == ["GET /f HTTP/1.0"]


def announced(place: Path, seconds: float) -> Path:
    path = place / f"announced-{seconds}.toml"
    path.write_text(f'drain_announce = {seconds}\n{LISTEN}[http]\nroot = "one"\n')
    return path


def test_a_stop_is_announced(place: Path) -> None:
    """Until it begins everything is served."""
    with supervise("-c", announced(place, 600)) as server, server.connect() as kept:
        assert get(server).endswith(OK)
        server.signal()
        until(lambda: get(server).startswith(b"HTTP/1.0 503 "), "the stop is announced")
        response = get(server)
        assert response.endswith(b"stopping\n")
        assert b"Retry-After: 1\r\n" in response
        assert b"Cache-Control: no-store\r\n" in response
        with server.connect("telnet") as sock:
            sock.sendall(b"x\r\n")
            assert sock.recv(3) == b"x\r\n"
        kept.sendall(b"GET /f\r\n")
        assert kept.recv(100) == b"f\n"
        server.signal()
        assert server.wait() == 0


def test_an_announced_stop_begins_by_itself(place: Path) -> None:
    with supervise("-c", announced(place, 1)) as server:
        assert get(server).endswith(OK)
        began = time.monotonic()
        server.signal()
        assert server.wait() == 0
        assert time.monotonic() - began >= 1
        assert "stop in 1 seconds announced to health checks" in server.stderr()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_ends_an_announced_stop_at_once(place: Path, number: signal.Signals) -> None:
    with supervise("-c", announced(place, 600)) as server, server.connect("telnet") as session:
        session.sendall(b"x\r\n")
        assert session.recv(3) == b"x\r\n"
        server.signal(number)
        until(lambda: get(server).startswith(b"HTTP/1.0 503 "), "the stop is announced")
        server.signal(number)
        assert server.wait() == 0


def test_a_worker_that_dies_before_an_announced_stop_is_replaced(place: Path) -> None:
    """By one that knows of the stop."""
    with supervise("-c", announced(place, 600), workers=1) as server:
        server.address("http")
        server.signal()
        until(lambda: get(server).startswith(b"HTTP/1.0 503 "), "the stop is announced")
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        until(lambda: server.workers() not in ([], [worker]), "another worker")
        assert get(server).startswith(b"HTTP/1.0 503 ")
        server.signal()
        assert server.wait() == 0


def test_a_reload_is_not_announced(place: Path) -> None:
    with supervise("-c", announced(place, 600), workers=2) as server:
        server.address("http")
        for _ in range(3):
            control.reload(server.process.pid)
            assert get(server).endswith(OK)
        server.signal()
        until(lambda: get(server).startswith(b"HTTP/1.0 503 "), "the stop is announced")
        server.signal(signal.SIGHUP)
        until(lambda: "reload failed: the server is shutting down" in server.stderr(), "no reload any more")
        server.signal()
        assert server.wait() == 0


PROGRAM = """
import sys
from rawservers import Config, ListenConfig, SiteConfig
from rawservers.daemon.worker import serve
from rawservers.logs import error
error.install()
listen = (ListenConfig("http", "127.0.0.1:0"),)
serve(Config(sites=(SiteConfig(sys.argv[1]),), listen=listen, drain_announce=float(sys.argv[2])))
"""


def test_a_server_without_a_supervisor(place: Path) -> None:
    with Server(place / "one", "1", program=PROGRAM) as server:
        assert get(server).endswith(OK)
        began = time.monotonic()
        server.signal()
        assert server.wait() == 0
        assert time.monotonic() - began >= 1
    with Server(place / "one", "600", program=PROGRAM) as server:
        server.address("http")
        server.signal()
        until(lambda: get(server).startswith(b"HTTP/1.0 503 "), "the stop is announced")
        server.signal()
        assert server.wait() == 0
