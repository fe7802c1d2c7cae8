"""The command line of the real process: what it listens on, what it refuses, how it ends."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from rawservers import __version__
from rawservers.cli import configure, listeners, parse
from rawservers.core.bind import Endpoint
from rawservers.daemon import startup
from rawservers.settings import WELCOME, Config, ConfigError, ListenConfig, SiteConfig
from tests.harness.server import ROOT, Server, exchange, need, receive_all, until


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


def asked(*arguments: str | Path, **inherited: Sequence[int]) -> Config:
    """The Config that such a command line comes to."""
    return configure(parse(list(map(str, arguments))), inherited)


def test_the_defaults() -> None:
    assert asked() == Config()
    assert asked().listen == (ListenConfig("http", "127.0.0.1:8080"), ListenConfig("telnet", "127.0.0.1:2323"))
    assert asked().sites == (SiteConfig(str(WELCOME)),)


HTTP, TELNET = ("http", "127.0.0.1:8080"), ("telnet", "127.0.0.1:2323")
FILE = (("http", ":80"), ("telnet", ":23"), ("status", "unix:/s"), ("http", ":81"))


@pytest.mark.parametrize(
    ("http", "telnet", "configured", "inherited", "expected"),
    [
        # Nobody says anything but "off"
        ([], [], (), {}, [HTTP, TELNET]),
        ([], [], (), {"http": []}, [HTTP, TELNET]),
        (["off"], [], (), {}, [TELNET]),
        ([], ["off"], (), {}, [HTTP]),
        (["off"], ["off"], (), {}, []),
        # Somebody does
        (["1"], [], (), {}, [("http", "1")]),
        ([], ["1"], (), {}, [("telnet", "1")]),
        (["1", "2"], ["3"], (), {}, [("http", "1"), ("http", "2"), ("telnet", "3")]),
        (["1"], ["off"], (), {}, [("http", "1")]),
        (["off", "1"], [], (), {}, [("http", "1")]),
        # The file
        ([], [], FILE[:1], {}, [("http", ":80")]),
        ([], [], FILE, {}, [("http", ":80"), ("http", ":81"), ("telnet", ":23"), ("status", "unix:/s")]),
        (["1"], [], FILE, {}, [("http", "1"), ("telnet", ":23"), ("status", "unix:/s")]),
        (["off"], ["2", "3"], FILE, {}, [("telnet", "2"), ("telnet", "3"), ("status", "unix:/s")]),
        (["off"], [], FILE[:1], {}, []),
        # Sockets that are there already
        ([], [], (), {"http": [3]}, [("http", "fd:3")]),
        ([], [], (), {"status": [3], "telnet": [4, 5]}, [("telnet", "fd:4"), ("telnet", "fd:5"), ("status", "fd:3")]),
        (["1"], [], FILE, {"http": [3, 4]}, [("http", "fd:3"), ("http", "fd:4"), ("telnet", ":23"), ("status", "unix:/s")]),
        (["off"], ["1"], (), {"http": [3]}, [("http", "fd:3"), ("telnet", "1")]),
        ([], ["off"], FILE, {"status": [3]}, [("http", ":80"), ("http", ":81"), ("status", "fd:3")]),
    ],
)
def test_where_to_listen(
    http: list[str],
    telnet: list[str],
    configured: tuple[tuple[str, str], ...],
    inherited: dict[str, list[int]],
    expected: list[tuple[str, str]],
) -> None:
    found = listeners({"http": http, "telnet": telnet}, [ListenConfig(*row) for row in configured], inherited)
    assert found == tuple(ListenConfig(*row) for row in expected)


def test_nothing_to_serve() -> None:
    done = run("--http", "off", "--telnet", "off")
    assert (done.returncode, done.stderr) == (2, "rawservers: nothing to serve\n")
    assert asked("--http", "off", "--telnet", "off", http=[3]).listen == (ListenConfig("http", "fd:3"),)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text(
        """
        workers = 3
        user = "root"
        reload_drain = 5
        [[listen]]
        service = "http"
        address = "1"
        [http]
        root = "/"
        hosts = ["a"]
        [[http.sites]]
        hosts = ["b"]
        root = "/"
        [log]
        access = "off"
        """
    )
    file = asked("-c", path)
    first, second = file.sites
    assert (file.workers, file.user, file.reload_drain, file.access_log, first.root) == (3, "root", 5, "off", "/")
    assert file.listen == (ListenConfig("http", "1"),)
    options = ["--workers", "auto", "--user", "root:root", "--http", "2", "--access-log", "-", "--listing", tmp_path]
    assert asked("--config", path, *options) == replace(
        file,
        workers=0,
        user="root:root",
        listen=(ListenConfig("http", "2"),),
        access_log="-",
        sites=(replace(first, root=str(tmp_path), listing=True), second),
    )
    assert asked("-c", path, "--telnet", "4").listen == (ListenConfig("http", "1"), ListenConfig("telnet", "4"))
    assert asked("-c", path, telnet=[3]).listen == (ListenConfig("http", "1"), ListenConfig("telnet", "fd:3"))


def test_the_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text("workers = 3\n[http]\nlisting = true")
    said = parse(["-c", str(path), "--workers", "5"])
    assert (configure(said).workers, configure(said).sites[0].listing) == (5, True)
    path.write_text("workers = 4")
    assert (configure(said).workers, configure(said).sites[0].listing) == (5, False)
    path.write_text("workers = []")
    with pytest.raises(ConfigError, match=r":1: workers: expected an integer from 0 to 1024, or \"auto\", not an array"):
        configure(said)


def test_what_options_replace_need_not_be_there(tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text('user = "no such"\nhttp.root = "nope"\nlog.access = "/nope/nope"')
    with pytest.raises(ConfigError) as error:
        asked("-c", path)
    assert len(error.value.errors) == 3
    assert asked("-c", path, "--user", "root", "--access-log", "off", tmp_path).sites[0].root == str(tmp_path)


# --check, and starting with what it finds


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
        "import sys; from rawservers.cli import configure, parse; configure(parse(sys.argv[1:]));"
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


def is_refused(path: Path) -> bool:
    """Whether nobody listens on this unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == errno.ECONNREFUSED


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
        until(lambda: is_refused(path), "the end of its worker")
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


def test_what_helps_with_a_low_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(startup, "bind", refuse)
    with pytest.raises(
        startup.CannotStart, match=r"^cannot listen on 80: permission denied \(.*root.*ip_unprivileged_port_start"
    ):
        startup.bind_all(Config(listen=(ListenConfig("http", "80"),)))
    with pytest.raises(startup.CannotStart, match=r"^cannot listen on unix:/x: permission denied$"):
        startup.bind_all(Config(listen=(ListenConfig("http", "unix:/x"),)))


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
