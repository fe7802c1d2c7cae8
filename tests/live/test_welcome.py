"""The welcome page of a real server: who sees whose addresses, from where; and what it costs to look for an hour."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import TypeVar

import pytest
import requests

from rawservers import Server as EmbeddedServer
from tests.harness.http_client import take_answer
from tests.harness.machine import enter_network
from tests.harness.needs import need, need_root
from tests.harness.proxies import connect, proxy
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all
from tests.harness.waiting import DEADLINE, until

Result = TypeVar("Result")

ECHO = {"Content-Type": "application/octet-stream"}
PATHS = ("/", "/index.html", "/sockets", "/nothing", "/echo")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """On all addresses, and with two workers."""
    with Server("--http", ":0", "--telnet", ":0", "--workers", "2") as running:
        until(lambda: len(running.workers()) == 2, "both workers")
        yield running


STATUSES = {"/nothing": 404, "/echo": 405}


def ask(sock: socket.socket, path: str, host: str, more: str = "") -> bytes:
    """The body of the answer to a GET on a kept connection."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n{more}\r\n".encode())
    status, _, body = take_answer(sock)
    assert status == STATUSES.get(path, 200)
    return body


def echo(sock: socket.socket, host: str, data: bytes, more: str = "") -> bytes:
    head = f"POST /echo HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n{more}"
    sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    status, _, body = take_answer(sock)
    assert status == 200
    return body


def answers(sock: socket.socket, host: str, more: str = "") -> bytes:
    """All that there is to see, one after the other; what was asked for is left out of it."""
    found = [ask(sock, path, host, more) for path in PATHS]
    assert echo(sock, host, b"hi\r\n", more) == b"hi\r\n"
    return re.sub(rb"(?s)<pre.*?</pre>", b"", b"".join(found))


def names(seen: bytes, address: tuple[str, int]) -> bool:
    """Whether the port of that address is named."""
    return re.search(rb"\b%d\b" % address[1], seen) is not None


def test_a_browser_on_this_machine(server: Server) -> None:
    port = server.address("http")[1]
    with server.connect("telnet") as other, socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        until(lambda: names(ask(sock, "/sockets", "localhost"), other.getsockname()), "the other is in the table")
        seen = answers(sock, f"127.0.0.1:{port}")
        assert names(seen, other.getsockname())
        assert names(seen, sock.getsockname())
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as closed:
            closed.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
            receive_all(closed)  # the server has closed first
            closed_port = closed.getsockname()[1]
        waiting = b' left", "", "127.0.0.1:%d", "127.0.0.1:%d"' % (port, closed_port)
        until(lambda: waiting in ask(sock, "/sockets", "localhost"), "it is in TIME_WAIT")
    with socket.create_connection(("::1", port), DEADLINE) as sock:
        assert b"[::1]:%d" % sock.getsockname()[1] in ask(sock, "/sockets", "[::1]")


@pytest.mark.parametrize("host", ["rebound.example", "localhost.rebound.example", "192.0.2.1"])
def test_another_host(server: Server, host: str) -> None:
    port = server.address("http")[1]
    with server.connect("telnet") as other, socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        until(lambda: names(ask(sock, "/sockets", "localhost"), other.getsockname()), "the other is in the table")
        seen = answers(sock, host)
        assert not names(seen, other.getsockname())
        assert not names(seen, sock.getsockname())
        assert b"127.0.0.1" not in seen


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
@pytest.mark.parametrize(
    ("host", "more"), [("www.example", ""), ("localhost", "X-Forwarded-For: 127.0.0.1\r\n"), ("localhost", "Via: 1.1 x\r\n")]
)
def test_behind_a_proxy(tmp_path: Path, name: str, host: str, more: str) -> None:
    """Neither the addresses of others, nor those of the proxy's connection or of the server."""
    with (
        Server("--http", "0", "--telnet", "0") as server,
        proxy(name, tmp_path / "proxy", server.address("http")) as front,
        server.connect("telnet") as other,
        server.connect() as near,
    ):
        until(lambda: names(ask(near, "/sockets", "localhost"), other.getsockname()), "the other is in the table")
        with connect(front) as sock:
            seen = answers(sock, host, more)
        for address in (other.getsockname(), near.getsockname(), server.address("http"), server.address("telnet")):
            assert not names(seen, address)
        assert b"127.0.0.1" not in seen


CONF = """
[[listen]]
service = "http"
address = "127.0.0.1:0"
proxy_protocol = ["127.0.0.1"]
[[listen]]
service = "http"
address = "[::1]:0"
[[listen]]
service = "telnet"
address = "127.0.0.1:0"
"""


def test_who_comes_with_a_proxy_header(tmp_path: Path) -> None:
    """That names another host, or this one."""
    (tmp_path / "conf.toml").write_text(CONF)
    with Server("-c", tmp_path / "conf.toml") as server, server.connect("telnet") as other:
        near = ("::1", int(re.findall(r"http://\[::1\]:(\d+)/", server.stderr())[0]))
        with socket.create_connection(near, DEADLINE) as sock:
            until(lambda: names(ask(sock, "/sockets", "localhost"), other.getsockname()), "the other is in the table")
        for header in (b"PROXY TCP4 198.51.100.7 192.0.2.1 40000 80\r\n", b"PROXY TCP6 ::1 ::1 40000 80\r\n"):
            with server.connect() as sock:
                sock.sendall(header)
                seen = answers(sock, "localhost")
                assert not [each for each in (other, sock) if names(seen, each.getsockname())]
                assert b"127.0.0.1" not in seen
                assert b"198.51.100.7" not in seen
        with server.connect() as sock:
            sock.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 80\r\n")
            assert names(ask(sock, "/sockets", "localhost"), other.getsockname())


# From another machine


class Network:
    """Two network namespaces with a cable between them: "here" is 192.0.2.1, "there" 192.0.2.2."""

    def __enter__(self) -> Network:
        need_root("make network namespaces")
        self.pids = []
        with contextlib.ExitStack() as stack:
            for command in ("ip", "nsenter", "unshare"):
                need(command)
            for _ in range(2):
                command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"]
                holder = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
                assert holder.stdin
                assert holder.stdout
                stack.callback(holder.stdin.close)
                assert holder.stdout.readline() == b"ready\n"
                self.pids.append(holder.pid)
            here, there = self.pids
            self.run(here, f"link add cable type veth peer name cable netns {there}")
            for number, pid in enumerate(self.pids, 1):
                self.run(pid, f"address add 192.0.2.{number}/24 dev cable")
                self.run(pid, "link set cable up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def run(self, pid: int, arguments: str) -> None:
        command = ["nsenter", f"--target={pid}", "--net", "ip", *arguments.split()]
        subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE)

    def visit(self, pid: int, function: Callable[[], Result]) -> Result:
        """What `function` gives in that namespace. Sockets that are made there stay there."""
        with ThreadPoolExecutor(1, initializer=enter_network, initargs=(pid,)) as thread:
            return thread.submit(function).result()


def test_a_visitor_from_another_machine() -> None:
    """Sees its own connection, and how to get there again; whatever it says that it asks for."""
    with Network() as network:
        here, there = network.pids
        before = ("nsenter", f"--target={here}", "--net")
        with Server("--http", ":0", "--telnet", ":0", "--telnet", "127.0.0.1:0", before=before) as server:
            until(lambda: server.stderr().count(" listening on ") == 3, "three listeners")
            http, telnet, inner = [
                int(port) for port in re.findall(r"listening on \S+?:(\d+)(?:/ .*)?$", server.stderr(), re.M)
            ]

            def dial(host: str, port: int) -> Callable[[], socket.socket]:
                return lambda: socket.create_connection((host, port), DEADLINE)

            with (
                network.visit(here, dial("127.0.0.1", telnet)) as other,
                network.visit(here, dial("127.0.0.1", inner)) as hidden,
                network.visit(here, dial("192.0.2.1", telnet)) as third,
                network.visit(here, dial("127.0.0.1", http)) as near,
                network.visit(there, dial("192.0.2.1", http)) as sock,
            ):
                others = [each.getsockname() for each in (other, hidden, third, near)]
                until(lambda: all(names(ask(near, "/sockets", "localhost"), each) for each in others), "all are in the table")
                for host in ("192.0.2.1", "localhost", "127.0.0.1", "www.example"):
                    seen = answers(sock, f"{host}:{http}")
                    assert names(seen, sock.getsockname())
                    assert b"192.0.2.2" in seen
                    assert not [each for each in others if names(seen, each)]
                    assert not names(seen, ("", inner))
                    assert f"telnet {host} {telnet}".encode() in seen
                    assert b"127.0.0.1" not in seen or host == "127.0.0.1"
                seen = answers(sock, "localhost", "Forwarded: for=127.0.0.1\r\n")
                assert b"192.0.2" not in seen


# What else


def test_in_a_thread() -> None:
    with EmbeddedServer(telnet="127.0.0.1:0") as server, socket.create_connection(server.telnet_address) as other:
        url = server.http_url("/sockets")
        until(lambda: names(requests.get(url, timeout=10).content, other.getsockname()), "the other is in the table")
        assert requests.post(server.http_url("/echo"), b"hi\r\n", headers=ECHO, timeout=10).content == b"hi\r\n"


def test_the_echo_of_any_worker(server: Server) -> None:
    """Whichever is asked, and whatever the others were told."""
    url = f"http://127.0.0.1:{server.address('http')[1]}/echo"
    for number in range(12):
        typed = b"".join(b"%d\r\n" % each for each in range(number))
        answer = requests.post(url, typed, headers=ECHO, timeout=10)  # a connection each
        assert (answer.status_code, answer.content) == (200, typed)


def test_who_types_by_hand(server: Server) -> None:
    """As the page tells everybody to."""
    answer = exchange(server, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert rb"GET / HTTP/1.0<span class=end>\r\n</span>" in answer


def test_its_commands_do_what_it_says(tmp_path: Path) -> None:
    """Those that show the page, and come to an end by themselves."""
    path = tmp_path / "a socket"
    options = ("--http", "127.0.0.1:0", "--http", f"unix:{path}", "--https", "127.0.0.1:0", "--tls-self-signed")
    with Server(*options, "--telnet", "off") as server:
        until(lambda: server.stderr().count(" listening on ") == 3, "three listeners")
        page = requests.get(server.url, timeout=10).text
        commands = [unescape(each) for each in re.findall("<code>(printf .*?)</code>", page)]
        assert [each.split()[5] for each in commands] == ["nc", "nc", "openssl"]
        for each in commands:
            need(each.split()[5])
            done = subprocess.run(["sh", "-c", each], capture_output=True, timeout=DEADLINE)
            assert done.stdout.startswith(b"HTTP/1.0 200 OK\r\n")
            assert b"<h1>It works</h1>" in done.stdout


@pytest.mark.slow
def test_an_hour_of_looking_costs_nothing() -> None:
    """1,800 looks at the table, and 200 lines to the echo, some of them on connections of their own."""
    with Server("--http", "0", "--telnet", "0", "--access-log", "off") as server, server.connect("telnet"):

        def look(polls: int, echoes: int) -> None:
            with server.connect() as sock:
                for number in range(polls):
                    assert b'"this page"' in ask(sock, "/sockets", "localhost")
                    if number % 10 == 0:
                        with server.connect() as another:
                            assert b"this page" in ask(another, "/", "localhost")
                for number in range(echoes):
                    typed = b"line %d\r\n" % number * (number % 20)
                    assert echo(sock, "localhost", typed) == typed
            until(lambda: len(server.descriptors()) <= before, "connections are closed")

        before = len(server.descriptors()) + 1
        look(300, 40)
        memory, before = server.memory(), len(server.descriptors())
        look(1800, 200)
        assert server.memory() < memory + (1 << 20)
        assert len(server.descriptors()) == before
