"""Every key of the configuration file, changed, and seen to act in the real server. Where nothing is said, the default is
another, and is seen not to act so."""

from __future__ import annotations

import contextlib
import getpass
import grp
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from rawservers.config.keys import KEYS
from rawservers.settings import ConfigError
from tests.harness.auth import basic, write_users
from tests.harness.configuration import load
from tests.harness.needs import ROOT, need
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all, receive_until
from tests.harness.tls import client_context, issue
from tests.harness.waiting import DEADLINE, until

ACTS: dict[str, str] = {}  # by key: the test that sees it act
T = TypeVar("T", bound=Callable[..., object])

LISTEN = """
[[listen]]
service = "http"
address = "0"
[[listen]]
service = "telnet"
address = "0"
"""

# The servers with a function that says what it was sent, and one that never does: only functions take a body, and only code can
# say them.
WITH_A_FUNCTION = """
import sys
from concurrent.futures import Future
from rawservers.core.record import replace
from rawservers import Response, cli

def say(request):
    return Response(200, [("Content-Type", "text/plain")], request.body)

configure = cli.configure
cli.configure = lambda *said: replace(configure(*said), handlers=(("/say", say), ("/never", lambda request: Future())))
sys.exit(cli.main())
"""


def acts(*keys: str) -> Callable[[T], T]:
    """A test that sees these keys act."""

    def note(test: T) -> T:
        assert ACTS.keys().isdisjoint(keys)
        ACTS.update(dict.fromkeys(keys, getattr(test, "__name__", "")))
        return test

    return note


@contextlib.contextmanager
def started(place: Path, text: str, *, listen: str = LISTEN, program: str = "", may_fail: bool = False) -> Iterator[Server]:
    """The real server with such a file, serving place/www unless the file says something else."""
    path = place / "conf.toml"
    path.write_text(f"{text}\n{listen}")
    root = [] if "root = " in text.partition("[[")[0] else [place / "www"]
    with Server("-c", path, *root, program=program, may_fail=may_fail) as server:
        yield server


def ask(server: Server, path: str, host: str = "h", *fields: str, body: str | None = None) -> str:
    """The whole answer to one request on a connection of its own."""
    more = [*fields, *([] if body is None else [f"Content-Length: {len(body)}"])]
    head = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *more]
    with server.connect() as sock:
        sock.sendall("".join(f"{line}\r\n" for line in [*head, ""]).encode() + (body or "").encode())
        return receive_all(sock).decode()


# The keys of a site: each in a site of its own, all in one server

FILES = {
    "f": "content of f\n",
    "main.htm": "the main page",
    "page.html": "as it is",
    "page.html.gz": "as if compressed",
    "x.odd": "odd",
    "oops.html": "my own page",
    "sub/inner.txt": "inner",
}

# What a site says, what is asked of it, and what is then in the answer; in that of the first site it is not.
SITES = {
    "root": ('"other"', "/f", "content of the other f\n"),
    "index": ('["main.htm"]', "/", "the main page"),
    "listing": ("true", "/sub/", "inner.txt"),
    "precompressed": ("false", "/page.html", "as it is"),
    "max_age": ("60", "/f", "Cache-Control: max-age=60\r\n"),
    "headers": ('{ "/f" = { X-Own = "yes" } }', "/f", "X-Own: yes\r\n"),
    "redirects": ('{ "/old/*" = "/new/*" }', "/old/x", "Location: /new/x\r\n"),
    "error_pages": ('{ 404 = "/oops.html" }', "/nope.txt", "my own page"),
    "fallback": ('"/main.htm"', "/some/where", "the main page"),
    "auth": ('[{ path = "/shut", users = "users" }]', "/shut", "WWW-Authenticate: Basic realm"),
    "types": ('{ ".odd" = "text/odd" }', "/x.odd", "Content-Type: text/odd; charset=utf-8\r\n"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder to serve in it."""
    place = tmp_path_factory.mktemp("place")
    for name, content in FILES.items():
        (place / "www" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "www" / name).write_text(content)
    write_users(place / "users", "bob")
    (place / "other").mkdir()
    (place / "other" / "f").write_text("content of the other f\n")
    (place / "www" / "large").write_bytes(bytes(100_000))
    with (place / "www" / "huge").open("wb") as huge:
        huge.truncate(64 << 20)
    return place


@pytest.fixture(scope="module")
def sites(place: Path) -> Iterator[Server]:
    rows = [
        f'[[http.sites]]\nhosts = ["{key.replace("_", "-")}.example"]\n{key} = {value}\n'
        for key, (value, _, _) in SITES.items()
    ]
    roots = [row if row.count("root = ") else f'{row}root = "www"\n' for row in rows]
    with started(place, "".join(roots)) as server:
        yield server


@acts("http.sites", *(f"http.sites.{key}" for key in [*SITES, "hosts"]))
@pytest.mark.parametrize("key", SITES)
def test_a_key_of_a_further_site(sites: Server, key: str) -> None:
    _, path, expected = SITES[key]
    assert expected in ask(sites, path, f"{key.replace('_', '-')}.example", "Accept-Encoding: gzip")
    assert expected not in ask(sites, path, "another.example", "Accept-Encoding: gzip")


@acts(*(f"http.{key}" for key in SITES))
def test_the_keys_of_the_first_site(place: Path) -> None:
    text = "".join(f"{key} = {value}\n" for key, (value, _, _) in SITES.items() if key not in {"root", "fallback"})
    with started(place, f'[http]\nfallback = "/main.htm"\n{text}') as server:
        for key, (_, path, expected) in SITES.items():
            assert key == "root" or expected in ask(server, path, "h", "Accept-Encoding: gzip")
    with started(place, 'http.root = "other"') as server:
        assert SITES["root"][2] in ask(server, "/f")


@acts(*(f"http.{table}auth.{key}" for table in ("", "sites.") for key in ("path", "users", "realm")))
def test_the_keys_of_a_protected_path(place: Path) -> None:
    paths = '[{ path = "/", users = "users", realm = "my own" }, { path = "/sub", users = "off" }]'
    site = f'root = "www"\nauth = {paths}\n'
    with started(place, f'[http]\n{site}[[http.sites]]\nhosts = ["b"]\n{site}') as server:
        for host in "ab":
            assert 'WWW-Authenticate: Basic realm="my own", charset="UTF-8"\r\n' in ask(server, "/f", host)
            assert "content of f\n" in ask(server, "/f", host, f"Authorization: {basic('bob')}")
            assert "inner" in ask(server, "/sub/inner.txt", host)


@acts("http.hosts")
def test_a_host_that_two_sites_would_have_is_the_one_that_says_so(place: Path) -> None:
    further = '[[http.sites]]\nhosts = ["b.example"]\nroot = "other"'
    with started(place, f'http.hosts = ["a.example"]\n{further}') as server:
        assert "content of f" in ask(server, "/f", "a.example")
        assert "content of f" in ask(server, "/f", "c.example")
        assert "content of the other f" in ask(server, "/f", "b.example")
    (place / "conf.toml").write_text(f'http.hosts = ["b.example"]\n{further}')
    with pytest.raises(ConfigError, match=r'http\.sites\.hosts: duplicate host name "b\.example"'):
        load(str(place / "conf.toml"), {})


# Times: one server where each is short, and nothing is waited for that the default would bring as soon

SHORT = """
[http]
head_time = 0.5
body_time = 0.5
function_time = 0.5
idle_time = 0.5
requests = 2
body_limit = 3
[telnet]
idle_time = 0.5
greeting = "hello"
longest_line = 5
[log]
access = "access.log"
format = "json"
[limits]
send_time = 0.5
linger_time = 600
"""


@pytest.fixture(scope="module")
def short(place: Path) -> Iterator[Server]:
    with started(place, SHORT, program=WITH_A_FUNCTION) as server:
        yield server


@pytest.fixture(scope="module")
def refused(short: Server) -> Iterator[tuple[socket.socket, float]]:
    """A connection on which something was refused, and when: from the first of these tests on."""
    with short.connect() as sock:
        sock.sendall(b"bad\r\n\r\n")
        assert receive_all(sock).startswith(b"HTTP/1.0 400 ")
        yield sock, time.monotonic()


def hears_of_the_end(sock: socket.socket, limit: float) -> bytes:
    """What comes before the end, which comes in less than `limit` seconds."""
    sock.settimeout(limit)
    return receive_all(sock)


@acts("http.head_time")
@pytest.mark.usefixtures("refused")
def test_head_time(short: Server) -> None:
    with short.connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n")
        assert hears_of_the_end(sock, 9).startswith(b"HTTP/1.0 408 ")


@acts("http.body_time")
def test_body_time(short: Server) -> None:
    for body in (b"Content-Length: 3\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n"):
        with short.connect() as sock:
            sock.sendall(b"POST /say HTTP/1.1\r\nHost: h\r\n" + body)
            assert hears_of_the_end(sock, 20).startswith(b"HTTP/1.0 408 ")


@acts("http.function_time")
def test_function_time(short: Server) -> None:
    with short.connect() as sock:
        sock.sendall(b"GET /never HTTP/1.1\r\nHost: h\r\n\r\n")
        assert hears_of_the_end(sock, 20).startswith(b"HTTP/1.0 503 ")
    assert "Traceback" not in short.stderr()


@acts("http.idle_time")
def test_idle_time(short: Server) -> None:
    with short.connect() as sock:
        sock.sendall(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = hears_of_the_end(sock, 20)
        assert b"Connection: keep-alive\r\n" in answer
        assert answer.endswith(b"content of f\n")


@acts("http.requests")
def test_requests(short: Server) -> None:
    with short.connect() as sock:
        for kept in (b"keep-alive", b"close"):
            sock.sendall(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
            assert b"Connection: %s\r\n" % kept in receive_until(sock, b"content of f\n")
        assert receive_all(sock) == b""


@acts("http.server_header")
def test_server_header(place: Path) -> None:
    for says in ("true", "false"):
        with started(place, f"http.server_header = {says}") as server:
            for path in ("/f", "/nothing", "/%2F"):
                assert ("\nServer: rawservers/" in ask(server, path)) == (says == "true")


@acts("http.encoded_slash")
def test_encoded_slash(place: Path) -> None:
    for says in ("true", "false"):
        with started(place, f"http.encoded_slash = {says}") as server:
            assert ask(server, "/sub%2finner.txt").endswith("\r\n\r\ninner") == (says == "true")


@acts("http.version")
def test_version(place: Path) -> None:
    for version in ("1.0", "1.1"):
        with started(place, f'http.version = "{version}"') as server:
            for path, status in (("/f", 200), ("/nothing", 404)):
                assert ask(server, path).startswith(f"HTTP/{version} {status} ")
            assert exchange(server, b"GET /f HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")


@acts("http.body_limit")
def test_body_limit(short: Server) -> None:
    assert ask(short, "/say", body="abc").endswith("\r\n\r\nabc")
    assert ask(short, "/say", body="abcd").startswith("HTTP/1.0 413 ")


@acts("telnet.greeting", "telnet.idle_time", "telnet.longest_line")
def test_telnet(short: Server) -> None:
    with short.connect("telnet") as sock:
        sock.sendall(b"123456\r\n12345\r\n")
        said = hears_of_the_end(sock, 20)
    assert said.startswith(b"hello")
    assert b"the limit is 5 bytes" in said
    assert b"12345\r\n" in said
    assert b"goodbye" in said


@acts("limits.send_time", "log.access", "log.format")
def test_send_time_and_the_log(short: Server, place: Path) -> None:
    with short.connect(rcvbuf=4096) as sock:
        sock.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        until(lambda: "/huge" in (place / "access.log").read_text(), "the end of an answer that nobody takes")
    line = next(line for line in (place / "access.log").read_text().splitlines() if "/huge" in line)
    record = json.loads(line)
    assert record["bytes"] < 64 << 20
    assert record["seconds"] < 25
    assert short.log() == []


@acts("limits.linger_time")
def test_linger_time(short: Server, refused: tuple[socket.socket, float]) -> None:
    sock, since = refused
    until(lambda: time.monotonic() - since > 4, "twice the default")
    for _ in range(3):
        sock.sendall(b"more\r\n")  # a closed one would answer the first with RST
        assert "content of f" in ask(short, "/f")


# One server for each


def check_places(server: Server, places: int) -> None:
    """So many Telnet sessions are served; one more waits until the first has ended."""
    with contextlib.ExitStack() as stack:
        *served, waiting = (stack.enter_context(server.connect("telnet")) for _ in range(places + 1))
        waiting.sendall(b"at last\r\n")
        for number in range(20):
            for sock in served:
                sock.sendall(b"%d\r\n" % number)
                assert receive_until(sock, b"\r\n") == b"%d\r\n" % number
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)
        served[0].close()
        waiting.settimeout(DEADLINE)
        assert receive_until(waiting, b"\r\n") == b"at last\r\n"


@acts("limits.connections")
def test_connections(place: Path) -> None:
    listen = '[[listen]]\nservice = "telnet"\naddress = "127.0.0.1:0"'
    with started(place, "limits.connections = 2", listen=listen) as server:
        check_places(server, 2)


@acts("telnet.connections")
def test_telnet_connections(place: Path) -> None:
    with started(place, "telnet.connections = 1") as server:
        check_places(server, 1)


@acts("http.connections")
def test_http_connections(place: Path) -> None:
    with started(place, "http.connections = 1") as server, contextlib.ExitStack() as stack:
        socks = []
        for _ in range(2):
            socks.append(stack.enter_context(server.connect()))
            socks[-1].sendall(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
            receive_until(socks[-1], b"content of f\n")
        assert socks[0].recv(1) == b""  # it was idle, and there is room for one


@acts("limits.connections_per_address")
def test_connections_per_address(place: Path) -> None:
    with started(place, "limits.connections_per_address = 2") as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(server.connect("telnet")) for _ in range(3)]
        for sock in socks[:2]:
            sock.sendall(b"x\r\n")
            assert receive_until(sock, b"\r\n") == b"x\r\n"
        with contextlib.suppress(ConnectionResetError):
            assert receive_all(socks[2]) == b""


@acts("listen", "listen.service", "listen.address")
def test_listen(place: Path) -> None:
    unix = place / "telnet.sock"
    listen = '[[listen]]\nservice = "telnet"\naddress = "unix:telnet.sock"'
    with started(place, "", listen=listen) as server, socket.socket(socket.AF_UNIX) as sock:
        until(lambda: f"telnet listening on unix:{unix}" in server.stderr(), "listening")
        assert "http" not in server.stderr()
        sock.settimeout(DEADLINE)
        sock.connect(str(unix))
        sock.sendall(b"x\r\n")
        assert receive_until(sock, b"\r\n") == b"x\r\n"


@acts("listen.mode", "listen.owner", "listen.group")
def test_access_to_a_unix_socket(place: Path) -> None:
    root = os.geteuid() == 0
    owner, group = ("nobody", "daemon") if root else (getpass.getuser(), grp.getgrgid(os.getgid()).gr_name)
    listen = f'[[listen]]\nservice = "http"\naddress = "unix:http.sock"\nmode = "0660"\nowner = "{owner}"\ngroup = "{group}"'
    with started(place, "", listen=listen) as server:
        until(lambda: "listening" in server.stderr(), "listening")
        status = (place / "http.sock").stat()
        assert status.st_mode & 0o777 == 0o660
        assert (pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name) == (owner, group)


@acts("listen.proxy_protocol")
def test_proxy_protocol(place: Path) -> None:
    """With a trace, which has listeners of its own."""
    listen = '[[listen]]\nservice = "http"\naddress = "0"\nproxy_protocol = ["127.0.0.0/8"]'
    with started(place, "log.trace = true", listen=listen) as server:
        header = b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 80\r\n"
        assert exchange(server, header + b"GET /f\r\n") == b"content of f\n"
        assert server.await_log(1)[0].startswith("192.0.2.1 - - [")
        assert exchange(server, b"GET /f\r\n") == b""


@acts("http.trusted_proxies")
def test_trusted_proxies(place: Path) -> None:
    with started(place, 'http.trusted_proxies = ["127.0.0.0/8"]') as server:
        ask(server, "/f", "h", "X-Forwarded-For: 192.0.2.1")
        assert server.await_log(1)[0].startswith("192.0.2.1 - - [")


@acts("listen.tls", "listen.tls.certificate", "listen.tls.key", "listen.tls.hosts")
def test_tls(place: Path) -> None:
    """With a trace, which has listeners of its own."""
    first, second = issue(place, "first.example", name="first"), issue(place, "second.example", name="second")
    tables = f"{first.toml}, {second.toml.replace(' }', '')}, hosts = ['second.example'] }}"
    listen = f'[[listen]]\nservice = "http"\naddress = "0"\ntls = [{tables}]'
    with started(place, "log.trace = true", listen=listen) as server:
        for name in ("first.example", "second.example"):
            with client_context().wrap_socket(server.connect("https"), server_hostname=name) as sock:
                sock.sendall(b"GET /f HTTP/1.0\r\n\r\n")
                assert receive_all(sock).endswith(b"\r\n\r\ncontent of f\n")


@acts("workers")
@pytest.mark.parametrize(("said", "count"), [("3", 3), ('"auto"', len(os.sched_getaffinity(0)))])
def test_workers(place: Path, said: str, count: int) -> None:
    with started(place, f"workers = {said}") as server:
        server.address("http")
        assert len(server.workers()) == count


@acts("user")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_user(place: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    with started(place, 'user = "nobody:daemon"') as server:
        server.address("http")
        status = Path(f"/proc/{server.pid}/status").read_text()
    assert set(re.findall(r"^Uid:\t(.*)", status, re.MULTILINE)[0].split()) == {str(nobody.pw_uid)}
    assert re.search(r"^Gid:\t1\b", status, re.MULTILINE)


@acts("drain_time")
def test_drain_time(place: Path) -> None:
    with started(place, "drain_time = 0.5") as server, server.connect(rcvbuf=4096) as sock:
        sock.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        assert sock.recv(1)
        server.signal()
        assert server.wait(9) == 0


@acts("http.health", "drain_announce")
def test_health_before_a_stop(place: Path) -> None:
    with started(place, 'drain_announce = 600\nhttp.health = "/alive"') as server:
        assert ask(server, "/alive").startswith("HTTP/1.0 200 ")
        assert ask(server, "/health").startswith("HTTP/1.0 404 ")
        server.signal()
        until(lambda: ask(server, "/alive").startswith("HTTP/1.0 503 "), "the stop is announced")
        assert "content of f" in ask(server, "/f")
        server.signal()
        assert server.wait() == 0


@acts("reload_drain")
def test_reload_drain(place: Path) -> None:
    with started(place, "reload_drain = 0.5") as server, server.connect("telnet") as sock:
        sock.sendall(b"x\r\n")
        assert receive_until(sock, b"\r\n") == b"x\r\n"
        server.signal(signal.SIGHUP)
        with contextlib.suppress(ConnectionResetError):
            assert receive_all(sock) == b""


@pytest.mark.slow
@acts("stuck_time")
def test_stuck_time(place: Path) -> None:
    with started(place, "stuck_time = 3", may_fail=True) as server:
        assert "content of f" in ask(server, "/f")
        stuck = server.pid
        os.kill(stuck, signal.SIGSTOP)
        until(lambda: "stuck" in server.stderr(), "its being noticed")
        match = re.search(r"stuck for (\d+)", server.stderr())
        assert match
        assert int(match[1]) < 10
        until(lambda: server.workers() not in ([], [stuck]), "another worker")
        assert "content of f" in ask(server, "/f")


@acts("log.trace")
def test_trace(place: Path) -> None:
    with started(place, "log.trace = true") as server:
        assert "content of f" in ask(server, "/f")
        line = re.compile(r"  send +\d+ of .* bytes, more follows: HTTP/1\.0 200 OK\n")
        until(lambda: line.search(server.stderr()) is not None, "its line")


# What is remembered, one kind of memory at a time

NO_ANSWERS = "http.answers = 0\n"
LEAST = {"http.files": "/f", "http.file_bytes": "/f", "http.open_files": "/large"}


@acts(*LEAST)
@pytest.mark.parametrize("key", LEAST)
def test_a_file_is_opened_for_each_answer(place: Path, tmp_path: Path, key: str) -> None:
    with started(place, f"{NO_ANSWERS}{key} = 0") as server:
        assert len(opened(server, tmp_path, LEAST[key])) >= 10


def test_a_file_is_opened_for_the_first_answers(place: Path, tmp_path: Path) -> None:
    with started(place, NO_ANSWERS) as server:
        for path in ("/f", "/large"):
            assert len(opened(server, tmp_path, path)) <= 2


@acts("http.answers", "http.answer_bytes")
@pytest.mark.parametrize(("text", "least", "most"), [("", 5, 9), (NO_ANSWERS, 0, 0), ("http.answer_bytes = 0\n", 0, 0)])
def test_answers_are_remembered(place: Path, tmp_path: Path, text: str, least: int, most: int) -> None:
    with started(place, text, listen=f'{LISTEN}[[listen]]\nservice = "status"\naddress = "unix:{tmp_path}/status"\n') as server:
        for _ in range(10):
            assert "content of f" in ask(server, "/f")
        told = subprocess.run(
            [sys.executable, "-m", "rawservers", "--status", f"unix:{tmp_path}/status", "--format", "json"],
            cwd=ROOT, capture_output=True, check=True, timeout=20,
        )  # fmt: skip
        assert least <= json.loads(told.stdout)["counters"]["http"]["cache_hits"] <= most


def opened(server: Server, tmp_path: Path, path: str) -> Sequence[str]:
    """The system calls that opened a file of this name while it was asked for ten times."""
    trace = tmp_path / "trace"
    command = [need("strace"), "-f", "-e", "trace=openat", "-o", str(trace), "-p", str(server.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr
        assert b"attached" in tracer.stderr.readline()
        for _ in range(10):
            exchange(server, f"GET {path} HTTP/1.0\r\n\r\n".encode())
        tracer.terminate()
        tracer.wait(DEADLINE)
    return re.findall(rf'openat\(.*{path}".*', trace.read_text())


def test_no_key_is_missing() -> None:
    assert ACTS.keys() == KEYS.keys()
