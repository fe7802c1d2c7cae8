"""Unix sockets that a server listens on: from their beginning to their end."""

from __future__ import annotations

import contextlib
import errno
import pwd
import signal
import socket
from pathlib import Path

import pytest

from rawservers.daemon import control
from tests.harness.command import run
from tests.harness.needs import need_root
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


def test_the_name_of_a_unix_peer_is_escaped_in_the_log(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "http.sock"
    monkeypatch.chdir(tmp_path)  # the whole path may be too long for a name of 108 bytes
    with Server(folder, "--http", f"unix:{path}", "--telnet", "off") as server:
        until(lambda: "listening" in server.stderr(), "listening")
        for name in (b"\xff", b"x\n1.2.3.4 - - forged"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(DEADLINE)
                sock.bind(name)
                sock.connect(str(path))
                sock.sendall(b"GET /f\r\n")
                assert receive_all(sock) == b"content of f\n"
        assert len(server.await_log(2)) == 2
        assert "\\x0a1.2.3.4" in server.log()[1]


def test_two_servers_that_start_at_once(conf: Path, folder: Path, tmp_path: Path) -> None:
    """Over what a server has left that was killed: one of them serves, and the other one says why it does not."""
    path = tmp_path / "http.sock"
    configure(conf, folder, listen=[("http", f"unix:{path}")])
    for _ in range(5):
        listening(path).close()
        with supervise("-c", conf, workers=1) as one, supervise("-c", conf, workers=1) as other:
            until(lambda: None not in {one.process.poll(), other.process.poll()} or ask(path) == CONTENT, "one serves")
            until(lambda: {one.process.poll(), other.process.poll()} == {None, 2}, "the other one has ended")
            loser = one if one.process.poll() == 2 else other
            assert f"cannot listen on unix:{path}: address already in use" in loser.stderr()
            assert ask(path) == CONTENT
        assert not path.exists()


def test_the_owner_of_a_unix_socket(conf: Path, folder: Path, tmp_path: Path) -> None:
    """By default the user of the workers; a reload may change it, and the mode."""
    need_root("give it away")
    path = tmp_path / "http.sock"
    configure(conf, folder, listen=[("http", f"unix:{path}")])

    def access() -> tuple[int, int, int]:
        status = path.stat()
        return status.st_mode & 0o777, status.st_uid, status.st_gid

    nobody, daemon = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")
    with supervise("-c", conf, "--user", "nobody") as server:
        until(lambda: "listening" in server.stderr(), "it serves")
        assert access() == (0o755, nobody.pw_uid, nobody.pw_gid)
        conf.write_text(conf.read_text().replace("[http]", 'mode = "0666"\nowner = "daemon"\n[http]'))
        control.reload(server.process.pid)
        assert access() == (0o666, daemon.pw_uid, nobody.pw_gid)
