"""The command line of the real process: what it listens on, what it refuses, how it ends."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from rawservers import __version__, config
from rawservers.cli import parse
from rawservers.core.listener import Endpoint
from rawservers.daemon.worker import reason
from tests.live import ROOT, Server, exchange, need, receive_all, until


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rawservers", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:80", Endpoint("127.0.0.1", 80)),
        ("localhost:0", Endpoint("localhost", 0)),
        ("[::1]:8080", Endpoint("::1", 8080)),
        ("8080", Endpoint("127.0.0.1", 8080)),
        (":8080", Endpoint(None, 8080)),
        ("unix:/run/x", Endpoint(path="/run/x")),
    ],
)
def test_an_address(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text", ["", ":", "host", "h:", "h:x", "::1:80", "[::1]", "h:65536", "-1", "h:-1", "8 0", "unix:", "[::1]:"]
)
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port|path"):
        Endpoint.parse(text)


def test_the_defaults() -> None:
    assert parse([]).listen == (("http", "127.0.0.1:8080"), ("telnet", "127.0.0.1:2323"))
    assert parse([]).sites == (config.SiteConfig(str(config.WELCOME)),)
    assert parse(["--telnet", "off", "--http", "1", "--http", ":2"]).listen == (("http", "1"), ("http", ":2"))


def test_version_and_help() -> None:
    assert run("--version").stdout == f"rawservers {__version__}\n"
    said = run("--help").stdout
    for word in (
        "DIR",
        "--http",
        "--telnet",
        "--access-log",
        "--version",
        "unix:PATH",
        "off",
        "127.0.0.1:8080",
        "127.0.0.1:2323",
    ):
        assert word in said


def test_it_says_where_it_listens(folder: Path) -> None:
    with Server(folder, "--http", "0", "--http", "[::1]:0", "--telnet", ":0") as server:
        until(lambda: server.stderr().count("\n") == 3, "three lines")
        first, second, third = server.stderr().splitlines()
    assert re.fullmatch(rf"http listening on http://127\.0\.0\.1:[1-9]\d*/ \(serving {re.escape(str(folder))}\)", first)
    assert re.fullmatch(rf"http listening on http://\[::1\]:[1-9]\d*/ \(serving {re.escape(str(folder))}\)", second)
    assert re.fullmatch(r"telnet listening on \[::\]:[1-9]\d*", third)


def test_the_welcome_page() -> None:
    with Server("--http", "0", "--telnet", "off") as server:
        assert "It works" in requests.get(server.url, timeout=10).text
        assert "telnet listening" not in server.stderr()


def test_every_interface_is_ipv4_and_ipv6(folder: Path) -> None:
    with Server(folder, "--http", ":0", "--telnet", "off") as server:
        _, port = server.address("http")
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=10) as sock:
                sock.sendall(b"GET /f\r\n")
                assert receive_all(sock) == b"content of f\n"
        assert [line.split()[0] for line in server.await_log(2)] == ["127.0.0.1", "::1"]


def test_a_name_with_several_addresses_is_bound_to_all(folder: Path) -> None:
    with Server(folder, "--http", "localhost:0", "--telnet", "off") as server:
        _, port = server.address("http")
        for _, _, _, _, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
            with socket.create_connection(address[:2], timeout=10) as sock:
                sock.sendall(b"GET /f\r\n")
                assert receive_all(sock) == b"content of f\n"


def test_a_unix_socket(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"

    def get() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            sock.sendall(b"GET /f\r\n")
            return receive_all(sock)

    with Server(folder, "--http", f"unix:{path}", "--telnet", "off") as server:
        until(lambda: "listening" in server.stderr(), "listening")
        assert f"http listening on unix:{path} (serving {folder})" in server.stderr()
        assert get() == b"content of f\n"
        assert server.await_log(1)[0].startswith("unix: - - [")
        second = run(folder, "--http", f"unix:{path}", "--telnet", "off")
        assert (second.returncode, second.stderr) == (2, f"rawservers: cannot listen on unix:{path}: address already in use\n")
        server.signal(signal.SIGKILL)
        server.process.wait()
    assert path.exists()
    with Server(folder, "--http", f"unix:{path}", "--telnet", "off") as server:  # over the stale socket
        until(lambda: "listening" in server.stderr(), "listening")
        assert get() == b"content of f\n"
    assert not path.exists()


def test_a_unix_socket_does_not_replace_a_file(folder: Path) -> None:
    done = run(folder, "--http", f"unix:{folder / 'f'}")
    assert (done.returncode, done.stderr) == (2, f"rawservers: cannot listen on unix:{folder / 'f'}: address already in use\n")
    assert (folder / "f").read_bytes() == b"content of f\n"


def test_a_port_in_use(server: Server) -> None:
    host, port = server.address("http")
    done = run("--telnet", "0", "--http", f"{host}:{port}")
    assert (done.returncode, done.stderr) == (2, f"rawservers: cannot listen on {host}:{port}: address already in use\n")


def test_no_such_folder(tmp_path: Path) -> None:
    done = run(tmp_path / "nope")
    assert (done.returncode, done.stderr) == (2, f"rawservers: cannot serve {tmp_path / 'nope'}: no such file or directory\n")
    done = run(__file__)
    assert (done.returncode, done.stderr) == (2, f"rawservers: cannot serve {__file__}: not a directory\n")


def test_no_such_log(folder: Path) -> None:
    done = run(folder, "--access-log", folder / "nope" / "log")
    assert done.returncode == 2
    assert done.stderr == f"rawservers: cannot write the access log {folder / 'nope' / 'log'}: no such file or directory\n"


@pytest.mark.parametrize("arguments", [["--http", "x"], ["--telnet", "1.2.3.4:99999"], ["--nope"], ["a", "b"]])
def test_a_wrong_command_line(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr.splitlines()[-1]


def test_what_helps_with_a_low_port() -> None:
    said = reason(PermissionError(errno.EACCES, "Permission denied"))
    assert said.startswith("permission denied (")
    assert "root" in said
    assert "ip_unprivileged_port_start" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up the right to bind port 80")
def test_a_low_port_without_permission(folder: Path) -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) - 1
    if low < 1:
        pytest.skip("no port is reserved for root here")
    command = [need("setpriv"), "--bounding-set=-net_bind_service", sys.executable, "-m", "rawservers", "--http", str(low)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert re.fullmatch(rf"rawservers: cannot listen on {low}: permission denied \(.*root.*\)\n", done.stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(folder: Path, number: signal.Signals) -> None:
    with Server(folder, "--http", "0", "--telnet", "0") as server:
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        server.signal(number)
        assert server.wait() == 0
        assert "Traceback" not in server.stderr()


def test_the_access_log_in_a_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("what was there stays\n")
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", path) as server:
        exchange(server, b'GET /f HTTP/1.0\r\nUser-Agent: \x1b[31m"x"\\\r\nReferer: http://a/\r\n\r\n')
        until(lambda: path.read_text().count("\n") == 2, "the line")
        assert server.log() == []
    first, second = path.read_text().splitlines()
    assert first == "what was there stays"
    assert "\\x1b" not in second  # such a request is refused: its header is malformed
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /f HTTP/1\.0" 400 \d+ "-" "-" \d+\.\d{3}', second
    )


def test_no_access_log(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", "off") as server:
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        server.signal()
        assert server.wait() == 0
        assert server.log() == []
