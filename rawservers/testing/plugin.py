"""The pytest plugin: the fixtures `http_server` and `telnet_server`, and a factory of each.

It is loaded by every run of pytest where rawservers is installed, so it imports nothing but pytest until a fixture is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from rawservers.settings import TLSConfig
    from rawservers.testing.fixture import ServerFactory
    from rawservers.testing.http import HTTPServer, HTTPServerFactory
    from rawservers.testing.telnet import TelnetServer, TelnetServerFactory

S = TypeVar("S", "HTTPServer", "TelnetServer")


@pytest.fixture
def http_server(http_server_factory: HTTPServerFactory) -> HTTPServer:
    """An HTTP server on a free port, which answers what the test expects, and fails on purpose."""
    return http_server_factory()


@pytest.fixture
def telnet_server(telnet_server_factory: TelnetServerFactory) -> TelnetServer:
    """A Telnet server on a free port, which answers what the test expects, and fails on purpose."""
    return telnet_server_factory()


@pytest.fixture
def http_server_factory(request: pytest.FixtureRequest) -> Iterator[HTTPServerFactory]:
    """Starts HTTP servers: call it with host=, port=, strict= or tls=, or without arguments. Each is stopped and checked."""
    require_linux()
    from rawservers.testing.http import HTTPServer

    yield from make_factory(HTTPServer, request.session)


@pytest.fixture
def telnet_server_factory(request: pytest.FixtureRequest) -> Iterator[TelnetServerFactory]:
    """Starts Telnet servers: call it with host=, port=, strict= or tls=, or without arguments. Each is stopped and checked."""
    require_linux()
    from rawservers.testing.telnet import TelnetServer

    yield from make_factory(TelnetServer, request.session)


def make_factory(kind: type[S], session: pytest.Session) -> Iterator[ServerFactory[S]]:
    servers: list[S] = []
    failed = session.testsfailed

    def make(host: str = "127.0.0.1", *, port: int = 0, strict: bool = True, tls: TLSConfig | bool = False) -> S:
        server = kind(host, port=port, strict=strict, tls=tls)
        server.start()
        servers.append(server)
        return server

    try:
        yield make
    finally:
        for server in servers:
            server.stop()
    check_all(servers, with_missing=session.testsfailed == failed)


def check_all(servers: Sequence[HTTPServer | TelnetServer], *, with_missing: bool) -> None:
    """Check those that are strict, and fail for all of them at once, without a traceback of ours: it would say nothing.

    with_missing: also for what has not come. A test that has failed before its client came has said so.
    """
    __tracebackhide__ = True
    errors: list[AssertionError] = []
    for server in servers:
        try:
            if server.strict:
                server.check(with_missing=with_missing)
        except AssertionError as error:
            errors.append(error)
    message = "\n".join(map(str, errors))
    if cause := next((error.__cause__ for error in errors if error.__cause__), None):
        raise AssertionError(message) from cause
    if errors:
        pytest.fail(message, pytrace=False)


def require_linux() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux (epoll)")
