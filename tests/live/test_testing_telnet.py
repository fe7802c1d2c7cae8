"""`rawservers.testing.TelnetServer` with real clients: logins, lines, and faults as they see them."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import pexpect
import pytest
import telnetlib3
from netmiko import ConnectHandler
from netmiko.exceptions import NetmikoAuthenticationException, ReadTimeout

from rawservers.telnet.service import LineClient
from rawservers.testing import TelnetServer
from tests.harness.documents import name_errors, read_table
from tests.harness.needs import need
from tests.harness.sockets import receive_all, receive_until
from tests.harness.waiting import DEADLINE

SHORT = 1.0  # seconds after which a client gives up, where that is the fault

PROMPT = "router> "


def version_of(host: str, port: int) -> str:
    """What a test of somebody's own client might call: it logs in by hand, and asks."""
    with socket.create_connection((host, port), DEADLINE) as sock:
        for prompt, line in ((b"login: ", b"admin\r\n"), (b"Password: ", b"secret\r\n"), (b"> ", b"show version\r\n")):
            receive_until(sock, prompt)
            sock.sendall(line)
        return receive_until(sock, b"> ").removesuffix(b"> ").strip().decode()


def test_the_contract(telnet_server: TelnetServer) -> None:
    telnet_server.expect_line("admin", prompt="login: ", ordered=True)
    telnet_server.expect_line("secret", prompt="Password: ", hidden=True, ordered=True)
    telnet_server.expect_line("show version", prompt="> ").trickle(1, every=0.01).respond("7.2")
    assert version_of(*telnet_server.address) == "7.2"
    assert telnet_server.lines == [b"admin", b"secret", b"show version"]
    assert b"\xff\xfb\x01" in b"".join(entry.data for entry in telnet_server.log if entry.is_sent)


# Real clients


def with_telnetlib3(server: TelnetServer, connect: float, read: float) -> str:
    async def talk() -> str:
        opening = telnetlib3.open_connection(*server.address, connect_minwait=0.05, connect_maxwait=0.5)
        reader, writer = await asyncio.wait_for(opening, connect)
        try:
            for prompt, line in (("login: ", "admin"), ("Password: ", "secret"), (PROMPT, "show version")):
                await asyncio.wait_for(reader.readuntil(prompt.encode()), read)
                writer.write(f"{line}\r\n")
            return (await asyncio.wait_for(reader.readuntil(PROMPT.encode()), read)).decode()
        finally:
            writer.close()

    return asyncio.run(talk())


def with_netmiko(server: TelnetServer, connect: float, read: float) -> str:
    host, port = server.address
    device = {"device_type": "cisco_ios_telnet", "host": host, "port": port, "username": "admin", "password": "secret"}
    with ConnectHandler(**device, conn_timeout=connect, auth_timeout=read, read_timeout_override=read) as connection:
        return str(connection.send_command("show version"))


def with_pexpect(server: TelnetServer, connect: float, read: float) -> str:
    host, port = server.address
    child = pexpect.spawn(need("inetutils-telnet"), [host, str(port)], timeout=min(connect, read), encoding="utf-8")
    try:
        for prompt, line in (("login: ", "admin"), ("Password: ", "secret"), (PROMPT, "show version")):
            child.expect_exact(prompt)
            child.sendline(line)
        child.expect_exact(PROMPT)
        return str(child.before)
    finally:
        child.close()


CLIENTS: dict[str, Callable[[TelnetServer, float, float], str]] = {
    "telnetlib3": with_telnetlib3,
    "netmiko": with_netmiko,
    "pexpect": with_pexpect,
}


def expect_login(server: TelnetServer) -> None:
    """What all of these clients send, but for `show version`."""
    server.echo = True  # netmiko waits for its commands to be sent back, as devices do
    server.expect_line("admin", prompt="login: ", ordered=True)
    server.expect_line("secret", prompt="Password: ", hidden=True, ordered=True)
    server.expect_line(re.compile("terminal "), prompt=PROMPT)
    server.expect_line("exit").close()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_login_and_a_command(telnet_server: TelnetServer, client: str) -> None:
    expect_login(telnet_server)
    telnet_server.expect_line("show version").trickle(2, every=0.01).respond("7.2\nbuilt today")
    rows = re.split("[\r\n]+", CLIENTS[client](telnet_server, DEADLINE, DEADLINE))
    assert [row for row in rows if row in {"7.2", "built today"}] == ["7.2", "built today"]
    assert [line for line in telnet_server.lines if line and not line.startswith((b"terminal", b"exit"))] == [
        b"admin", b"secret", b"show version",
    ]  # fmt: skip
    sent = b"".join(entry.data for entry in telnet_server.log if entry.is_sent)
    assert b"secret" not in sent


Kinds = type[BaseException] | tuple[type[BaseException], ...]


class Fault(NamedTuple):
    """arm: what the test says; errors: what each client raises; connect, read: seconds of its patience."""

    arm: Callable[[TelnetServer], AbstractContextManager[object] | object]
    errors: tuple[Kinds, ...]
    connect: float = DEADLINE
    read: float = DEADLINE


def version(server: TelnetServer):  # type: ignore[no-untyped-def]
    return server.expect_line("show version")


END = (asyncio.IncompleteReadError, EOFError, pexpect.EOF)
RESET = (ConnectionResetError, ConnectionResetError, pexpect.EOF)
SILENCE = (TimeoutError, ReadTimeout, pexpect.TIMEOUT)

FAULTS = {
    "reset": Fault(lambda server: version(server).reset(), RESET),
    "close": Fault(lambda server: version(server).close(), END),
    "hang": Fault(lambda server: version(server).hang(), SILENCE, read=SHORT),
    "cut_after": Fault(lambda server: version(server).cut_after(2).respond("7.2"), END),
    "cut_after, reset": Fault(lambda server: version(server).cut_after(2, "reset").respond("7.2"), RESET),
    "down": Fault(TelnetServer.down, (ConnectionRefusedError, ConnectionRefusedError, pexpect.EOF)),
    "full_backlog": Fault(TelnetServer.full_backlog, (TimeoutError, TimeoutError, pexpect.TIMEOUT), connect=SHORT),
    "never_read": Fault(TelnetServer.never_read, (TimeoutError, NetmikoAuthenticationException, pexpect.TIMEOUT), read=SHORT),
    "reset_connections": Fault(lambda server: server.reset_connections(100), RESET),
}


def pairs() -> Iterator[object]:
    """Each fault with each client. netmiko takes seconds for each, whatever it is told."""
    for fault in FAULTS:
        for client in CLIENTS:
            slow = client == "netmiko" and fault != "reset"
            yield pytest.param(fault, client, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("fault", "client"), list(pairs()))
def test_a_fault_is_the_right_exception(telnet_server_factory: Callable[..., TelnetServer], fault: str, client: str) -> None:
    server = telnet_server_factory(strict=False)  # most of these logins come to no end
    expect_login(server)
    arm, errors, connect, read = FAULTS[fault]
    armed = arm(server)
    with armed if isinstance(armed, AbstractContextManager) else nullcontext():
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            CLIENTS[client](server, connect, read)
        assert isinstance(caught.value, errors[list(CLIENTS).index(client)])


def test_the_document_says_so() -> None:
    assert read_table("docs/embedding.md", "Telnet") == {
        name: dict(zip(CLIENTS, map(name_errors, fault.errors), strict=True)) for name, fault in FAULTS.items()
    }


# What does not fit


@pytest.fixture
def lax() -> Iterator[TelnetServer]:
    """A server that is not checked at the end, since the test does."""
    with TelnetServer(strict=False) as server:
        yield server


def test_lines_that_were_not_expected(lax: TelnetServer) -> None:
    lax.expect_line("admin", prompt="login: ", ordered=True)
    lax.expect_line("show version", prompt="> ").respond("7.2")
    lax.expect_line(re.compile("ping .*"))
    with socket.create_connection(lax.address, DEADLINE) as sock:
        for line in (b"root", b"admin", b"show versions", b"ping", b"ping a"):
            sock.sendall(line + b"\r\n")
        sock.shutdown(socket.SHUT_WR)
        said = receive_all(sock).decode()
    messages = [
        "the line 'root' was not expected; next in order: 'admin'",
        "the line 'show versions' was not expected; nearest: 'show version'",
        "the line 'ping' was not expected; nearest: re.compile('ping .*')",
    ]
    assert said == f"login: ?{messages[0]}\r\nlogin: > ?{messages[1]}\r\n> ?{messages[2]}\r\n> > "
    with pytest.raises(AssertionError, match=f"^{re.escape(chr(10).join(messages))}$"):
        lax.check()
    lax.check()


def test_ordered_lines_that_have_not_come(lax: TelnetServer) -> None:
    lax.expect_line("admin", ordered=True)
    lax.expect_line(b"secret", ordered=True).respond("a").then.respond("b")
    lax.expect_line("any number")
    with socket.create_connection(lax.address, DEADLINE) as sock:
        sock.sendall(b"admin\r\nsecret\r\n")
        receive_until(sock, b"a\r\n")
    with pytest.raises(AssertionError, match=r"^the line 'secret' was expected, but came too rarely$"):
        lax.check()
    lax.expect_line("never", ordered=True)
    with pytest.raises(AssertionError, match=r"^the line 'never' was expected, but never came$"):
        lax.check()


def test_each_session_logs_in_by_itself(telnet_server: TelnetServer) -> None:
    telnet_server.expect_line("admin", prompt="login: ", ordered=True)
    telnet_server.expect_line("who", prompt="> ").respond(lambda line: line.upper())
    for _ in range(2):
        with socket.create_connection(telnet_server.address, DEADLINE) as sock:
            receive_until(sock, b"login: ")
            sock.sendall(b"admin\r\nwho\r\n")
            receive_until(sock, b"> WHO\r\n> ")
    assert [entry.connection for entry in telnet_server.log if not entry.is_sent] == [0, 1]


def test_a_line_is_pushed_to_all(telnet_server: TelnetServer) -> None:
    telnet_server.greeting = "hello\n"
    telnet_server.expect_line("x", prompt="> ")
    address = telnet_server.address
    with socket.create_connection(address, DEADLINE) as one, socket.create_connection(address, DEADLINE) as other:
        for sock in one, other:
            receive_until(sock, b"hello\r\n> ")
        telnet_server.push("link down")
        for sock in one, other:
            receive_until(sock, b"\r\nlink down\r\n> ")


def test_the_wrong_line_or_text() -> None:
    server = TelnetServer()
    server.expect_line("show", prompt="> ")
    server.expect_line("enable", prompt="login: ", ordered=True)
    for wrong, error, message in (
        (lambda: server.expect_line("a\r\n"), ValueError, "a line is written without its end: 'a\\r\\n'"),
        (lambda: server.expect_line("x", prompt="# "), ValueError, "another prompt than b'> ' would never be shown"),
        (
            lambda: server.expect_line("x", prompt="> ", hidden=True),
            ValueError,
            "another prompt than b'> ' would never be shown",
        ),
        (lambda: server.expect_line("a").respond(5), TypeError, "expected text or bytes, not 5"),
        (lambda: server.expect_line("a").respond(["b"]), TypeError, "expected text or bytes, not ['b']"),
        (lambda: server.push(5), TypeError, "expected text or bytes, not 5"),
        (lambda: server.dialogue(lambda client: None), TypeError, "expected a generator function; `service` takes others"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            wrong()  # type: ignore[no-untyped-call]


def test_a_pattern_of_bytes(telnet_server: TelnetServer) -> None:
    telnet_server.expect_line(re.compile(rb"\xff?show"), prompt="> ").respond("ok")
    with socket.create_connection(telnet_server.address, DEADLINE) as sock:
        sock.sendall(b"show\r\n")
        receive_until(sock, b"> ok\r\n> ")


def test_services_may_speak_text(telnet_server: TelnetServer) -> None:
    @telnet_server.dialogue
    def greet(client: LineClient) -> Generator[str, bytes, str]:
        name = yield "Your name? "
        return f"Hello {name.decode()}"

    with socket.create_connection(telnet_server.address, DEADLINE) as sock:
        sock.sendall(b"Ada\r\n")
        assert receive_all(sock) == b"Your name? Hello Ada\r\n"
    telnet_server.service = lambda line: line.decode().upper() if line else None
    with socket.create_connection(telnet_server.address, DEADLINE) as sock:
        sock.sendall(b"\r\nada\r\n")
        receive_until(sock, b"ADA\r\n")


def test_a_service_that_returns_no_text_says_so(lax: TelnetServer) -> None:
    lax.service = lambda line: 5  # type: ignore[assignment,return-value]
    with socket.create_connection(lax.address, DEADLINE) as sock:
        sock.sendall(b"a\r\n")
        receive_all(sock)
    with pytest.raises(AssertionError, match=r"^the telnet service raised TypeError: expected text or bytes, not 5$"):
        lax.check()


def test_clear_forgets(lax: TelnetServer) -> None:
    lax.expect_line("a", ordered=True)
    lax.service = lambda line: line
    with socket.create_connection(lax.address, DEADLINE) as sock:
        sock.sendall(b"b\r\n")
        receive_until(sock, b"b\r\n")
    lax.clear()
    assert (lax.lines, lax.log, lax.service) == ([], [], None)
    lax.check()
