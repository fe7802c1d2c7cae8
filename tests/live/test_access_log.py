"""The access log of the real process: its lines, in a file and elsewhere; a reader that is stopped or gone; rotation."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rawservers.daemon import control
from tests.harness.http_client import KEPT
from tests.harness.load import Load
from tests.harness.logs import connection, drain, terminal
from tests.harness.processes import kinds, stopped
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all, receive_until
from tests.harness.supervisor import CONTENT, get, rotate, supervise
from tests.harness.waiting import until

# Lines


def test_the_log_tells_one_line_per_answer(server: Server) -> None:
    exchange(server, KEPT * 3 + b"GET /nope HTTP/1.0\r\nReferer: http://r/\r\nUser-Agent: a b\r\n\r\n")
    lines = server.await_log(4)
    assert len(lines) == 4
    pattern = r"127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    for line in lines[:3]:
        assert re.fullmatch(pattern + r'"GET /f HTTP/1\.1" 200 13 "-" "-" \d+\.\d{3}', line)
    assert re.fullmatch(pattern + r'"GET /nope HTTP/1\.0" 404 \d+ "http://r/" "a b" \d+\.\d{3}', lines[3])


def test_the_log_escapes_what_the_peer_sends(server: Server) -> None:
    exchange(server, b'GET /"\\\x1b[0m\xff\x00 HTTP/1.0\r\n\r\n')
    assert '"GET /\\x22\\x5c\\x1b[0m\\xff\\x00 HTTP/1.0" 400 ' in server.await_log(1)[0]


def test_the_time_taken_is_logged(folder: Path, server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET /f HTTP/1.0\r\n")
        assert not select.select([sock], [], [], 0.3)[0]
        sock.sendall(b"\r\n")
        assert receive_all(sock)
    assert 0.25 < float(server.await_log(1)[0].split()[-1]) < 10


# Files


def test_the_access_log_in_a_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("what was there stays\n")
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", path) as server:
        exchange(server, b'GET /f HTTP/1.0\r\nUser-Agent: \x1b[31m"x"\\\r\nReferer: http://a/\r\n\r\n')
        until(lambda: path.read_text().count("\n") == 2, "the line")
        assert server.log() == []
    first, second = path.read_text().splitlines()
    assert first == "what was there stays"
    assert "\\x1b" not in second  # such a request is refused: its header is malformed
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /f HTTP/1\.0" 400 \d+ "-" "-" \d+\.\d{3}', second
    )


def test_no_access_log(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", "off") as server:
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        server.signal()
        assert server.wait() == 0
        assert server.log() == []


def test_a_limit_on_the_size_of_files(folder: Path, tmp_path: Path) -> None:
    """EFBIG, not SIGXFSZ."""
    path = tmp_path / "log"
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", path) as server:
        assert server.url
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (5000, 5000))
        get_many(server, 200)
        server.signal()
        assert server.wait() == 0
        lines = path.read_bytes().split(b"\n")[:-1]
        assert {len(line) for line in lines} == {len(lines[0])}
        assert path.stat().st_size == 5000
        assert len(lines) + lost(server) == 200
        assert "(file too large)" in server.stderr()


def get_many(server: Server, count: int, agent: str = "") -> None:
    """Make so many requests, a hundred at a time, each of which is answered."""
    sent = f"GET /f HTTP/1.1\r\nHost: h\r\nUser-Agent: {agent}\r\n\r\n".encode() * 100
    with server.connect() as sock:
        for _ in range(count // 100):
            sock.sendall(sent)
            received = b""
            while received.count(b"content of f\n") < 100:
                received += receive_until(sock, b"content of f\n")


def lost(server: Server) -> int:
    """How many lines of the access log are said to be lost."""
    return sum(map(int, re.findall(r"access log: (\d+) lines dropped \(.+\)", server.stderr())))


# Readers


def test_a_log_that_nobody_reads_holds_nobody_up(folder: Path) -> None:
    count = 30_000
    requests_sent = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n" * 100
    with Server(folder, "--http", "0", "--telnet", "off") as server:
        assert server.url  # from here on nobody takes what it writes
        with server.connect() as sock:
            for _ in range(count // 100):
                sock.sendall(requests_sent)
                received = b""
                while received.count(b"content of f\n") < 100:
                    received += sock.recv(1 << 20)
        until(
            lambda: len(server.log()) > 1000 and "lines dropped" in server.stderr(), "the log goes on, and says what is missing"
        )
        server.signal()
        assert server.wait() == 0
        lines = server.log()
        dropped = sum(map(int, re.findall(r"access log: (\d+) lines dropped", server.stderr())))
        assert dropped > 0
        assert len(lines) + dropped == count
        assert {len(line) for line in lines} == {len(lines[0])}  # whole lines only


def test_a_log_whose_reader_is_gone_or_whose_disk_is_full(folder: Path) -> None:
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", "/dev/full") as server:
        for _ in range(3):
            assert exchange(server, KEPT).endswith(b"content of f\n")
        until(lambda: "lines dropped" in server.stderr(), "it is said")
    reader, writer = os.pipe()
    with Server(folder, "--http", "0", "--telnet", "off", stdout=writer) as server:
        os.close(writer)
        assert exchange(server, KEPT).endswith(b"content of f\n")
        os.close(reader)
        for _ in range(3):
            assert exchange(server, KEPT).endswith(b"content of f\n")
        until(lambda: "lines dropped" in server.stderr(), "it is said")


@pytest.mark.parametrize("ends", [os.pipe, connection, terminal], ids=["pipe", "socket", "terminal"])
def test_a_server_whose_log_is_not_read(folder: Path, ends: Callable[[], tuple[int, int]]) -> None:
    """Lines read and lines said to be lost are as many as answers, and no line is torn."""
    reader, writer = ends()
    answers = 4000
    with Server(folder, "--http", "0", "--telnet", "off", stdout=writer) as server:
        os.close(writer)
        get_many(server, answers, "a" * 700)  # 3 MB of log
        taken = drain(reader)

        def goes_on() -> bool:
            nonlocal answers, taken
            get_many(server, 100, "b" * 700)
            answers += 100
            taken += drain(reader)
            return b"bbb" in taken

        until(goes_on, "the log goes on")
        server.signal()

        def ends_well() -> bool:
            nonlocal taken
            taken += drain(reader)
            return server.process.poll() == 0

        until(ends_well, "it ends")
        server.wait()
        lines = (taken + drain(reader)).decode().splitlines()
        assert {len(line) for line in lines} == {len(lines[0])}
        assert lost(server) > 1000
        assert len(lines) + lost(server) == answers
    os.close(reader)


# Rotation


def test_no_line_is_lost_or_torn_by_rotation(conf: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with supervise("-c", conf, "--access-log", log) as server:
        with Load(server.address("http"), CONTENT) as load:
            for number in range(30):
                rotate(log, number)
                if number % 3:
                    server.signal(signal.SIGUSR1)
                if number % 10 == 4:
                    control.reload(server.process.pid)
                until(log.exists, "a new log")  # without a signal it is noticed once a second
                load.go_on(1)
        assert load.failures == []
    files = list(tmp_path.glob("log*"))
    assert len(files) == 31
    lines = b"".join(path.read_bytes() for path in files).splitlines(keepends=True)
    assert len(lines) == load.answered
    line = re.compile(rb'127\.0\.0\.1 - - \[[^]]+\] "GET /f HTTP/1\.[01]" 200 13 "-" "-" \d+\.\d{3}\n')
    assert all(map(line.fullmatch, lines))


def test_every_worker_goes_on_with_the_new_log(conf: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with supervise("-c", conf, "--access-log", log) as server, contextlib.ExitStack() as busy:
        server.address("http")
        workers = server.workers()
        log.unlink()
        server.signal(signal.SIGUSR1)
        until(lambda: all(kinds(pid)[str(log)] == 1 for pid in (server.process.pid, *workers)), "all have the new log")
        assert not any(what.endswith("log (deleted)") for pid in (server.process.pid, *workers) for what in kinds(pid))
        for count in (1, 2):
            pid = int(get(server, "/pid"))
            until(lambda: log.read_text().count("\n") == count, "its line")  # noqa: B023
            busy.enter_context(stopped(pid))


def test_workers_without_a_descriptor_for_the_new_log(conf: Path, tmp_path: Path) -> None:
    """Their lines go to the old one, until they have."""
    log, old = tmp_path / "log", tmp_path / "log.1"
    with supervise("-c", conf, "--access-log", log, workers=1) as server, contextlib.ExitStack() as stack:
        sock = stack.enter_context(server.connect())
        sock.sendall(KEPT)
        assert receive_until(sock, CONTENT)
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        rotate(log, 1)
        server.signal(signal.SIGUSR1)
        until(lambda: "cannot take the reopened access log" in server.stderr(), "it is told")
        for count in (2, 3):
            sock.sendall(KEPT)
            assert receive_until(sock, CONTENT)
            until(lambda: old.read_text().count("\n") == count, "a line in the old one")  # noqa: B023
        assert log.read_text() == ""
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
        until(lambda: kinds(server.pid)[str(log)] == 1, "it has the new one")
        sock.sendall(KEPT)
        assert receive_until(sock, CONTENT)
        until(lambda: log.read_text().count("\n") == 1, "a line in the new one")
        assert server.stderr().count("cannot take") == 1


def test_a_folder_that_vanishes_is_told_once(conf: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    with supervise("-c", conf, "--access-log", logs / "log", workers=1) as server:
        assert get(server) == CONTENT
        for number in range(2):
            away = logs.rename(tmp_path / f"away{number}")
            until(lambda: server.stderr().count("cannot reopen the access log") == number + 1, "it is told")  # noqa: B023
            told = server.stderr()
            begun = wakes(server.process.pid)
            until(lambda: wakes(server.process.pid) > begun + 10, "ten ticks, at each of which it is tried")  # noqa: B023
            assert get(server) == CONTENT
            until(lambda: (away / "log").read_text().count("\n") == 2, "its line, and that of the request before")  # noqa: B023
            logs.mkdir()
            until((logs / "log").exists, "the new log")
            assert server.stderr() == told
            assert get(server) == CONTENT
            until(lambda: (logs / "log").read_text().count("\n") == 1, "its line")


def wakes(pid: int) -> int:
    """How often it has begun to wait so far."""
    return int(Path(f"/proc/{pid}/status").read_text().rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_a_log_that_cannot_be_opened_anew(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with supervise("-c", conf, "--access-log", tmp_path / "logs" / "log") as server:
        server.address("http")
        (tmp_path / "logs").rename(tmp_path / "away")
        until(lambda: "cannot reopen the access log" in server.stderr(), "a complaint")
        assert get(server) == CONTENT
        until(lambda: (tmp_path / "away" / "log").read_text().count("\n") == 1, "the old one is written to")
        (tmp_path / "logs").mkdir()
        until((tmp_path / "logs" / "log").exists, "a new one")
