"""`rawservers.Server` and `serve` in programs that fork, are short of descriptors, have signals, or make mistakes."""

from __future__ import annotations

import gc
import os
import resource
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from rawservers import CannotStart, Config, ListenConfig, Request, Response, Server
from rawservers.daemon.worker import Worker
from tests.harness.http_client import KEPT, take_body
from tests.harness.sockets import receive_all
from tests.harness.waiting import DEADLINE, until
from tests.live.test_server import connect, threads


def test_the_user_of_a_configuration_is_ignored(tmp_path: Path) -> None:
    listen = (ListenConfig("http", f"unix:{tmp_path}/s"),)
    for user in ("no-such-user", "nobody"):
        with Server(config=Config(listen=listen, access_log="off", user=user)):
            assert (tmp_path / "s").stat().st_uid == os.geteuid()


def test_calls_without_a_thread() -> None:
    server = Server()
    with pytest.raises(RuntimeError, match=r"^the server is not running$"):
        server.call(id)
    with server:
        assert server.call(lambda worker: 1) == 1
    with pytest.raises(RuntimeError, match=r"^the server is not running$"):
        server.call(id)


def test_calls_while_it_stops() -> None:
    """A call that the loop does not come to any more ends with the thread."""
    blocked, released = threading.Event(), threading.Event()

    def block(worker: Worker) -> None:
        worker.loop.stop()
        blocked.set()
        released.wait(DEADLINE)

    with Server() as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.call, block)
        assert blocked.wait(DEADLINE)
        late = pool.submit(server.call, id)
        until(lambda: len(server._worker.loop._threadsafe_calls) > 0, "the call waits")
        released.set()
        first.result(DEADLINE)
        with pytest.raises(RuntimeError, match=r"^the server is not running$"):
            late.result(DEADLINE)


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_handler_that_ends_the_thread(end: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def leave(request: Request) -> Response:
        raise end("of the handler")

    config = Config(listen=(ListenConfig("http", "127.0.0.1:0"),), handlers=(("/", leave),), access_log="off")
    descriptors = os.listdir("/proc/self/fd")
    server = Server(config=config)
    server.start()
    with connect(server.http_address) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert receive_all(sock) == b""
    until(lambda: threads() == 0, "the thread ends")
    assert [record.getMessage() for record in caplog.records] == ["the server has ended, by an unexpected error"]
    with pytest.raises(RuntimeError, match=r"^the server is not running$"):
        server.call(id)
    server.start()  # it is not running
    with connect(server.http_address):
        server.stop()
    assert os.listdir("/proc/self/fd") == descriptors


def test_a_fork_has_no_server(folder: Path, tmp_path: Path) -> None:
    """The thread is the parent's; the child may start the server for itself, and leaves the parent's alone."""

    def in_child(server: Server, other: Server) -> bool:
        with pytest.raises(RuntimeError, match=r"^the server is not running$"):
            server.call(id)
        other.stop()
        server.start()
        with server:
            return requests.get(server.http_url("/f"), timeout=DEADLINE).content == b"content of f\n"

    with Server(folder) as server, Server(http=f"unix:{tmp_path}/s") as other:
        address = server.http_address
        if not (pid := os.fork()):
            status = 1
            try:
                status = 0 if in_child(server, other) and server.http_address != address else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert requests.get(server.http_url("/f"), timeout=DEADLINE).content == b"content of f\n"
        with connect(other.addresses["http"][0]) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert receive_all(sock).startswith(b"HTTP/1.0 200 ")


def test_a_fork_does_not_keep_the_port(folder: Path) -> None:
    """A child that outlives the server: clients are refused, and connections end."""
    ours, theirs = socket.socketpair()
    with ours, Server(folder) as server, connect(server.http_address) as kept:
        kept.sendall(KEPT)
        assert take_body(kept) == b"content of f\n"
        if not (pid := os.fork()):
            ours.close()
            theirs.send(b"forked")
            theirs.recv(1)
            os._exit(0)
        theirs.close()
        try:
            assert ours.recv(10) == b"forked"
            server.stop()
            assert receive_all(kept) == b""
            with pytest.raises(ConnectionRefusedError):
                connect(server.http_address)
        finally:
            ours.close()
            os.waitpid(pid, 0)


def test_too_few_descriptors(folder: Path) -> None:
    gc.collect()  # what other tests have left may have descriptors
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = os.listdir("/proc/self/fd")
    errors: list[str] = []
    for spare in range(12):
        server = Server(folder)
        fillers = fill()  # so that free ones come after those that are open
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + spare, limits[1]))
        try:
            errors += try_to_start(server)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            server.stop()
            for fd in fillers:
                os.close(fd)
        assert os.listdir("/proc/self/fd") == descriptors
    assert 0 < len(errors) < 12
    assert all(error.endswith(": too many open files") and "\n" not in error for error in errors)


def fill() -> list[int]:
    """Descriptors in all gaps between those that are open."""
    fds = [os.open(os.devnull, os.O_RDONLY)]
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    while fds[-1] <= highest:
        fds.append(os.open(os.devnull, os.O_RDONLY))
    return fds


def try_to_start(server: Server) -> list[str]:
    """The text of the error, if there is one."""
    try:
        server.start()
    except CannotStart as error:
        return [str(error)]
    return []


def test_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    descriptors = os.listdir("/proc/self/fd")
    server = Server()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(CannotStart, match=r"^cannot start: can't start new thread$"):
            server.start()
    assert os.listdir("/proc/self/fd") == descriptors
    with pytest.raises(RuntimeError, match=r"^the server is not running$"):
        server.call(id)
    with server:
        assert server.call(lambda worker: 1) == 1


def test_a_unix_socket_without_a_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Server(http=f"unix:{tmp_path}/s"):
            assert oct((tmp_path / "s").stat().st_mode & 0o777) == "0o755"
    finally:
        os.umask(before)


SERVE = """
import os, signal, sys, threading
from rawservers import Config, ListenConfig, serve
{0}
"""


@pytest.mark.parametrize(
    "program",
    [
        # What the program has set is there again: for Ctrl-C, and for asyncio.
        "first, fds = signal.getsignal(signal.SIGINT), os.pipe2(os.O_NONBLOCK)\n"
        "signal.set_wakeup_fd(fds[1])\n"
        "import logging\n"
        "class Stop(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        if 'listening' in record.getMessage(): os.kill(os.getpid(), signal.SIGTERM)\n"
        "logging.getLogger().setLevel(logging.INFO); logging.getLogger().addHandler(Stop())\n"
        "for _ in range(2): serve(Config(listen=(ListenConfig('http', '127.0.0.1:0'),), access_log='off'))\n"
        "print(signal.getsignal(signal.SIGINT) is first, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,\n"
        "    signal.set_wakeup_fd(-1) == fds[1])\n",
        # Not in a thread: said at once, and nothing is left open.
        "before, errors = os.listdir('/proc/self/fd'), []\n"
        "def run():\n"
        "    try: serve(Config(listen=(ListenConfig('http', '127.0.0.1:0'),), access_log='off'))\n"
        "    except Exception as error: errors.append(str(error))\n"
        "thread = threading.Thread(target=run); thread.start(); thread.join()\n"
        "print(errors == ['serve must be called in the main thread; a Server has a thread of its own'], \n"
        "    os.listdir('/proc/self/fd') == before, True)\n",
    ],
    ids=["signals", "thread"],
)
def test_serve_leaves_the_program_as_it_was(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", SERVE.format(program)], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.stdout, done.stderr) == ("True True True\n", "")
