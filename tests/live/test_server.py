"""`rawservers.Server`: servers inside a program, each in a thread, on real sockets."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import requests

import rawservers
from rawservers import CannotStart, Config, ListenConfig, Protocol, Request, Response, Server, SiteConfig, TLSConfig
from rawservers.core.bind import Endpoint, bind
from rawservers.daemon import self_signed
from rawservers.daemon.worker import Worker
from tests.harness.http_client import KEPT, take_body
from tests.harness.sockets import listening, receive_all, receive_until
from tests.harness.tls import client_context, issue
from tests.harness.waiting import DEADLINE, until


def connect(address: object) -> socket.socket:
    """A connection to an entry of `Server.addresses`."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        sock.connect(address)
        return sock
    assert isinstance(address, tuple)
    return socket.create_connection(address, DEADLINE)


def echo(server: Server, line: bytes) -> bytes:
    with connect(server.telnet_address) as sock:
        sock.sendall(line)
        return receive_until(sock, line)


def threads() -> int:
    """Number of threads of servers. Libraries of other tests have theirs."""
    return [thread.name for thread in threading.enumerate()].count("rawservers")


def test_three_lines(folder: Path) -> None:
    with Server(folder, telnet="127.0.0.1:0") as server:
        assert requests.get(server.http_url("/f"), timeout=DEADLINE).content == b"content of f\n"
        host, port = server.telnet_address
        assert (host, port) == server.addresses["telnet"][0]
        assert echo(server, b"hello\r\n").endswith(b"hello\r\n")
        assert threads() == 1
    assert threads() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), DEADLINE)


def test_http_alone_and_telnet_alone() -> None:
    with Server() as server:
        assert "<h1>It works</h1>" in requests.get(server.http_url(), timeout=DEADLINE).text
        with pytest.raises(LookupError, match="telnet is not served over TCP"):
            server.telnet_address  # noqa: B018
    with Server(http=None, telnet="127.0.0.1:0") as server:
        assert list(server.addresses) == ["telnet"]
        with pytest.raises(LookupError, match="http is not served over TCP"):
            server.http_url()


def test_a_configuration_of_its_own(folder: Path, tmp_path: Path) -> None:
    def whole(request: Request) -> Response:
        return Response(200, [("Content-Type", "text/plain")], request.path.encode())

    addresses = [f"unix:{tmp_path}/s", ":0", "127.0.0.1:0"]
    config = Config(
        sites=(SiteConfig(str(folder)),),
        handlers=(("/whole", whole),),
        listen=tuple(ListenConfig("http", address) for address in addresses),
        access_log=str(tmp_path / "log"),
    )
    with Server(config=config) as server:
        path, everywhere, loopback = server.addresses["http"]
        assert path == f"{tmp_path}/s"
        assert server.http_address == everywhere  # the first over TCP
        assert everywhere[0] in {"127.0.0.1", "::1"}
        assert server.http_url().startswith(("http://127.0.0.1:", "http://[::1]:"))
        for address in path, everywhere, loopback:
            with connect(address) as sock:
                sock.sendall(KEPT)
                assert take_body(sock) == b"content of f\n"
        assert requests.get(server.http_url("/whole"), timeout=DEADLINE).text == "/whole"
    assert (tmp_path / "log").read_text().count(" 200 ") == 4
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": Config(workers=2)}, "workers must be 1, not 2: a Server is one thread"),
        ({"config": Config(), "root": "/"}, "root: the sites of the config have it"),
        ({"config": Config(listen=()), "telnet": "0"}, "http, telnet, tls: the config has the listeners, in listen"),
        ({"config": Config(listen=()), "http": None}, "http, telnet, tls: the config has the listeners, in listen"),
        ({"root": "/nowhere"}, "root: cannot serve /nowhere: no such file or directory"),
        ({"root": ""}, "root: cannot serve : no such file or directory"),
        ({"root": "a\0b"}, "root: embedded null byte"),
        (
            {"config": Config(sites=(SiteConfig("/nowhere"),))},
            r"sites\[0\].root: cannot serve /nowhere: no such file or directory",
        ),
        ({"config": Config(listen=[ListenConfig("ftp", "0")])}, r"listen\[0\].service: expected one of .*, not 'ftp'"),
        ({"config": "x"}, "config: expected a Config, not 'x'"),
        ({"config": Config(listen=())}, "listen: nothing to serve"),
        ({"services": {"shout": 3}}, "services: expected names and functions, not 'shout': 3"),
        ({"services": {"Loud one": print}}, "service name is malformed: 'Loud one'"),
        ({"root": 3}, "root: expected a path as text, not 3"),
        ({"root": b"site"}, "root: expected a path as text, not b'site'"),
        ({"root": __file__}, f"root: cannot serve {__file__}: not a directory"),
        ({"http": None}, "listen: nothing to serve"),
        ({"http": "x"}, "http: not an address: 'x': add a port: x:PORT"),
        ({"telnet": 23}, "telnet: expected a string, not 23"),
    ],
)
def test_what_cannot_be_meant(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Server(**arguments)  # type: ignore[arg-type]


def test_addresses_and_urls(folder: Path) -> None:
    with Server(folder, telnet="127.0.0.1:0") as server:
        assert server.tcp_address("telnet") == server.telnet_address
        with pytest.raises(LookupError, match=r"^ftp is not served over TCP$"):
            server.tcp_address("ftp")
        with pytest.raises(ValueError, match=r"^the path must begin with a slash: 'f'$"):
            server.http_url("f")
    with pytest.raises(LookupError, match=r"^the server was not started$"):
        Server(folder).http_url()


def test_the_scheme_is_that_of_the_address(folder: Path, tmp_path: Path) -> None:
    files = issue(tmp_path)
    tls = (TLSConfig(str(files.certificate), str(files.key)),)
    listen = ListenConfig("http", f"unix:{tmp_path}/tls", tls=tls), ListenConfig("http", "127.0.0.1:0")
    with Server(config=Config(sites=(SiteConfig(str(folder)),), listen=listen, access_log="off")) as server:
        assert requests.get(server.http_url("/f"), timeout=DEADLINE).content == b"content of f\n"


def test_a_configuration_without_addresses_gets_free_ones(folder: Path) -> None:
    config = Config(sites=(SiteConfig(str(folder)),), access_log="off")
    with Server(config=config, telnet="127.0.0.1:0") as server, Server(config=config) as other:
        assert echo(server, b"hello\r\n").endswith(b"hello\r\n")
        for each in server, other:
            assert each.http_address[1] not in {0, 8080}
            assert requests.get(each.http_url("/f"), timeout=DEADLINE).content == b"content of f\n"


def test_a_server_that_cannot_start_says_why_in_a_line_and_leaves_nothing() -> None:
    descriptors = os.listdir("/proc/self/fd")
    with listening() as other:
        port = other.getsockname()[1]
        server = Server(telnet="127.0.0.1:0", http=f"127.0.0.1:{port}")
        with pytest.raises(CannotStart) as caught:
            server.start()
    assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: address already in use"
    assert os.listdir("/proc/self/fd") == descriptors
    with pytest.raises(LookupError, match="the server was not started"):
        server.http_url()
    server.stop()  # nothing to do
    with server:  # the port is free now
        assert server.http_address[1] == port


def test_it_stops_while_clients_hang_and_starts_again() -> None:
    server = Server(telnet="127.0.0.1:0")
    with server, connect(server.http_address) as half, connect(server.telnet_address) as silent:
        server.start()  # it runs already
        half.sendall(b"GET / HT")
        silent.sendall(b"hello\r\n")
        assert receive_until(silent, b"hello\r\n")
        server.stop()
        server.stop()
        assert receive_all(half) == b""
        assert receive_all(silent).count(b"hello") == 0
        server.start()
        assert echo(server, b"again\r\n").endswith(b"again\r\n")


class Shout(Protocol):
    def receive(self, data: bytes, urgent: bool = False) -> Sequence[bytes]:
        return (data.upper(),)


def test_services_of_its_own() -> None:
    config = Config(listen=(ListenConfig("shout", "127.0.0.1:0"), ListenConfig("telnet", "127.0.0.1:0")), access_log="off")
    shout = {name: lambda peer: Shout() for name in ("shout", "telnet")}
    with Server(config=config, services=shout) as first, Server(telnet="127.0.0.1:0") as second:
        for address in *first.addresses["shout"], first.telnet_address:
            with connect(address) as sock:
                sock.sendall(b"hello")
                assert receive_until(sock, b"HELLO") == b"HELLO"
        assert echo(second, b"hello\r\n").endswith(b"hello\r\n")
    with pytest.raises(ValueError, match=r"^listen\[0\].service: expected one of .*, not 'shout'"):
        Server(config=config)


def test_calls_into_its_thread() -> None:
    def fail(worker: object) -> None:
        raise LookupError("of the function")

    with Server() as server:
        (thread,) = server.call(lambda worker: [threading.current_thread()])
        assert thread.name == "rawservers"
        assert server.call(lambda worker: server.call(lambda inner: inner is worker))
        with pytest.raises(LookupError, match="of the function"):
            server.call(fail)
        assert requests.get(server.http_url(), timeout=DEADLINE).ok


def test_server_sockets_are_closed_and_opened_while_it_runs(folder: Path) -> None:
    with Server(folder) as server, connect(server.http_address) as kept:
        kept.sendall(KEPT)
        assert take_body(kept) == b"content of f\n"
        server.call(Worker.close_listeners)
        with pytest.raises(ConnectionRefusedError):
            connect(server.http_address)
        kept.sendall(KEPT)
        assert take_body(kept) == b"content of f\n"
        server.call(Worker.close_connections)
        assert receive_all(kept) == b""
        (again,) = bind(Endpoint(*server.http_address))
        server.call(lambda worker: worker.listen(again, ListenConfig("http", "127.0.0.1:0")))
        assert requests.get(server.http_url("/f"), timeout=DEADLINE).content == b"content of f\n"
    with pytest.raises(ConnectionRefusedError):
        connect(server.http_address)


def test_a_handler_may_stop_the_server() -> None:
    def stop(request: Request) -> Response:
        server.stop()
        return Response(200, (), b"stopped")

    server = Server(config=Config(listen=(ListenConfig("http", "127.0.0.1:0"),), handlers=(("/", stop),), access_log="off"))
    with server:
        assert requests.get(server.http_url(), timeout=DEADLINE).text == "stopped"
        until(lambda: threads() == 0, "the thread ends")
    server.stop()


def test_twenty_at_once_from_twenty_threads(folder: Path) -> None:
    def use(number: int) -> set[bytes]:
        with Server(folder, telnet="127.0.0.1:0") as server:
            line = b"line %d\r\n" % number
            body = requests.get(server.http_url("/f"), timeout=DEADLINE).content
            return {body, echo(server, line)[-len(line) :]}

    with ThreadPoolExecutor(20) as pool:
        said = list(pool.map(use, range(20)))
    assert said == [{b"content of f\n", b"line %d\r\n" % number} for number in range(20)]
    assert threads() == 0


def test_a_hundred_cycles_leave_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_cycles(folder, 100)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.slow
def test_a_thousand_cycles_leave_nothing(folder: Path) -> None:
    check_cycles(folder, 1000)


def check_cycles(folder: Path, cycles: int) -> None:
    """Start, use and stop a server so often: descriptors, threads and Python's objects stay."""

    def cycle() -> None:
        with Server(folder, telnet="127.0.0.1:0") as server, connect(server.http_address) as sock:
            sock.sendall(KEPT)
            assert take_body(sock) == b"content of f\n"

    def census() -> tuple[int, int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threads(), len(gc.get_objects())

    for _ in range(3):  # what is imported or remembered once
        cycle()
    descriptors, running, objects = census()
    for _ in range(cycles):
        cycle()
    after = census()
    assert after[:2] == (descriptors, running)
    assert after[2] - objects < cycles // 2  # a cycle has hundreds of objects


def test_the_public_names_are_there_and_documented() -> None:
    names: dict[str, object] = {}
    exec("from rawservers import *", names)
    assert set(rawservers.PUBLIC) <= names.keys()
    assert set(rawservers.PUBLIC) <= set(dir(rawservers))
    for name in rawservers.PUBLIC:
        doc = getattr(rawservers, name).__doc__
        assert doc, name
        assert not doc.startswith(f"{name}("), f"{name} has only what dataclass says"


# TLS


def test_tls_with_a_certificate_that_is_made_for_it(folder: Path) -> None:
    with Server(folder, telnet="127.0.0.1:0", tls=True) as server:
        assert server.http_url("/f").startswith("https://127.0.0.1:")
        assert httpx.get(server.http_url("/f"), verify=server.client_context()).text == "content of f\n"
        with requests.Session() as session:
            session.trust_env = False
            assert session.get(server.http_url("/f"), verify=server.ca_file, timeout=DEADLINE).status_code == 200
        sock = socket.create_connection(server.telnet_address, DEADLINE)
        with server.client_context().wrap_socket(sock, server_hostname="localhost") as secure:
            secure.sendall(b"a line\r\n")
            assert secure.recv(100) == b"a line\r\n"


def test_tls_with_files(folder: Path, tmp_path: Path) -> None:
    files = issue(tmp_path)
    with Server(folder, tls=TLSConfig(str(files.certificate), str(files.key))) as server:
        assert httpx.get(server.http_url("/f"), verify=client_context()).text == "content of f\n"


def test_handlers_know_the_scheme() -> None:
    def answer(request: Request) -> Response:
        return Response(200, body=f"{request.scheme} {request.is_secure}")

    config = Config(handlers=(("/", answer),), access_log="off")
    with Server(config=config, tls=True) as server:
        assert httpx.get(server.http_url("/"), verify=server.client_context()).text == "https True"


def test_what_tls_may_not_be(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="tls: expected True or a TLSConfig, not 'yes'"):
        Server(folder, tls="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the config has the listeners"):
        Server(tls=True, config=Config(listen=(ListenConfig("http", "0"),)))
    with pytest.raises(CannotStart, match="cannot read the certificate: no such file or directory"):
        Server(folder, tls=TLSConfig(str(tmp_path / "no.pem"))).start()
    self_signed.make_trusted.cache_clear()
    self_signed.authority.cache_clear()
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ValueError, match=r"needs the package trustme: pip install 'rawservers\[tls\]'$"):
        Server(folder, tls=True)
