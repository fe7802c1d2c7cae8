"""The command line of the real process: what it listens on, what it refuses, how it ends."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from rawservers import __version__
from rawservers.settings import ListenConfig
from tests.harness.command import asked, run
from tests.harness.needs import ROOT
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all
from tests.harness.waiting import until


def test_nothing_to_serve() -> None:
    done = run("--http", "off", "--telnet", "off")
    assert (done.returncode, done.stderr) == (2, "rawservers: nothing to serve\n")
    assert asked("--http", "off", "--telnet", "off", http=[3]).listen == (ListenConfig("http", "fd:3"),)


def test_a_check_of_what_is_well(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "conf.toml").write_text('[http]\nroot = "www"')
    for arguments in ([], [folder], ["-c", tmp_path / "conf.toml"], ["-c", ROOT / "conf" / "rawservers.toml"]):
        done = run("--check", *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("check", [["--check"], []])
def test_a_wrong_file_is_refused_with_every_mistake(tmp_path: Path, check: list[str]) -> None:
    path = tmp_path / "conf.toml"
    path.write_text('workers = "two"\n[http]\nlsiting = true\nroot = "nope"\n')
    done = run("-c", path, "--http", "0", *check)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.splitlines() == [
        f'{path}:1: workers: expected an integer from 0 to 1024, or "auto", not "two"',
        f"{path}:3: http.lsiting: unknown key (did you mean http.listing?)",
        f"{path}:4: http.root: cannot serve {tmp_path}/nope: no such file or directory",
    ]


@pytest.mark.parametrize("check", [["--check"], []])
def test_no_file(tmp_path: Path, check: list[str]) -> None:
    done = run("-c", tmp_path / "nope", *check)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"{tmp_path / 'nope'}: cannot be read: no such file or directory\n"


@pytest.mark.parametrize("check", [["--check"], []])
def test_what_is_no_file(tmp_path: Path, check: list[str]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero"), Path("/dev/stdin")):
        done = run("-c", path, *check)
        assert (done.returncode, done.stdout, done.stderr) == (78, "", f"{path}: cannot be read: not a regular file\n")


def test_a_start_with_a_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text(f"""
        [[listen]]
        service = "http"
        address = "0"
        [http]
        root = "{folder.name}"
        [log]
        access = "access.log"
    """)
    with Server("-c", path) as server:
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        until(lambda: "GET /f" in (tmp_path / "access.log").read_text(), "the line")
        assert "telnet" not in server.stderr()
        assert f"(serving {folder})" in server.stderr()


def test_a_start_loads_nothing_that_it_does_not_need(folder: Path) -> None:
    program = (
        "import sys; from rawservers.cli import configure, parse; configure(parse(sys.argv[1:]), {}, b'# nothing');"
        "print(*{'tomllib', 'difflib', 'pwd', 'grp', 'rawservers.config.toml'} & sys.modules.keys())"
    )
    for arguments, some in ((["--http", "0", "--workers", "2", folder], False), (["-c", "/dev/null"], True)):
        done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
        assert ("rawservers.config.toml" in done.stdout.split()) == some, done.stderr
        assert bool(done.stdout.split()) == some


def test_version_and_help() -> None:
    assert run("--version").stdout == f"rawservers {__version__}\n"
    said = run("--help").stdout
    for word in (
        "DIR",
        "--http",
        "--telnet",
        "--access-log",
        "--workers",
        "--user",
        "--config",
        "--check",
        "--version",
        "unix:PATH",
        "off",
        "127.0.0.1:8080",
        "127.0.0.1:2323",
    ):
        assert word in said


def test_it_says_where_it_listens(folder: Path) -> None:
    with Server(folder, "--http", "0", "--http", "[::1]:0", "--telnet", ":0") as server:
        until(lambda: server.stderr().count(" listening on ") == 3, "three lines")
        first, second, third = [line for line in server.stderr().splitlines() if " listening on " in line]
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


def test_a_port_in_use(server: Server) -> None:
    host, port = server.address("http")
    done = run("--telnet", "0", "--http", f"{host}:{port}")
    assert (done.returncode, done.stderr) == (2, f"rawservers: cannot listen on {host}:{port}: address already in use\n")


def test_no_such_folder(tmp_path: Path) -> None:
    done = run(tmp_path / "nope")
    assert (done.returncode, done.stderr) == (2, f"rawservers: cannot serve {tmp_path / 'nope'}: no such file or directory\n")
    assert run("--check", tmp_path / "nope").stderr == done.stderr
    done = run(__file__)
    assert (done.returncode, done.stderr) == (2, f"rawservers: cannot serve {__file__}: not a directory\n")


def test_no_such_log(folder: Path) -> None:
    done = run(folder, "--access-log", folder / "nope" / "log")
    assert done.returncode == 2
    assert done.stderr == f"rawservers: cannot open the access log {folder / 'nope' / 'log'}: no such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--http", "x"], "argument --http: not an address: 'x'"),
        (["--telnet", "1.2.3.4:99999"], "argument --telnet: not a port: 99999"),
        (["--nope"], "unrecognized arguments: --nope"),
        (["a", "b"], "unrecognized arguments: b"),
        (["--workers", "two"], "argument --workers: expected an integer from 0 to 1024, or \"auto\", not 'two'"),
        (["--workers", "1025"], "argument --workers: expected an integer from 0 to 1024, or \"auto\", not '1025'"),
        (["--workers", "٣"], "argument --workers: expected an integer"),
        (["--user", "no such"], "argument --user: unknown user 'no such'"),
        (["--user", "root:nope", "--check"], "argument --user: unknown group 'nope'"),
        (["-c"], "argument -c/--config: expected one argument"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], why: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"rawservers: error: {why}")
