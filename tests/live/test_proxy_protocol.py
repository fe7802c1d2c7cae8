"""The PROXY protocol in a real server: proxies that send a header, proxies that send none, and peers that are no proxies."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rawservers.status import fetch
from tests.harness import wire
from tests.harness.needs import need
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all, receive_until
from tests.harness.tls import Client, issue, secure
from tests.harness.waiting import DEADLINE, until

CASES = wire.load("proxy")
GOOD = [case for case in CASES if "client" in case and case["rest"] == "GET /f\\r\\n"]
BAD = [case for case in CASES if "error" in case]
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 80\r\n"
V2 = wire.unescape(next(case["send"] for case in CASES if case["name"] == "v2-tcp6")).removesuffix(b"GET /f\r\n")

CONF = """
[[listen]]
service = "http"
address = "0"
proxy_protocol = ["127.0.0.0/8"]
[[listen]]
service = "telnet"
address = "0"
proxy_protocol = ["::1", "::ffff:127.0.0.1"]
[[listen]]
service = "http"
address = "unix:proxied"
proxy_protocol = ["unix"]
[[listen]]
service = "http"
address = "unix:http"
proxy_protocol = ["127.0.0.0/8"]
[[listen]]
service = "telnet"
address = "unix:telnet"
proxy_protocol = ["127.0.0.0/8"]
[[listen]]
service = "status"
address = "unix:status"
[http]
root = "www"
[limits]
linger_time = 0.2
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "www").mkdir()
    (place / "www" / "f").write_bytes(b"content of f\n")
    return place


@pytest.fixture(scope="module")
def proxied(place: Path) -> Iterator[Server]:
    """A server whose listeners on loopback addresses, and one on a unix socket, take headers."""
    (place / "conf.toml").write_text(CONF)
    with Server("-c", place / "conf.toml") as server:
        server.address("telnet")
        until(lambda: "/status" in server.stderr(), "all listen")
        yield server


def ask(place: Path, name: str, data: bytes) -> bytes:
    """All that comes back over a unix socket for `data` and a FIN."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(str(place / name))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


def counters(place: Path, service: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(fetch(f"unix:{place}/status", "json"))["counters"][service]
    return found


def test_who_must_send_a_header_is_said_at_the_start(proxied: Server) -> None:
    lines = [line for line in proxied.stderr().splitlines() if " listening on " in line]
    told = sorted(line.partition(" (with a PROXY header from ")[2].rstrip(")") for line in lines)
    assert told == ["", *["127.0.0.0/8"] * 3, "::1, ::ffff:127.0.0.1", "unix"]


def test_the_log_has_the_client(proxied: Server) -> None:
    for case in GOOD:
        lines = proxied.settled_log(V1)
        assert exchange(proxied, wire.unescape(case["send"])) == b"content of f\n", case["name"]
        assert proxied.await_log(lines + 1)[-1].startswith(f"{case['client'] or '127.0.0.1'} - - ["), case["name"]


def test_what_is_no_header_is_refused(proxied: Server, place: Path) -> None:
    for service in ("http", "telnet"):
        before = counters(place, service)
        for case in BAD:
            assert exchange(proxied, wire.unescape(case["send"]), service) == b"", case["name"]
        after = counters(place, service)
        assert after["rejected"] - before["rejected"] == len(BAD)
        assert after["answers"] == before["answers"]
    for error in {case["error"] for case in BAD}:
        line = re.compile(rf"^connection from 127\.0\.0\.1:\d+ closed: {re.escape(error)}$", re.MULTILINE)
        until(lambda line=line: line.search(proxied.stderr()) is not None, error)  # type: ignore[misc]


def test_a_header_is_not_whole_before_its_end(proxied: Server, place: Path) -> None:
    before = counters(place, "http")["rejected"]
    for header in (V1, V2):
        for end in (1, 5, len(header) - 1):
            assert exchange(proxied, header[:end]) == b""
    assert counters(place, "http")["rejected"] - before == 6
    until(lambda: "closed: FIN before the end of the PROXY header" in proxied.stderr(), "a line")


def test_who_only_looks_whether_somebody_listens_is_not_counted(proxied: Server, place: Path) -> None:
    before = counters(place, "http")["rejected"]
    with proxied.connect() as sock:
        name = "{}:{}".format(*sock.getsockname())
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b""
    assert counters(place, "http")["rejected"] == before
    assert exchange(proxied, b"none") == b""
    until(lambda: proxied.stderr().endswith("closed: no PROXY header\n"), "the line of another one")
    assert name not in proxied.stderr()


def test_a_telnet_session_behind_a_header(proxied: Server) -> None:
    for header in (V1, V2):
        with proxied.connect("telnet") as sock:
            sock.sendall(header)
            sock.sendall(b"a line\r\n")
            assert receive_until(sock, b"\r\n") == b"a line\r\n"
            sock.sendall(header + b"\r\n")  # no header any more
            assert receive_until(sock, b"\r\n") != b""


def test_a_second_header_is_ordinary_input(proxied: Server) -> None:
    assert exchange(proxied, V1 + V2 + b"GET /f\r\n").startswith(b"HTTP/1.0 400 ")
    assert exchange(proxied, V1 + V1, "telnet") == V1


def test_a_proxy_on_a_unix_socket(proxied: Server, place: Path) -> None:
    lines = proxied.settled_log(V1)
    assert ask(place, "proxied", V2 + b"GET /f\r\n") == b"content of f\n"
    assert proxied.await_log(lines + 1)[-1].startswith("2001:db8::1 - - [")
    assert ask(place, "proxied", b"GET /f\r\n") == b""
    until(lambda: "connection from unix: closed: no PROXY header" in proxied.stderr(), "a line")


def test_who_is_no_proxy_is_served_as_if_there_was_none(proxied: Server, place: Path) -> None:
    for header in (V1, V2):
        lines = proxied.settled_log(V1)
        assert ask(place, "http", header + b"GET /f\r\n").startswith(b"HTTP/1.0 400 ")
        assert proxied.await_log(lines + 1)[-1].startswith("unix: - - [")
    assert ask(place, "telnet", V1) == V1
    assert ask(place, "http", b"GET /f\r\n") == b"content of f\n"


def test_a_server_without_the_setting(server: Server) -> None:
    assert exchange(server, V1 + b"GET /f\r\n").startswith(b"HTTP/1.0 400 ")
    assert exchange(server, V2 + b"GET /f\r\n").startswith(b"HTTP/1.0 400 ")
    assert exchange(server, V1, "telnet") == V1


def test_curl_as_a_proxy(proxied: Server) -> None:
    lines = proxied.settled_log(V1)
    done = subprocess.run(
        [need("curl"), "-sS", "--haproxy-protocol", f"{proxied.url}/f"], capture_output=True, timeout=DEADLINE
    )
    assert (done.stdout, done.stderr) == (b"content of f\n", b"")
    assert proxied.await_log(lines + 1)[-1].startswith("127.0.0.1 - - [")


def connected(server: Server, client: int) -> socket.socket:
    sock = server.connect("telnet")
    sock.sendall(b"PROXY TCP4 192.0.2.%d 198.51.100.2 40000 80\r\nx\r\n" % client)
    return sock


def test_limits_per_address_count_the_proxy(place: Path, tmp_path: Path) -> None:
    """However many clients it names, and in whatever order its connections end."""
    conf = place / "limited.toml"
    conf.write_text(CONF.replace("unix:", f"unix:{tmp_path}/") + "connections_per_address = 2\n")
    with Server("-c", conf) as server:
        for _ in range(3):
            socks: list[Any] = [connected(server, client) for client in (1, 2)]
            assert [receive_until(sock, b"\r\n") for sock in socks] == [b"x\r\n"] * 2
            with server.connect("telnet") as third:
                assert third.recv(1) == b""
            socks.reverse()
            for sock in socks:
                sock.shutdown(socket.SHUT_WR)
                assert receive_all(sock) == b""
                sock.close()
        until(lambda: counters(tmp_path, "telnet")["rejected"] == 3, "three were refused")


@pytest.fixture(scope="module")
def secured(place: Path) -> Iterator[Server]:
    """A server that expects a header, and then TLS."""
    tls = issue(place).toml
    listen = "".join(
        f'[[listen]]\nservice = "{service}"\naddress = "0"\nproxy_protocol = ["127.0.0.1"]\ntls = {tls}\n'
        for service in ("http", "telnet")
    )
    path = place / "secured.toml"
    path.write_text(f'{listen}[http]\nroot = "www"\n')
    with Server("-c", path) as server:
        yield server


def is_complete(client: Client) -> bool:
    """Whether its handshake is; it goes on as far as it can."""
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.do_handshake()
        return True
    return False


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_handshake_behind_a_header(secured: Server, header: bytes) -> None:
    """However both are cut into packets."""
    client = "192.0.2.1" if header == V1 else "2001:db8::1"
    for end in (len(header), len(header) + 1, len(header) + 100, 5):
        lines = len(secured.log())
        with secured.connect("https") as sock:
            tls = Client()
            assert not is_complete(tls)
            packets = header + tls.say()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(packets[:end])
            sock.sendall(packets[end:])
            while not is_complete(tls):
                tls.hear(sock.recv(65536))
            sock.sendall(tls.say(b"GET /f\r\n"))
            while not tls.closed:
                tls.hear(sock.recv(65536))
            assert tls.received == b"content of f\n"
        assert secured.await_log(lines + 1)[-1].startswith(f"{client} - - [")


def test_a_session_with_tls_behind_a_header(secured: Server) -> None:
    with secured.connect("telnets") as sock:
        sock.sendall(V2)
        with secure(sock) as session:
            session.sendall(b"a line\r\n")
            assert receive_until(session, b"\r\n") == b"a line\r\n"


def test_no_handshake_without_a_header(secured: Server) -> None:
    for service in ("https", "telnets"):
        with secured.connect(service) as sock:
            sock.sendall(b"\x16\x03\x01")
            assert receive_all(sock) == b""
    until(lambda: secured.stderr().count("closed: no PROXY header") == 2, "a line for each")
