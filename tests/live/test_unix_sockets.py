"""Unix sockets that a server listens on: from their beginning to their end."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from pathlib import Path

from rawservers.daemon import control
from tests.harness.command import run
from tests.harness.server import Server
from tests.harness.sockets import listening, receive_all
from tests.harness.supervisor import CONTENT, ask, configure, supervise
from tests.harness.waiting import DEADLINE, until


def is_refused(path: Path) -> bool:
    """Whether nobody listens on this unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == errno.ECONNREFUSED


def test_a_unix_socket(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"

    def get() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            sock.sendall(b"GET /f\r\n")
            return receive_all(sock)

    with Server(folder, "--http", f"unix:{path}", "--telnet", "off") as server:
        until(lambda: "listening" in server.stderr(), "listening")
        assert f"http listening on unix:{path} (serving {folder})" in server.stderr()
        assert get() == b"content of f\n"
        assert server.await_log(1)[0].startswith("unix: - - [")
        second = run(folder, "--http", f"unix:{path}", "--telnet", "off")
        assert (second.returncode, second.stderr) == (2, f"rawservers: cannot listen on unix:{path}: address already in use\n")
        server.signal(signal.SIGKILL)
        server.process.wait()
        until(lambda: is_refused(path), "the end of its worker")
    assert path.exists()
    with Server(folder, "--http", f"unix:{path}", "--telnet", "off") as server:  # over the stale socket
        until(lambda: "listening" in server.stderr(), "listening")
        assert get() == b"content of f\n"
    assert not path.exists()


def test_a_unix_socket_does_not_replace_a_file(folder: Path) -> None:
    done = run(folder, "--http", f"unix:{folder / 'f'}")
    assert (done.returncode, done.stderr) == (2, f"rawservers: cannot listen on unix:{folder / 'f'}: address already in use\n")
    assert (folder / "f").read_bytes() == b"content of f\n"


def test_a_unix_socket_from_its_beginning_to_its_end(conf: Path, folder: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "http.sock", tmp_path / "other.sock"
    listening(path).close()  # what a server leaves that was killed
    configure(conf, folder, listen=[("http", f"unix:{path}"), ("http", f"unix:{other}")])
    with supervise("-c", conf) as server:
        until(lambda: "other.sock" in server.stderr(), "it serves")
        assert ask(path) == ask(other) == CONTENT
        number = path.stat().st_ino
        configure(conf, folder, listen=[("http", f"unix:{path}")])
        control.reload(server.process.pid)
        assert path.stat().st_ino == number
        assert ask(path) == CONTENT
        assert not other.exists()
        path.unlink()
        with listening(path):  # somebody else's by now
            server.signal()
            assert server.wait() == 0
        assert path.exists()


def test_a_unix_socket_that_is_served_is_left_alone(conf: Path, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    configure(conf, folder, listen=[("http", f"unix:{path}")])
    with listening(path) as sock, contextlib.ExitStack() as stack:
        sock.listen(0)
        with contextlib.suppress(BlockingIOError):  # until its queue is full
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        with supervise("-c", conf) as server:
            assert server.wait() == 2
            assert server.stderr().endswith(f"rawservers: cannot listen on unix:{path}: address already in use\n")


def test_the_name_of_a_unix_peer_is_escaped_in_the_log(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with Server(folder, "--http", f"unix:{path}", "--telnet", "off") as server:
        until(lambda: "listening" in server.stderr(), "listening")
        for name in (b"\xff", b"x\n1.2.3.4 - - forged"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(DEADLINE)
                sock.bind(os.fsencode(tmp_path) + b"/" + name)
                sock.connect(str(path))
                sock.sendall(b"GET /f\r\n")
                assert receive_all(sock) == b"content of f\n"
        assert len(server.await_log(2)) == 2
        assert "\\x0a1.2.3.4" in server.log()[1]
