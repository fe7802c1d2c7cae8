"""The table of sockets of the real server: GET /sockets of the status service, over all workers; and as a terminal shows it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from rawservers import status
from rawservers.daemon.scoreboard import ASKED_OFFSET, NAME, TABLE_SIZE, TABLES_OFFSET
from rawservers.sockets import ConnectedSocket, Sockets
from rawservers.watch import ENTER, LEAVE
from tests.harness.command import run
from tests.harness.http_client import request, take_answer
from tests.harness.needs import ROOT, need
from tests.harness.processes import children, opened, stopped
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all, receive_until
from tests.harness.terminal import Terminal
from tests.harness.waiting import DEADLINE, until

CONF = """
log.access = "off"
[[listen]]
service = "http"
address = ":0"
[[listen]]
service = "telnet"
address = "unix:{place}/telnet"
[[listen]]
service = "status"
address = "unix:{place}/status"
[[listen]]
service = "status"
address = "127.0.0.1:0"
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "conf.toml").write_text(CONF.format(place=tmp_path))
    return tmp_path / "conf.toml"


@pytest.fixture
def server(folder: Path, conf: Path) -> Iterator[Server]:
    (folder / "huge").touch()
    os.truncate(folder / "huge", 64 << 20)
    with Server("-c", conf, folder, "--workers", "2", module="tests.servers.supervised") as server:
        server.address("status")
        until(lambda: len(server.workers()) == 2, "both workers")
        yield server


def look(conf: Path) -> Sockets:
    return status.fetch_sockets(f"unix:{conf.parent / 'status'}")


def connected(conf: Path, service: str) -> list[ConnectedSocket]:
    table = look(conf)
    return [row for row in table.connected if row.service == service] if not table.silent else []


def connect(server: Server, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, server.address("http")[1]), timeout=DEADLINE)


def test_listening(server: Server, conf: Path) -> None:
    port = server.address("http")[1]
    rows = {row.address: row for row in look(conf).listening}
    assert rows.keys() >= {f"[::]:{port}", f"unix:{conf.parent}/telnet", f"unix:{conf.parent}/status"}
    row = rows[f"[::]:{port}"]
    assert (row.service, row.queued, row.limit) == ("http", 0, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    assert rows[f"unix:{conf.parent}/telnet"].limit is None


def test_connected(server: Server, conf: Path) -> None:
    """What each does, its addresses, and what it has sent and received: over IPv4, IPv6, and a unix socket."""
    with contextlib.ExitStack() as stack:
        reading, idle, sending = (stack.enter_context(connect(server, host)) for host in ("127.0.0.1", "::1", "127.0.0.1"))
        reading.sendall(b"GET / HTTP/1.0\r\n")
        idle.sendall(request("/f", keep=True))
        answer = receive_until(idle, b"content of f\n")
        sending.sendall(b"GET /huge\r\n")
        telnet = stack.enter_context(socket.socket(socket.AF_UNIX))
        telnet.connect(str(conf.parent / "telnet"))
        until(lambda: len(connected(conf, "http")) == 3, "all are in it")
        until(lambda: {row.state for row in connected(conf, "http")} == {"reading", "idle", "sending"}, "what they do")
        rows = {row.state: row for row in connected(conf, "http")}
        for sock, state in ((reading, "reading"), (idle, "idle"), (sending, "sending")):
            (host, port, *_), (own_host, own_port, *_) = sock.getsockname(), sock.getpeername()
            form = "[{}]:{}" if ":" in host else "{}:{}"
            assert rows[state].peer == form.format(host, port)
            assert rows[state].local == form.format(own_host, own_port)
            assert rows[state].pid in server.workers()
        assert rows["reading"].received == 16
        assert (rows["idle"].received, rows["idle"].sent) == (len(request("/f", keep=True)), len(answer))
        assert 0 < (rows["sending"].sent or 0) < 64 << 20
        assert all(0 <= row.idle <= row.open < 5 * DEADLINE for row in rows.values())
        (row,) = connected(conf, "telnet")
        assert (row.peer, row.local, row.state) == ("unix:", f"unix:{conf.parent}/telnet", "idle")
        assert (row.received, row.sent) == (None, None)
    until(lambda: connected(conf, "http") == [] and look(conf).silent == 0, "none is left")


def test_time_wait(server: Server, conf: Path) -> None:
    with connect(server) as sock:
        sock.sendall(b"GET /f HTTP/1.0\r\n\r\n")
        receive_all(sock)  # the server has closed first
        (host, port), (own_host, own_port) = sock.getsockname(), sock.getpeername()
    expected = (f"{own_host}:{own_port}", f"{host}:{port}")
    until(lambda: expected in [(row.local, row.peer) for row in look(conf).time_wait], "it is in TIME_WAIT")
    table = look(conf)
    assert table.time_wait_total == len(table.time_wait) >= 1
    assert all(0 < row.seconds <= 60 for row in table.time_wait if row.peer == expected[1])


@pytest.mark.slow
def test_of_all_workers(server: Server, conf: Path) -> None:
    with contextlib.ExitStack() as stack:
        pids = server.workers()
        for other in pids:
            with stopped(other):
                sock = stack.enter_context(connect(server))
                sock.sendall(request("/f", keep=True))
                take_answer(sock)
        until(lambda: {row.pid for row in connected(conf, "http")} == set(pids), "one of each")
        with stopped(pids[0]):
            until(lambda: look(conf).silent == 1, "one is silent")
            table = look(conf)
            assert table.workers == 2
            assert {row.pid for row in table.connected} == {pids[1]}


def test_no_table_is_written_unasked(server: Server, conf: Path) -> None:
    def tables() -> bytes:
        memory = next(fd for fd, name in opened(server.process.pid).items() if name.startswith(f"/memfd:{NAME}"))
        with open(f"/proc/{server.process.pid}/fd/{memory}", "rb") as file:
            return os.pread(file.fileno(), TABLES_OFFSET - ASKED_OFFSET + 4 * TABLE_SIZE, ASKED_OFFSET)

    status.fetch(f"unix:{conf.parent / 'status'}", "json")
    assert tables().strip(b"\0") == b""
    look(conf)
    assert tables().strip(b"\0") != b""


def test_many_connections(server: Server, conf: Path) -> None:
    """The newest, and the number of all."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(server)) for _ in range(250)]
        until(lambda: look(conf).connected_total >= 250, "all are counted")
        table = look(conf)
        assert len(table.connected) == 200
        ages = [row.open for row in table.connected]
        assert ages == sorted(ages)
        assert len(socks) == 250


def test_by_http(server: Server) -> None:
    host, port = server.address("status")
    answer = requests.get(f"http://{host}:{port}/sockets", timeout=DEADLINE)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["workers"] == 2
    row = next(row for row in answer.json()["connected"] if row["peer"].startswith("127.0.0.1:"))
    assert (row["service"], row["state"]) == ("status", "busy")
    assert requests.head(f"http://{host}:{port}/sockets", timeout=DEADLINE).status_code == 200
    assert requests.post(f"http://{host}:{port}/sockets", timeout=DEADLINE).status_code == 405


# In a terminal


@contextlib.contextmanager
def watching(conf: Path) -> Iterator[Terminal]:
    """A shell with the command; afterwards it prints its status, and waits for a line."""
    command = shlex.join([sys.executable, "-m", "rawservers", "--status", f"unix:{conf.parent / 'status'}", "--watch"])
    with Terminal("sh", "-c", f"cd {ROOT}; trap : INT; {command}; echo status $?; read line") as terminal:
        until(lambda: bool(terminal.rows()) and b"LISTENING" in terminal.heard, "the table")
        assert terminal.heard.startswith(ENTER)
        terminal.takes_characters()
        yield terminal


def leaves(terminal: Terminal, said: bytes) -> None:
    """It gives the terminal back, then prints this."""
    until(lambda: bool(terminal.rows()) and said in terminal.heard, "it leaves")
    assert terminal.heard.rpartition(LEAVE)[2].split() == said.split()
    assert terminal.heard.count(LEAVE) == 1
    terminal.takes_lines()


@pytest.mark.parametrize(("keys", "said"), [("xq", b"status 0"), pytest.param("\x03", b"status 0", marks=pytest.mark.slow)])
def test_how_to_leave(server: Server, conf: Path, keys: str, said: bytes) -> None:
    with watching(conf) as terminal:
        terminal.type(keys)
        leaves(terminal, said)


def watcher(terminal: Terminal) -> int:
    """Its process id."""
    return children(terminal._child.pid)[0]


def test_sigterm_gives_the_terminal_back(server: Server, conf: Path) -> None:
    with watching(conf) as terminal:
        os.kill(watcher(terminal), signal.SIGTERM)
        leaves(terminal, b"status 143")


def test_what_it_shows(server: Server, conf: Path) -> None:
    with watching(conf) as terminal, connect(server) as sock:
        exchange(server, request("/f"))
        sock.sendall(b"GET / HTTP/1.0\r\n")
        peer = "{}:{}".format(*sock.getsockname())
        until(lambda: any(peer in row and "reading" in row for row in terminal.rows()), "the connection")
        rows = terminal.rows()
        assert rows[0].startswith("rawservers ")
        assert any(row.startswith("http: 1 connections open (reading 1), 2 connections accepted, ") for row in rows)


def test_a_terminal_that_changes_its_size(server: Server, conf: Path) -> None:
    with watching(conf) as terminal:
        assert b"more lines" not in terminal.heard
        terminal._child.setwinsize(8, 40)
        until(lambda: bool(terminal.rows()) and b"more lines" in terminal.heard, "it is drawn anew")
        last = terminal.heard.rpartition(b"\x1b[H")[2].replace(b"\x1b[K", b"").partition(b"\x1b[J")[0].split(b"\r\n")
        assert len(last) == 8
        assert max(map(len, last)) <= 40


@pytest.mark.slow
def test_a_server_that_comes_back(server: Server, folder: Path, conf: Path) -> None:
    with watching(conf) as terminal:
        server.signal()
        assert server.wait() == 0
        until(lambda: any(row.startswith("cannot get the status from unix:") for row in terminal.rows()), "it is said")
        with Server("-c", conf, folder) as again:
            again.address("status")
            until(lambda: terminal.rows()[0].startswith("rawservers "), "it is there again")
        terminal.type("q")
        leaves(terminal, b"status 0")


def test_it_is_suspended_and_goes_on(server: Server, conf: Path) -> None:
    command = [sys.executable, "-m", "rawservers", "--status", f"unix:{conf.parent / 'status'}", "--watch"]
    with Terminal(need("bash"), "--norc", "--noediting", "-i") as terminal:
        terminal.type(f"cd {ROOT}; {shlex.join(command)}\r")
        until(lambda: bool(terminal.rows()) and b"LISTENING" in terminal.heard, "the table")
        terminal.type("\x1a")
        until(lambda: bool(terminal.rows()) and b"Stopped" in terminal.heard, "it is suspended")
        assert LEAVE in terminal.heard
        terminal.takes_lines()
        terminal.type("fg\r")
        until(lambda: bool(terminal.rows()) and terminal.heard.count(ENTER) == 2, "it goes on")
        terminal.takes_characters()
        terminal.type("q")
        until(lambda: bool(terminal.rows()) and terminal.heard.count(LEAVE) == 2, "it leaves")
        terminal.takes_lines()


def test_an_exception_gives_the_terminal_back() -> None:
    program = "from rawservers.watch import Screen\nwith Screen() as screen:\n screen.show(['shown'])\n 1 / 0"
    with Terminal(sys.executable, "-c", program) as terminal:
        assert terminal.leaves() == 1
    assert terminal.heard.startswith(ENTER)
    assert b"shown" in terminal.heard.partition(LEAVE)[0]
    assert b"ZeroDivisionError" in terminal.heard.partition(LEAVE)[2]


def test_no_terminal(conf: Path) -> None:
    done = run("--status", f"unix:{conf.parent}/status", "--watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rawservers: cannot watch the status on unix:{conf.parent}/status: standard output is no terminal\n"


def test_no_server_to_watch(conf: Path) -> None:
    with Terminal(sys.executable, "-m", "rawservers", "--status", f"unix:{conf.parent}/status", "--watch") as terminal:
        assert terminal.leaves() == 2
    assert terminal.heard.startswith(b"rawservers: cannot watch the status on unix:")
    why = b'/status: no such file or directory (the server needs a [[listen]] with service = "status")'
    assert why in terminal.heard.replace(b"\r\n", b"")
    assert ENTER not in terminal.heard
