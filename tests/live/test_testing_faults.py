"""Faults on purpose, as real clients see them: the table of docs/embedding.md."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import aiohttp
import httpx
import pytest
import requests
import urllib3

from rawservers.testing import HTTPServer
from tests.harness.documents import name_errors, read_table
from tests.harness.waiting import DEADLINE

SHORT = 0.3  # seconds after which a client gives up, where that is the fault

Call = Callable[[str, float, float], object]  # url, seconds to connect, seconds to read


def with_requests(url: str, connect: float, read: float) -> object:
    return requests.get(url, timeout=(connect, read)).text


def with_urllib3(url: str, connect: float, read: float) -> object:
    with urllib3.PoolManager() as pool:
        return pool.request("GET", url, retries=False, timeout=urllib3.Timeout(connect=connect, read=read)).data.decode()


def with_httpx(url: str, connect: float, read: float) -> object:
    with httpx.Client(timeout=httpx.Timeout(read, connect=connect)) as client:
        return client.get(url).text


def with_aiohttp(url: str, connect: float, read: float) -> object:
    async def get() -> str:
        timeout = aiohttp.ClientTimeout(sock_connect=connect, sock_read=read)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return await response.text()

    return asyncio.run(get())


CLIENTS: dict[str, Call] = {
    "requests": with_requests,
    "urllib3": with_urllib3,
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
}


Kinds = type[Exception] | tuple[type[Exception], ...]


class Fault(NamedTuple):
    """arm: what the test says; errors: what each client raises; connect, read: seconds of its patience."""

    arm: Callable[[HTTPServer], AbstractContextManager[object] | object]
    errors: dict[str, Kinds]
    connect: float = DEADLINE
    read: float = DEADLINE


def expectation(server: HTTPServer):  # type: ignore[no-untyped-def]
    return server.expect_request("/a")


def errors(*kinds: Kinds) -> dict[str, Kinds]:
    return dict(zip(CLIENTS, kinds, strict=True))


BODY = "0123456789"
INCOMPLETE = errors(
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.ProtocolError,
    httpx.RemoteProtocolError,
    aiohttp.ClientPayloadError,
)
BROKEN = errors(
    requests.exceptions.ChunkedEncodingError, urllib3.exceptions.ProtocolError, httpx.ReadError, aiohttp.ClientPayloadError
)
RESET = errors(requests.ConnectionError, urllib3.exceptions.ProtocolError, httpx.ReadError, aiohttp.ClientOSError)
RESET_EARLY = errors(
    requests.ConnectionError,
    (urllib3.exceptions.ProtocolError, urllib3.exceptions.NewConnectionError),
    (httpx.ReadError, httpx.WriteError, httpx.ConnectError, httpx.RemoteProtocolError),
    aiohttp.ClientOSError,
)
CLOSED = errors(
    requests.ConnectionError, urllib3.exceptions.ProtocolError, httpx.RemoteProtocolError, aiohttp.ServerDisconnectedError
)
MALFORMED = errors(
    requests.ConnectionError, urllib3.exceptions.ProtocolError, httpx.RemoteProtocolError, aiohttp.ClientResponseError
)
UNANSWERED = errors(requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, httpx.ReadTimeout, aiohttp.SocketTimeoutError)
REFUSED = errors(
    requests.ConnectionError, urllib3.exceptions.NewConnectionError, httpx.ConnectError, aiohttp.ClientConnectorError
)
NO_CONNECTION = errors(
    requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError, httpx.ConnectTimeout, aiohttp.ConnectionTimeoutError
)

FAULTS = {
    "reset": Fault(lambda server: expectation(server).reset(), RESET),
    "close": Fault(lambda server: expectation(server).close(), CLOSED),
    "hang": Fault(lambda server: expectation(server).hang(), UNANSWERED, read=SHORT),
    "delay": Fault(lambda server: expectation(server).delay(3600).respond_with_data(BODY), UNANSWERED, read=SHORT),
    "cut_after": Fault(lambda server: expectation(server).cut_after(4).respond_with_data(BODY), INCOMPLETE),
    "cut_after, reset": Fault(lambda server: expectation(server).cut_after(4, "reset").respond_with_data(BODY), BROKEN),
    "declare_length": Fault(lambda server: expectation(server).declare_length(11).respond_with_data(BODY), INCOMPLETE),
    "raw": Fault(lambda server: expectation(server).raw(b"nothing of the kind\r\n\r\n"), MALFORMED),
    "down": Fault(HTTPServer.down, REFUSED),
    "full_backlog": Fault(HTTPServer.full_backlog, NO_CONNECTION, connect=SHORT),
    "never_read": Fault(HTTPServer.never_read, UNANSWERED, read=SHORT),
    # More than one, since aiohttp tries again by itself. The reset may come while the client still looks at its connect.
    "reset_connections": Fault(lambda server: server.reset_connections(100), RESET_EARLY),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_the_right_exception(http_server: HTTPServer, fault: str, client: str) -> None:
    arm, kinds, connect, read = FAULTS[fault]
    armed = arm(http_server)
    with armed if isinstance(armed, AbstractContextManager) else nullcontext():
        with pytest.raises(Exception) as caught:  # noqa: PT011
            CLIENTS[client](http_server.url("/a"), connect, read)
        assert isinstance(caught.value, kinds[client])
    http_server.clear()
    http_server.serve("/b", BODY)
    assert CLIENTS[client](http_server.url("/b"), DEADLINE, DEADLINE) == BODY


@pytest.mark.parametrize("client", CLIENTS)
def test_a_trickle_is_no_error(http_server: HTTPServer, client: str) -> None:
    expectation(http_server).trickle(1).respond_with_data(BODY)
    assert CLIENTS[client](http_server.url("/a"), DEADLINE, DEADLINE) == BODY


def test_the_document_says_so() -> None:
    assert read_table("docs/embedding.md", "HTTP") == {
        name: {client: name_errors(fault.errors[client]) for client in CLIENTS} for name, fault in FAULTS.items()
    }
