"""Signals that stop a server: what is under way is finished, in the time there is for it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from rawservers.daemon import control
from rawservers.daemon.startup import CannotStart
from tests.harness.http_client import KEPT, take_body
from tests.harness.load import Load
from tests.harness.processes import stopped
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all, receive_until
from tests.harness.supervisor import CONTENT, LARGE, configure, supervise
from tests.harness.waiting import DEADLINE, until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(folder: Path, number: signal.Signals) -> None:
    with Server(folder, "--http", "0", "--telnet", "0") as server:
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        server.signal(number)
        assert server.wait() == 0
        assert "Traceback" not in server.stderr()


def test_sigterm_lets_a_slow_download_finish(folder: Path) -> None:
    size = 100_000_000
    with open(folder / "large", "wb") as file:
        file.truncate(size)
    with Server(folder, "--http", "0", "--telnet", "0") as server:
        address = server.address("http")
        with server.connect(rcvbuf=65536) as sock, server.connect() as idle:
            idle.sendall(KEPT)
            take_body(idle)
            sock.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
            received = len(sock.recv(65536))
            server.signal()

            def refused() -> bool:
                try:
                    socket.create_connection(address, timeout=5).close()
                except ConnectionRefusedError:
                    return True
                return False

            until(refused, "new connections are refused")
            assert receive_all(idle) == b""
            assert server.process.poll() is None
            while data := sock.recv(1 << 20):
                received += len(data)
        assert size < received < size + 1000
        assert server.wait() == 0


def test_a_second_signal_hurries(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("drain_time = 600\n[limits]\nsend_time = 0\n")
    with open(folder / "huge", "wb") as file:
        file.truncate(1 << 30)
    running = Server(folder, "-c", tmp_path / "conf", "--http", "0", "--telnet", "off")
    with running as server, server.connect(rcvbuf=4096) as sock:
        sock.sendall(b"GET /huge HTTP/1.0\r\n\r\n")
        sock.recv(10)
        server.signal()
        until(lambda: not is_listening(server), "the listener is closed")
        server.signal()
        assert server.wait() == 0


def is_listening(server: Server) -> bool:
    try:
        socket.create_connection(server.address("http"), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@contextlib.contextmanager
def downloading(server: Server) -> Iterator[socket.socket]:
    """A connection on which a large answer has begun, and cannot have left the server whole."""
    with server.connect() as sock:
        sock.sendall(b"GET /large\r\n")
        assert sock.recv(1) == b"\0"
        yield sock


def refuses(server: Server) -> bool:
    """Whether nobody listens any more."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("whom", [os.kill, os.killpg])
def test_what_is_under_way_is_finished(conf: Path, folder: Path, number: int, whom: Callable[[int, int], None]) -> None:
    """Whether the supervisor alone is told to stop, or a terminal tells all its processes."""
    with supervise("-c", conf, start_new_session=True) as server, downloading(server) as one, downloading(server) as other:
        whom(server.process.pid, number)
        until(lambda: refuses(server), "nobody listens")
        for sock in (one, other):
            assert len(receive_all(sock)) == LARGE - 1
        assert server.wait() == 0


def test_a_second_signal_ends_it_at_once(conf: Path, folder: Path) -> None:
    configure(conf, folder, drain_time=600)
    with supervise("-c", conf) as server, downloading(server) as sock:
        server.signal()
        until(lambda: refuses(server), "nobody listens")
        server.signal()
        assert server.wait() == 0
        with contextlib.suppress(ConnectionResetError):
            assert len(receive_all(sock)) < LARGE - 1


def test_a_reload_during_a_drain_fails_at_once(conf: Path, folder: Path) -> None:
    configure(conf, folder, drain_time=600)
    with supervise("-c", conf) as server, downloading(server) as sock:
        server.signal()
        until(lambda: refuses(server), "nobody listens")
        with pytest.raises(CannotStart, match=f"^process {server.process.pid} has rejected the new configuration"):
            control.reload(server.process.pid, timeout=DEADLINE)
        assert len(receive_all(sock)) == LARGE - 1
        assert server.wait() == 0
        assert "reload failed: the server is shutting down\n" in server.stderr()


def test_a_reload_that_a_stop_overtakes_fails_at_once(conf: Path, folder: Path) -> None:
    configure(conf, folder, drain_time=600)
    slow = os.environ | {"SETTLE_TIME": "0.5"}  # so that the file is still being read
    with supervise("-c", conf, env=slow) as server, downloading(server) as sock, ThreadPoolExecutor(1) as pool:
        reload = pool.submit(control.reload, server.process.pid, DEADLINE)
        until(lambda: "reloading" in server.stderr(), "it has begun")
        server.signal()
        with pytest.raises(CannotStart, match=f"^process {server.process.pid} has rejected the new configuration"):
            reload.result()
        assert len(receive_all(sock)) == LARGE - 1
        assert server.wait() == 0
        assert server.stderr().count("reload failed: the server is shutting down\n") == 1


@pytest.mark.slow
def test_a_drain_has_its_time(conf: Path, folder: Path) -> None:
    configure(conf, folder, drain_time=0.5)
    patient = {"STUCK_TIME": "0", "KILL_DELAY": "3"}  # so that only who is deaf is killed
    with supervise("-c", conf, workers=3, env=os.environ | patient) as server:
        server.address("http")
        deaf = server.workers()[0]
        with stopped(deaf), downloading(server):
            server.signal()
            assert server.wait() == 0
            assert re.findall(r"worker (\d+) (?:exited|killed)", server.stderr()) == [str(deaf)]


def test_the_end_in_the_midst_of_a_reload(conf: Path) -> None:
    for _ in range(3):
        with supervise("-c", conf) as server, Load(server.address("http"), CONTENT):
            server.signal(signal.SIGHUP)
            until(lambda: "reloading" in server.stderr(), "a reload has begun")
            server.signal()
            assert server.wait() == 0


def test_only_an_answer_under_way_is_waited_for(conf: Path, folder: Path) -> None:
    """No deadline ends any of the others, which keep their connections open."""
    limits = {"linger_time": 0, "send_time": 0}
    configure(conf, folder, drain_time=0, limits=limits)
    conf.write_text(conf.read_text().replace("[http]", "[telnet]\nidle_time = 0\n[http]\nidle_time = 0\nhead_time = 0"))
    with supervise("-c", conf) as server, requests.Session() as kept, contextlib.ExitStack() as stack:
        assert kept.get(f"{server.url}/f").content == CONTENT
        others = [stack.enter_context(server.connect(service)) for service in ("http", "http", "telnet", "telnet")]
        half, silent, session, _ = others
        half.sendall(b"GET /f HTTP/1.1\r\nHo")
        session.sendall(b"x\r\nhalf a line")
        assert receive_until(session, b"\n") == b"x\r\n"
        with downloading(server) as download:
            server.signal()
            for sock in others:
                assert receive_all(sock) == b""
            assert server.process.poll() is None
            assert len(receive_all(download)) == LARGE - 1
        assert server.wait() == 0
        assert silent.fileno() >= 0  # and all others are still open at our end
