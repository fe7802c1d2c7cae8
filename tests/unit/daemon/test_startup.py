"""Start-up: how many connections a worker takes, the shares of its services, and what cannot be bound."""

from __future__ import annotations

import ast
import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

from rawservers.daemon import startup
from rawservers.daemon.startup import connection_shares
from rawservers.settings import Config, ListenConfig
from tests.harness.needs import ROOT

PACKAGE = ROOT / "rawservers"


def test_as_many_connections_as_there_are_descriptors_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1000, 1000))
    assert startup.max_connections(Config(connections=0, open_files=256)) == 1000 - 256 - startup.RESERVED_DESCRIPTORS
    assert startup.max_connections(Config(connections=100, open_files=256)) == 100
    assert startup.max_connections(Config(connections=0, open_files=2000)) == 1


@pytest.mark.parametrize(
    ("listen", "connections", "http", "telnet", "expected"),
    [
        (("http", "telnet"), 1000, 0, 0, (500, 500)),
        (("http",), 1000, 0, 0, (1000, 1000)),
        (("http", "telnet"), 1000, 900, 0, (900, 500)),
        (("http", "telnet"), 1000, 5000, 1, (1000, 1)),
        (("http", "telnet", "status"), 1, 0, 0, (1, 1)),
    ],
)
def test_shares(
    monkeypatch: pytest.MonkeyPatch,
    listen: Sequence[str],
    connections: int,
    http: int,
    telnet: int,
    expected: tuple[int, int],
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4096, 4096))
    config = Config(
        listen=tuple(ListenConfig(name, "0") for name in listen),
        connections=connections,
        http_connections=http,
        telnet_connections=telnet,
        open_files=0,
    )
    assert tuple(connection_shares(config).values()) == expected


def test_what_helps_with_a_low_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(startup, "bind", refuse)
    with pytest.raises(
        startup.CannotStart, match=r"^cannot listen on 127\.0\.0\.1:80: permission denied \(.*root.*ip_unprivileged_port_start"
    ):
        startup.bind_all(Config(listen=(ListenConfig("http", "80"),)))
    with pytest.raises(startup.CannotStart, match=r"^cannot listen on unix:/x: permission denied$"):
        startup.bind_all(Config(listen=(ListenConfig("http", "unix:/x"),)))


@pytest.mark.parametrize(
    ("service", "address", "hint"),
    [
        ("http", "127.0.0.1:8080", r" \(choose another port with -p\)"),
        ("http", "8080", r" \(choose another port with -p\)"),
        ("http", "127.0.0.1:8081", ""),
        ("telnet", "127.0.0.1:2323", r" \(choose another port with --telnet, or do without: --telnet off\)"),
        ("telnet", "127.0.0.1:2324", ""),
    ],
)
def test_what_helps_if_the_default_port_is_in_use(
    monkeypatch: pytest.MonkeyPatch, service: str, address: str, hint: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(startup, "bind", refuse)
    with pytest.raises(startup.CannotStart, match=rf"^cannot listen on 127\.0\.0\.1:[0-9]+: address already in use{hint}$"):
        startup.bind_all(Config(listen=(ListenConfig(service, address),)))


@pytest.mark.parametrize(("under_systemd", "address"), [(True, "8080"), (True, "unix:/x"), (False, "8080")])
def test_what_helps_in_a_sandbox(under_systemd: bool, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(startup, "bind", refuse)
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid() if under_systemd else os.getppid()))  # inherited from a shell, say
    with pytest.raises(startup.CannotStart) as failure:
        startup.bind_all(Config(listen=(ListenConfig("http", address),)))
    assert ("enable a socket unit, or remove the listener" in str(failure.value)) == (under_systemd and address == "8080")


def test_a_reload_keeps_the_socket_and_takes_its_new_settings() -> None:
    def bound(listen: ListenConfig, existing: startup.Servers) -> startup.Servers:
        return startup.bind_all(Config(listen=(listen,)), existing)

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    before = bound(ListenConfig("http", port), {})
    after = bound(ListenConfig("http", f"127.0.0.1:{port}", proxy_protocol=("unix",)), before)
    assert list(after.values()) == [ListenConfig("http", f"127.0.0.1:{port}", proxy_protocol=("unix",))]
    assert after.keys() == before.keys()
    for server in after:
        server.close()


def late_imports() -> set[str]:
    """The modules that functions of a worker's rooms import, when they need them."""
    rooms = [path for room in ("core", "http", "telnet", "welcome", "logs") for path in (PACKAGE / room).rglob("*.py")]
    found: set[str] = set()
    for path in [*rooms, PACKAGE / "sockets.py", PACKAGE / "status.py"]:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    found |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
                    found |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
    return found


def test_what_is_imported_late_is_there_when_privileges_are_dropped() -> None:
    """The workers' user may not be allowed to read it: a Python in /root, an archive of mode 0600."""
    late = {*startup.IMPORTED_LATE, *startup.IMPORTED_FOR_TRACE}
    elsewhere = {
        "bcrypt",  # with the files of users
        "inspect",  # for a service that a program gives, and a program has dropped its privileges, if any, itself
        "rawservers.http.listing.listings",  # with the sites
    }
    assert late_imports() - elsewhere <= late
    assert late <= modules_of("trace=True")
    found = modules_of("trace=False")
    assert {*startup.IMPORTED_LATE} <= found
    assert "ssl" not in found  # nobody asks for TLS


@pytest.mark.parametrize(
    ("service", "option", "module"),
    [
        ("http", "sites=(SiteConfig('.', listing=True),)", "http.listing.listings"),
        ("http", "sites=(SiteConfig(),)", "welcome.site"),
        ("telnet", "trace=False", "telnet.echo"),
        ("status", "trace=False", "status"),
        ("status", "trace=False", "daemon.socket_table"),
    ],
)
def test_what_only_some_servers_serve_is_imported_before_the_fork(service: str, option: str, module: str) -> None:
    """An upgrade replaces files under a running server: whatever workers may need of the package is there before."""
    found = modules_of(option, service)
    assert f"rawservers.{module}" in found
    assert f"rawservers.{module}" not in modules_of("sites=(SiteConfig('.'),)", "http")


def test_what_a_line_service_needs_is_imported_before_the_fork() -> None:
    assert "inspect" in modules_of("telnet_service=lambda line: line", "telnet")
    assert "inspect" not in modules_of("workers=2", "telnet")


def modules_of(option: str, service: str = "http") -> set[str]:
    """What is imported when the resources of a server with this option and another user are there."""
    config = f'Config(listen=(ListenConfig("{service}", "127.0.0.1:0"),), access_log="off", user="nobody", {option})'
    program = (
        "import sys; from rawservers.daemon.startup import Resources; from rawservers import Config, ListenConfig, SiteConfig\n"
    )
    program += f"Resources.prepare({config}).close(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return set(done.stdout.split())
