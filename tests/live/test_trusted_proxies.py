"""Clients behind trusted proxies, in the log and for handlers, whether a response is cached or not."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pytest

import rawservers
from rawservers import Config, ListenConfig, Request, Response
from rawservers.status import fetch
from tests.harness.server import Server
from tests.harness.sockets import receive_until
from tests.harness.waiting import DEADLINE, until

CONF = """
[[listen]]
service = "http"
address = "0"
[[listen]]
service = "http"
address = "unix:http"
[[listen]]
service = "status"
address = "unix:status"
[http]
root = "www"
trusted_proxies = ["127.0.0.0/8"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "www").mkdir()
    (place / "www" / "f").write_bytes(b"content of f\n")
    os.utime(place / "www" / "f", (1_000_000_000, 1_000_000_000))
    (place / "conf.toml").write_text(CONF)
    return place


@pytest.fixture(scope="module")
def proxied(place: Path) -> Iterator[Server]:
    with Server("-c", place / "conf.toml") as server:
        server.address("http")
        until(lambda: "/status" in server.stderr(), "all listen")
        until(lambda: time.time() > (place / "www" / "f").stat().st_ctime + 0.05, "the file is old enough to be cached")
        yield server


def request(*fields: str, path: str = "/f") -> bytes:
    return "".join(f"{line}\r\n" for line in [f"GET {path} HTTP/1.1", "Host: h", *fields, ""]).encode()


def logged(server: Server, sock: socket.socket, requests: Sequence[bytes], end: bytes = b"content of f\n") -> list[str]:
    """The clients that the log has for these requests, each sent once the one before it was answered."""
    lines = len(server.log())
    for each in requests:
        sock.sendall(each)
        assert receive_until(sock, end).endswith(end)
    return [line.partition(" ")[0] for line in server.await_log(lines + len(requests))[lines:]]


AGENTS = ("one", "other")
CLIENTS = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "")


def cache_hits(place: Path) -> int:
    hits: int = json.loads(fetch(f"unix:{place}/status", "json"))["counters"]["http"]["cache_hits"]
    return hits


def test_each_cached_response_is_logged_with_its_client(proxied: Server, place: Path) -> None:
    before = cache_hits(place)
    rows = [(agent, client) for _ in range(4) for agent, client in product(AGENTS, CLIENTS)]
    fields = [[f"User-Agent: {agent}"] + [f"X-Forwarded-For: {client}"] * bool(client) for agent, client in rows]
    with proxied.connect() as sock:
        assert logged(proxied, sock, [request(*each) for each in fields]) == [client or "127.0.0.1" for _, client in rows]
        forwarded = [
            request(f'Forwarded: for="[{client}]"' if ":" in client else f"Forwarded: for={client}") for _, client in rows
        ]
        assert logged(proxied, sock, forwarded) == [client or "127.0.0.1" for _, client in rows]
    assert cache_hits(place) - before > 1.8 * len(rows)


def test_the_same_bytes_from_another_peer(proxied: Server, place: Path) -> None:
    """Its fields are not believed, even if the response to the very same request is cached."""
    with proxied.connect() as sock, socket.socket(socket.AF_UNIX) as other:
        other.settimeout(DEADLINE)
        other.connect(str(place / "http"))
        for _ in range(4):
            assert logged(proxied, sock, [request("X-Forwarded-For: 192.0.2.1")] * 2) == ["192.0.2.1"] * 2
            assert logged(proxied, other, [request("X-Forwarded-For: 192.0.2.1")] * 2) == ["unix:"] * 2


def test_pipelined_requests_of_several_clients(proxied: Server) -> None:
    for _ in range(3):
        lines = len(proxied.log())
        clients = ["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.1"] * 4
        with proxied.connect() as sock:
            sock.sendall(b"".join(request(f"X-Forwarded-For: {client}") for client in clients))
            received = b""
            while received.count(b"content of f\n") < len(clients):
                received += sock.recv(65536)
        assert [line.partition(" ")[0] for line in proxied.await_log(lines + len(clients))[lines:]] == clients


def test_fields_too_long_to_share_a_response(proxied: Server) -> None:
    with proxied.connect() as sock:
        for number in range(4):
            chain = ", ".join(["203.0.113.9"] * 40 + [f"192.0.2.{number}"])
            assert logged(proxied, sock, [request(f"X-Forwarded-For: {chain}")] * 3) == [f"192.0.2.{number}"] * 3


def test_errors_are_logged_with_their_client(proxied: Server) -> None:
    with proxied.connect() as sock:
        fields = ("X-Forwarded-For: 192.0.2.1", "Content-Length: 5")
        assert logged(proxied, sock, [request("X-Forwarded-For: 192.0.2.1", path="/nope")], b"</html>\n") == ["192.0.2.1"]
        assert logged(proxied, sock, [request(*fields)], b"</html>\n") == [
            "127.0.0.1"
        ]  # of a malformed head nothing is believed


def handler(request: Request) -> Response:
    return Response.json([*request.client, request.scheme])


@pytest.mark.parametrize("proxies", [(), ("127.0.0.1",)])
def test_handlers_see_the_client(proxies: tuple[str, ...]) -> None:
    listen = (ListenConfig("http", "127.0.0.1:0"), ListenConfig("http", "127.0.0.1:0", proxy_protocol=("127.0.0.0/8",)))
    config = Config(handlers=(("/", handler),), listen=listen, access_log="off", trusted_proxies=proxies)
    with rawservers.Server(config=config) as server:
        plain, proxied = server.addresses["http"]
        assert not isinstance(plain, str)
        assert not isinstance(proxied, str)

        def asked(address: tuple[str, int], data: bytes) -> tuple[list[object], int]:
            with socket.create_connection(address, DEADLINE) as sock:
                sock.sendall(data)
                answer = receive_until(sock, b"]")
                return json.loads(answer.partition(b"\r\n\r\n")[2]), sock.getsockname()[1]

        told, port = asked(plain, request())
        assert told == ["127.0.0.1", port, "http"]
        told, port = asked(plain, request("X-Forwarded-For: 192.0.2.1:7", "X-Forwarded-Proto: https"))
        assert told == (["192.0.2.1", 7, "https"] if proxies else ["127.0.0.1", port, "http"])
        header = b"PROXY TCP4 198.51.100.7 198.51.100.2 40000 80\r\n"
        told, _ = asked(proxied, header + request("X-Forwarded-For: 192.0.2.1"))
        assert told == ["198.51.100.7", 40000, "http"]  # a client that is no trusted proxy itself


def test_a_wrong_name_is_told() -> None:
    with pytest.raises(ValueError, match=r"^trusted_proxies: not a network: 'proxy\.example'"):
        Config(trusted_proxies=("proxy.example",))


def test_nothing_is_read_without_the_setting(server: Server) -> None:
    with server.connect() as sock:
        assert logged(server, sock, [request("X-Forwarded-For: 192.0.2.1")] * 4) == ["127.0.0.1"] * 4
