"""Whose addresses an answer may name, by the connection and the head of the request."""

from __future__ import annotations

import pytest

from rawservers.core.peer import Address, Clock, Peer
from rawservers.http.request import parse
from rawservers.welcome.visitor import Visitor, visitor_of

LOCAL = ("127.0.0.1", 8080)


class FakePeer(Peer):
    @property
    def local(self) -> Address:
        return LOCAL


def visit(
    head: str = "GET / HTTP/1.1\r\nHost: localhost:8080\r\n", accepted: str = "127.0.0.1", told: str | None = None
) -> Visitor:
    peer = FakePeer((accepted, 50000), Clock())
    if told is not None:
        peer.address = (told, 50001)
    request = parse(f"{head}\r\n".encode())
    request.peer = peer
    return visitor_of(request)


ALL, OWN, NONE = (True, True), (True, False), (False, False)  # sees the addresses of its own connection, and all others


def sight(visitor: Visitor) -> tuple[bool, bool]:
    assert (visitor.peer is None) == (visitor.local is None)
    return visitor.peer is not None, visitor.sees_all


@pytest.mark.parametrize(
    ("accepted", "host", "expected"),
    [
        ("127.0.0.1", "localhost", ALL),
        ("127.0.0.1", "LOCALHOST.:8080", ALL),
        ("127.0.0.1", "127.0.0.1:8080", ALL),
        ("127.8.0.1", "127.8.0.1", ALL),
        ("::1", "[::1]:8080", ALL),
        ("::1", "[0:0::1]", ALL),
        ("127.0.0.1", "rebound.example:8080", NONE),
        ("127.0.0.1", "localhost.rebound.example", NONE),
        ("127.0.0.1", "127.0.0.1.rebound.example", NONE),
        ("127.0.0.1", "rebound.localhost", NONE),
        ("127.0.0.1", "192.0.2.1", NONE),
        ("127.0.0.1", "1127.0.0.1", NONE),
        ("192.0.2.7", "localhost", OWN),
        ("192.0.2.7", "127.0.0.1", OWN),
        ("192.0.2.7", "www.example", OWN),
        ("2001:db8::7", "[::1]", OWN),
        ("unix:", "localhost", NONE),
        ("unix:/run/127.0.0.1", "localhost", NONE),
    ],
)
def test_by_the_address_and_the_host(accepted: str, host: str, expected: tuple[bool, bool]) -> None:
    assert sight(visit(f"GET / HTTP/1.1\r\nHost: {host}\r\n", accepted)) == expected


@pytest.mark.parametrize(
    "field",
    ["Forwarded: for=192.0.2.1", "forwarded:", "X-Forwarded-For: 127.0.0.1", "x-forwarded-host: h", "X-Forwarded-Proto: https",
     "Via: 1.1 proxy", "X-Real-IP: 192.0.2.1", "True-Client-IP: 192.0.2.1", "CF-Connecting-IP: 192.0.2.1",
     "X-Original-Forwarded-For: 192.0.2.1", "X-Cluster-Client-IP: 192.0.2.1", "X-Remote-Addr: 192.0.2.1", "X-ProxyUser-Ip: h",
     "Proxy-Connection: keep-alive", "X-Forward-For: h", "X-Remote-IP: h", "X-Appengine-User-IP: 192.0.2.1"],
)  # fmt: skip
@pytest.mark.parametrize("accepted", ["127.0.0.1", "192.0.2.7"])
def test_what_a_proxy_adds_takes_all_away(field: str, accepted: str) -> None:
    visitor = visit(f"GET / HTTP/1.1\r\nHost: localhost\r\n{field}\r\n", accepted)
    assert sight(visitor) == NONE
    assert visitor.is_forwarded


@pytest.mark.parametrize(
    ("accepted", "told", "expected"),
    [
        ("127.0.0.1", "192.0.2.1", NONE),
        ("192.0.2.7", "127.0.0.1", NONE),
        ("192.0.2.7", "192.0.2.1", NONE),
        ("unix:", "127.0.0.1", NONE),
        ("127.0.0.1", "127.0.0.1", ALL),
    ],
)
def test_a_preamble_that_names_somebody_else(accepted: str, told: str, expected: tuple[bool, bool]) -> None:
    assert sight(visit(accepted=accepted, told=told)) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("GET / HTTP/1.0\r\nHost: 127.0.0.1:8080\r\nConnection: close\r\n", NONE),  # nginx, as it is by default
        ("GET / HTTP/1.0\r\n", OWN),  # typed by hand
        ("GET / HTTP/1.1\r\nHost:\r\n", OWN),
    ],
)
def test_without_a_browser(head: str, expected: tuple[bool, bool]) -> None:
    assert sight(visit(head)) == expected
    assert sight(visit(head, "192.0.2.7")) == OWN


def test_a_simple_request() -> None:
    request = parse(b"GET /\r\n")
    request.peer = FakePeer(("127.0.0.1", 50000), Clock())
    assert sight(visitor_of(request)) == OWN


def test_a_browser_adds_none_of_these() -> None:
    names = (
        "Connection sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform Upgrade-Insecure-Requests User-Agent Accept Sec-Fetch-Site"
        " Sec-Fetch-Mode Sec-Fetch-User Sec-Fetch-Dest Accept-Encoding Accept-Language DNT Sec-GPC Priority Pragma"
        " Cache-Control Cookie Referer TE Save-Data Device-Memory Downlink ECT RTT If-None-Match Range Origin"
    )
    fields = "".join(f"{name}: x\r\n" for name in names.split())
    assert sight(visit(f"GET / HTTP/1.1\r\nHost: localhost\r\n{fields}")) == ALL


def test_both_ends() -> None:
    assert visit(told="127.0.0.1")[:3] == (("127.0.0.1", 50001), LOCAL, "localhost")
