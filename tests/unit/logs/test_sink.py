"""What is logged, and that nobody waits for it: each kind of descriptor, its reader stopped, gone or slow, and full disks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import re
import resource
import select
import socket
import subprocess
import sys
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rawservers.core.peer import Clock, Peer
from rawservers.http.response import AccessRecord
from rawservers.logs import error as error_log
from rawservers.logs import sink
from rawservers.logs.access import AccessLog, open_target, rotated
from rawservers.logs.sink import BLOCK, MAX_PENDING, Sink
from tests.harness.server import DEADLINE, ROOT, Server, need, receive_until, until

pytestmark = pytest.mark.timeout(30)  # who waits where nobody should is ended

PEER = Peer(("192.0.2.1", 4711), Clock())
LINE = b"x" * 99 + b"\n"


def record(line: str = "GET /f HTTP/1.0", referer: str = "", agent: str = "") -> AccessRecord:
    made = AccessRecord(line, None, 200, 100, 12)
    made.referer, made.agent = referer, agent
    return made


def drain(fd: int) -> bytes:
    """All that can be read at once."""
    taken = b""
    with contextlib.suppress(OSError):  # EIO from a terminal that nobody else has open
        while select.select([fd], [], [], 0)[0] and (more := os.read(fd, 1 << 20)):
            taken += more
    return taken


def take(reader: int, out: Sink, enough: Callable[[bytes], bool]) -> bytes:
    """What is written while it is read again."""
    taken = b""

    def is_enough() -> bool:
        nonlocal taken
        taken += drain(reader)
        out.write()
        return enough(taken)

    until(is_enough, "it is written")
    return taken


def numbered(numbers: range) -> bytes:
    """A line of 100 bytes for each."""
    return b"".join(b"%99d\n" % number for number in numbers)


# Each kind of descriptor


def pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    return reader, writer


def connection() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def terminal() -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave


def own_terminal() -> tuple[int, int]:
    master, slave = terminal()
    os.set_blocking(slave, False)
    return master, slave


KINDS = {
    "pipe": pipe,
    "somebody else's pipe": os.pipe,
    "socket": connection,
    "terminal": own_terminal,
    "somebody else's terminal": terminal,
}
every_kind = pytest.mark.parametrize("ends", KINDS.values(), ids=KINDS.keys())


@every_kind
def test_nobody_waits_for_a_reader_and_nothing_is_lost_for_one_that_comes_back(ends: Callable[[], tuple[int, int]]) -> None:
    reader, writer = ends()
    out = Sink(writer)
    count = 4000  # 400,000 bytes: no pipe, socket or terminal takes as many
    for number in range(count):
        out.write(numbered(range(number, number + 1)))
    assert len(out.pending) > 100_000
    assert out.drop_reason == "reader too slow"
    taken = take(reader, out, lambda taken: len(taken) == count * 100)
    assert [int(line) for line in taken.splitlines()] == list(range(count))
    assert (bytes(out.pending), out.dropped) == (b"", 0)
    out.close()
    os.close(reader)


@every_kind
def test_what_does_not_fit_is_dropped_in_whole_lines(ends: Callable[[], tuple[int, int]]) -> None:
    reader, writer = ends()
    out = Sink(writer, 100_000)
    for number in range(0, 4000, 20):
        out.write(numbered(range(number, number + 20)))
        assert len(out.pending) <= 100_000
    taken = take(reader, out, lambda _: not out.pending)
    out.write(numbered(range(4000, 4001)))
    taken += take(reader, out, lambda taken: taken.endswith(b" 4000\n"))
    out.close()
    lines = [int(line) for line in taken.splitlines()]
    assert {len(line) for line in taken.splitlines()} == {99}
    assert lines[:1000] == list(range(1000))  # the oldest are kept
    assert lines[-1] == 4000
    assert sorted(set(lines)) == lines
    assert len(lines) + out.dropped == 4001
    os.close(reader)


@every_kind
def test_a_reader_that_is_gone(ends: Callable[[], tuple[int, int]]) -> None:
    reader, writer = ends()
    os.close(reader)
    out = Sink(writer)
    for _ in range(3):
        out.write(LINE * 10)
    if ends is not terminal:  # what becomes of a line there, only its thread knows
        assert not out.pending
        assert out.dropped == 30
        assert out.drop_reason in ("broken pipe", "input/output error")
    out.close()


def test_nowhere() -> None:
    out = Sink(-1)
    out.write(LINE)
    out.close()
    out.write(LINE)
    assert out.dropped == 2


@every_kind
def test_no_descriptor_is_left(ends: Callable[[], tuple[int, int]]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    reader, writer = ends()
    out = Sink(writer)
    out.write(LINE)
    out.reopen(ends_of := os.open(os.devnull, os.O_WRONLY))
    out.reopen(os.dup(ends_of))
    out.close()
    os.close(reader)
    assert len(os.listdir("/proc/self/fd")) == before


def test_in_the_end_a_slow_reader_is_waited_for() -> None:
    reader, writer = pipe()
    out = Sink(writer)
    out.write(LINE * 5000)
    assert out.pending
    with subprocess.Popen(["cat"], stdin=reader, stdout=subprocess.PIPE) as cat:
        os.close(reader)
        assert cat.stdout
        os.set_blocking(cat.stdout.fileno(), False)
        taken: list[bytes] = []
        wait = out._writer.wait

        def take_and_wait(seconds: float) -> bool:
            taken.append(drain(cat.stdout.fileno()))  # type: ignore[union-attr]
            return wait(seconds)

        out._writer.wait = take_and_wait  # type: ignore[method-assign]
        out.close()
        os.set_blocking(cat.stdout.fileno(), True)
        assert b"".join(taken) + cat.stdout.read() == LINE * 5000
    assert out.dropped == 0


def test_in_the_end_nobody_waits_for_ever() -> None:
    reader, writer = pipe()
    out = Sink(writer)
    out.write(LINE * 5000)
    out.close()
    assert drain(reader).count(b"\n") + out.dropped == 5000
    os.close(reader)


@pytest.mark.parametrize("mode", ["waits for its reader", "dropped"])
def test_a_flush_is_no_more_work_for_a_reader_that_has_stopped_for_long(mode: str) -> None:
    reader, writer = pipe()
    log = AccessLog(writer, "combined", Clock(now=1.0))
    counts = []
    for wake in range(4000 if mode == "dropped" else 500):
        for _ in range(5):
            log.add(PEER, record(), 112, 0.0)
        if wake % 100 == 99:
            counts.append(len(calls_of(log.flush)))
        log.flush()
    assert bool(log.dropped) is (mode == "dropped")
    assert max(counts[-3:]) == min(counts[-3:]) <= 25
    log._sink.discard_pending()
    log.close()
    os.close(reader)


def calls_of(step: Callable[[], Any]) -> list[str]:
    """The functions that `step` calls, those written in C as well."""
    called: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            called.append(f"{event} {frame.f_code.co_name} {argument}")

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return called


# Several processes

WRITER = """
import select, sys
from rawservers.logs.sink import Sink

fd, name, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
out = Sink(fd)
for number in range(0, count, 4):
    lines = [f"{name} {each} ".ljust(4095 - each * 997 % 4081, name) + chr(10) for each in range(number, number + 4)]
    out.write("".join(lines).encode())
    while len(out.pending) > 65536:
        select.select([], [fd], [], 1)
        out.write()
while out.pending:
    select.select([], [fd], [], 1)
    out.write()
out.close()
assert out.dropped == 0
"""


def lines_of(name: str, count: int) -> list[str]:
    return [f"{name} {number} ".ljust(BLOCK - 1 - number * 997 % 4081, name) for number in range(count)]


@pytest.mark.parametrize("kind", ["pipe", "somebody else's pipe", "socket", "file"])
def test_lines_of_two_processes_stay_whole(kind: str, tmp_path: Path) -> None:
    count = 600
    path = tmp_path / "log"
    if kind == "file":
        reader, writer = os.open(path, os.O_CREAT), open_target(str(path))
    else:
        reader, writer = KINDS[kind]()
    command = [sys.executable, "-c", WRITER, str(writer)]
    writers = [subprocess.Popen([*command, name, str(count)], pass_fds=[writer], cwd=ROOT) for name in ("a", "b")]
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read() if kind != "file" else b""
    for process in writers:
        assert process.wait(DEADLINE) == 0
    lines = (said or path.read_bytes()).decode().splitlines()
    for name in ("a", "b"):
        assert [line for line in lines if line.startswith(f"{name} ")] == lines_of(name, count)
    assert len(lines) == 2 * count
    assert len(lines[0]) == BLOCK - 1


# Files, and disks that are full


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("only root can mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run([need("mount"), "-t", "tmpfs", "-o", "size=64k", "small", path], check=True)
    try:
        yield path
    finally:
        subprocess.run([need("umount"), "-l", path], check=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is tried again at once."""
    monkeypatch.setattr(sink, "RETRY_INTERVAL", 0.0)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.usefixtures("impatient")
def test_a_line_that_did_not_fit_on_the_disk_is_completed(disk: Path) -> None:
    out = Sink(open_target(str(disk / "log")))
    out.write(numbered(range(5)))
    fill(disk / "filler")
    for number in range(5, 105, 5):
        out.write(numbered(range(number, number + 5)))
    assert (disk / "log").stat().st_size == 4096  # the last line on it is torn
    assert out.drop_reason == "no space left on device"
    (disk / "filler").unlink()
    out.write(numbered(range(105, 110)))
    assert (disk / "log").read_bytes() == numbered(range(110))
    out.close()
    assert out.dropped == 0


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("first", ["the one that tore it", "the other"])
def test_a_torn_line_and_another_process(disk: Path, first: str) -> None:
    torn, other = Sink(open_target(str(disk / "log"))), Sink(open_target(str(disk / "log")))
    torn.write(numbered(range(5)))
    fill(disk / "filler")
    torn.write(numbered(range(5, 50)))
    other.write(numbered(range(50, 60)))
    assert (disk / "log").stat().st_size == 4096
    assert len(other.pending) == 1000
    (disk / "filler").unlink()
    for each in (other, torn) if first == "the other" else (torn, other):
        each.write()
        assert not each.pending
        each.close()
    lines = (disk / "log").read_bytes().splitlines()
    whole = [int(line) for line in lines if len(line) == 99]
    if first == "the other":
        assert whole == [*range(40), *range(50, 60), *range(40, 50)]
        assert [len(line) for line in lines] == [*[99] * 40, 96, *[99] * 20]
    else:
        assert whole == [int(line) for line in lines] == list(range(60))


def test_a_full_disk_is_tried_once_a_second(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(sink.time, "monotonic", lambda: now)
    out = Sink(open_target(str(disk / "log")))
    fill(disk / "filler")
    out.write(LINE)
    tries: list[int] = []
    monkeypatch.setattr(sink.os, "write", lambda fd, lines: tries.append(len(lines)) or len(lines))
    out.write(LINE)
    now += 0.99
    out.write(LINE)
    assert tries == []
    now += 0.02
    out.write(LINE)
    assert tries == [400]
    out.close()


def test_what_a_full_disk_costs_is_counted(disk: Path) -> None:
    out = Sink(open_target(str(disk / "log")))
    count = 20_000
    for number in range(0, count, 100):
        out.write(numbered(range(number, number + 100)))
    assert 0 < len(out.pending) <= MAX_PENDING
    out.close()
    lines = (disk / "log").read_bytes().splitlines()
    assert [int(line) for line in lines[:-1]] == list(range(65536 // 100))
    assert len(lines) - 1 + out.dropped == count  # the last one is torn


@pytest.mark.parametrize("by", ["us", "the shell"])
def test_a_log_that_was_broken_off_goes_on_with_a_fresh_line(tmp_path: Path, by: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"whole\nbroken o")
    for line in (b"first\n", b"second\n"):
        out = Sink(open_target(str(path)) if by == "us" else os.open(path, os.O_WRONLY | os.O_APPEND))
        out.write(line)
        out.close()
    assert path.read_bytes() == b"whole\nbroken o\nfirst\nsecond\n"


@pytest.mark.usefixtures("impatient")
def test_a_line_that_another_process_is_just_writing_is_not_broken_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    out = Sink(open_target(str(path)))
    with open(path, "ab", buffering=0) as other:
        other.write(b"one ")
        out.write(b"second\n")
        other.write(b"of four ")
        out.write()
        other.write(b"pages\n")
        out.write()
    assert path.read_bytes() == b"one of four pages\nsecond\n"
    out.close()


def test_a_limit_on_the_size_of_files(folder: Path, tmp_path: Path) -> None:
    """EFBIG, not SIGXFSZ."""
    path = tmp_path / "log"
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", path) as server:
        assert server.url
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (5000, 5000))
        get(server, 200)
        server.signal()
        assert server.wait() == 0
        lines = path.read_bytes().split(b"\n")[:-1]
        assert {len(line) for line in lines} == {len(lines[0])}
        assert path.stat().st_size == 5000
        assert len(lines) + lost(server) == 200
        assert "(file too large)" in server.stderr()


# Another file


def test_lines_that_the_old_file_has_not_taken_go_to_the_new_one_whole(disk: Path, tmp_path: Path) -> None:
    log = AccessLog(open_target(str(disk / "log")), "combined", Clock())
    log.add(PEER, record(), 112, 0.0)
    log.flush()
    fill(disk / "filler")
    for _ in range(99):
        log.add(PEER, record(), 112, 0.0)
    log.reopen(open_target(str(tmp_path / "new")))
    log.add(PEER, record(), 112, 0.0)
    log.close()
    (line, *old), new = ((path / name).read_text().split("\n") for path, name in ((disk, "log"), (tmp_path, "new")))
    assert old.pop() != ""  # what a full disk has taken of a line stays there
    assert new.pop() == ""
    assert set(old) == set(new) == {line}
    assert 1 + len(old) + len(new) == 101
    assert log.dropped == 0


def test_lines_that_a_pipe_has_not_taken_go_to_the_new_one() -> None:
    (stuck, writer), (reader, other) = pipe(), pipe()
    out = Sink(writer)
    out.write(numbered(range(1000)))
    out.reopen(other)
    out.write(numbered(range(1000, 1010)))
    out.close()
    assert drain(stuck) + drain(reader) == numbered(range(1010))
    os.close(stuck)
    os.close(reader)


def test_a_log_that_is_off_is_told_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = AccessLog(open_target("off"), "combined", Clock())
    log.add(PEER, record(), 112, 0.0)
    log.add(PEER, "a record of another protocol", 112, 0.0)
    log.flush()
    log.reopen(open_target(path))
    log.add(PEER, record(), 112, 0.0)
    log.reopen(-1)
    log.add(PEER, record(), 112, 0.0)
    log.flush()
    log.close()
    assert log.dropped == 0
    assert Path(path).read_text().count("\n") == 1
    assert Path(path).read_text().count("\n") == 1


def test_rotated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = open_target(str(path))
    assert not rotated(fd, str(path))
    path.rename(tmp_path / "log.1")
    assert rotated(fd, str(path))
    path.write_bytes(b"")
    assert rotated(fd, str(path))
    path.unlink()
    (tmp_path / "log.1").rename(path)
    assert not rotated(fd, str(path))
    assert rotated(fd, f"{path}/log")
    assert not rotated(fd, "-")
    assert not rotated(-1, str(path))
    assert not rotated(-1, "off")
    os.close(fd)


def test_a_target_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_target(str(tmp_path / "nope" / "log"))
    with pytest.raises(IsADirectoryError):
        open_target(str(tmp_path))


OPENS = """
import json, os, sys
from rawservers.logs import error as error_log
from rawservers.logs import sink
from rawservers.logs.access import open_target

if len(sys.argv) > 1:
    os.seteuid(65534)
fd = open_target("-")
print(json.dumps([os.get_blocking(1), os.get_blocking(fd), type(sink.open_writer(fd)).__name__]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("ends", "ours", "others"),
    [
        (os.pipe, [True, False, "SinkWriter"], [True, True, "PipeWriter"]),
        (terminal, [True, False, "SinkWriter"], [True, True, "TerminalWriter"]),
        (connection, [True, True, "SocketWriter"], [True, True, "SocketWriter"]),
    ],
    ids=["pipe", "terminal", "socket"],
)
@pytest.mark.parametrize("whose", ["ours", "somebody else's"])
def test_the_shells_own_is_left_alone(
    ends: Callable[[], tuple[int, int]], ours: list[Any], others: list[Any], whose: str
) -> None:
    if whose != "ours" and os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("only root can become somebody else")
    reader, writer = ends()
    command = [sys.executable, "-c", OPENS, *(["nobody"] if whose != "ours" else [])]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, timeout=DEADLINE)
    assert json.loads(done.stderr) == (ours if whose == "ours" else others)
    os.close(reader)
    os.close(writer)


# What is said of what was lost


def warnings(caplog: pytest.LogCaptureFixture) -> list[int]:
    found = [int(re.search(r"(\d+) lines dropped", message)[1]) for message in caplog.messages]  # type: ignore[index]
    assert {each.levelno for each in caplog.records} <= {logging.WARNING}
    caplog.clear()
    return found


def test_a_loss_is_told_once_a_second_and_adds_up(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = pipe()
    os.close(reader)
    clock = Clock(now=100.0)
    log = AccessLog(writer, "combined", clock)

    def answers(count: int) -> list[int]:
        for _ in range(count):
            log.add(PEER, record(), 112, 0.0)
        log.flush()
        return warnings(caplog)

    assert answers(3) == [3]
    assert answers(4) == []
    clock.now += 0.9
    assert answers(5) == []
    clock.now += 0.1
    assert answers(0) == [9]
    clock.now += 10
    assert answers(0) == []
    assert answers(1) == [1]
    assert answers(2) == []
    log.close()
    assert warnings(caplog) == [2]
    assert log.dropped == 15


def test_a_loss_is_told_once_a_minute_while_nothing_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = pipe()
    clock = Clock(now=100.0)
    log = AccessLog(writer, "combined", clock)
    told: list[int] = []
    noted = 0
    while not log.dropped:
        log.add(PEER, record(), 112, 0.0)
        log.flush()
        noted += 1
    told += warnings(caplog)
    assert told == [1]
    for _ in range(610):  # a minute
        clock.now += 0.1
        for _ in range(100):
            log.add(PEER, record(), 112, 0.0)
        log.flush()
        noted += 100
    told += warnings(caplog)
    assert len(told) == 2
    taken = 0
    while log._sink.pending:
        taken += drain(reader).count(b"\n")
        log.flush()
    clock.now += 1
    log.flush()
    told += warnings(caplog)
    log.close()
    assert taken + drain(reader).count(b"\n") + sum(told) == noted
    assert sum(told) == log.dropped
    assert warnings(caplog) == []
    os.close(reader)


# The lines of the access log

texts = st.one_of(
    st.binary(max_size=6000),
    st.builds(lambda unit, count: unit * count, st.binary(min_size=1, max_size=5), st.integers(1, 5000)),
).map(lambda data: data[:20_000].decode("latin-1"))


@pytest.mark.parametrize("style", ["combined", "json"])
@given(
    line=texts,
    referer=texts,
    agent=texts,
    host=st.binary(max_size=108).map(lambda data: "unix:" + os.fsdecode(data)),
    sent=st.integers(0, 1 << 63),
    seconds=st.floats(0, 1e9),
)
@example(line="\xff" * 9000, referer="\xff" * 9000, agent="\xff" * 9000, host="unix:" + "\xff" * 108, sent=1 << 63, seconds=1e9)
@example(line='"' * 9000, referer="\\" * 9000, agent="a" + '"' * 9000, host="unix:" + '"' * 108, sent=1 << 63, seconds=1e9)
@example(line="a" + "\n" * 9000, referer="aa" + "\0" * 9000, agent="", host="unix:\udcff", sent=0, seconds=0)
@settings(max_examples=60, deadline=None)
def test_an_answer_is_one_line(style: str, line: str, referer: str, agent: str, host: str, sent: int, seconds: float) -> None:
    reader, writer = pipe()
    log = AccessLog(writer, style, Clock(time=1e9))
    log.add(Peer((host, 0), Clock()), record(line, referer, agent), sent, seconds)
    log.close()
    said = drain(reader)
    os.close(reader)
    assert re.fullmatch(rb"[ -~]+\n", said)
    assert len(said) <= BLOCK
    if style == "json":
        told = json.loads(said)
        assert (told["status"], told["bytes"], told["seconds"]) == (200, max(0, sent - 100), round(seconds, 3))
        for name, field in (("request", line), ("referer", referer), ("agent", agent)):
            assert told[name] == field if len(field) < 120 else field.startswith(told[name]) and len(told[name]) >= 120
        host = os.fsencode(host).decode("latin-1")
        assert host.startswith(told["peer"])
    else:
        whole = r'((?:[^"\\]|\\x[0-9a-f]{2})+)'
        match = re.fullmatch(rf'{whole} - - \[.*?\] "{whole}" 200 (\d+) "{whole}" "{whole}" (\d+\.\d{{3}})\n', said.decode())
        assert match
        for written, field in ((match[2], line), (match[4], referer), (match[5], agent)):
            plain = re.sub(r"\\x(..)", lambda each: chr(int(each[1], 16)), written)
            assert plain == (field or "-") if len(field) < 190 else field.startswith(plain) and len(plain) >= 190


# Live


def get(server: Server, count: int, agent: str = "") -> None:
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


@pytest.mark.parametrize("ends", [os.pipe, connection, terminal], ids=["pipe", "socket", "terminal"])
def test_a_server_whose_log_is_not_read(folder: Path, ends: Callable[[], tuple[int, int]]) -> None:
    """Lines read and lines said to be lost are as many as answers, and no line is torn."""
    reader, writer = ends()
    answers = 4000
    with Server(folder, "--http", "0", "--telnet", "off", stdout=writer) as server:
        os.close(writer)
        get(server, answers, "a" * 700)  # 3 MB of log
        taken = drain(reader)

        def goes_on() -> bool:
            nonlocal answers, taken
            get(server, 100, "b" * 700)
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


# The error log


def logger(fd: int, journal: bool = False) -> logging.Logger:
    made = logging.Logger("test")
    made.addHandler(error_log.ErrorLog(fd, journal))
    return made


def end(log: logging.Logger) -> None:
    for each in log.handlers:
        each.close()


def fail(why: str) -> None:
    raise ValueError(why)


def test_what_the_error_log_says() -> None:
    reader, writer = pipe()
    log = logger(writer)
    log.info("a %s with é, я and 名", "message")
    log.error("from \x1b[31m%s\r\n\0\u202e\x85\udcff", "the\npeer")
    try:
        fail("one\ntwo\x1b[2J")
    except ValueError:
        log.exception("failed")
    log.warning("where", stack_info=True)
    first, second, third, *traceback = drain(reader).decode().splitlines()
    assert first == "a message with é, я and 名"
    assert second == r"from \x1b[31mthe\npeer\r\n\x00\u202e\x85\udcff"
    assert third == "failed"
    where = traceback.index("where")
    assert [traceback[0], *traceback[where - 2 : where]] == [
        "  Traceback (most recent call last):",
        "  ValueError: one",
        r"  two\x1b[2J",
    ]
    assert {line[:2] for line in traceback if line != "where"} == {"  "}
    assert "Stack" in traceback[where + 1]
    end(log)
    os.close(reader)


def test_the_journal_is_told_the_level_of_each_line() -> None:
    reader, writer = connection()
    log = logger(writer, journal=True)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "message")
    assert drain(reader).decode().splitlines() == [f"<{number}>message" for number in (7, 6, 4, 3, 2)]
    try:
        fail("one\ntwo")
    except ValueError:
        log.exception("failed")
    lines = drain(reader).decode().splitlines()
    assert lines[0] == "<3>failed"
    assert lines[-1] == "<3>  two"
    assert {line[:5] for line in lines[1:]} == {"<3>  "}
    end(log)
    os.close(reader)


@given(st.text(st.characters(), max_size=5000), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_message_is_one_line(message: str, journal: bool) -> None:
    reader, writer = pipe()
    log = logger(writer, journal)
    log.info(message)
    end(log)
    said = drain(reader)
    os.close(reader)
    assert said.endswith(b"\n")
    assert len(said) <= BLOCK
    assert said.decode()[:-1].isprintable()


def test_a_long_message_is_cut() -> None:
    reader, writer = pipe()
    log = logger(writer, journal=True)
    for message in ("x" * 5000, "é" * 5000, "\0" * 5000):
        log.info(message)
    one, two, three = drain(reader).split(b"\n")[:-1]
    assert len(one) == len(three) == BLOCK - 1
    assert one == b"<6>" + b"x" * (BLOCK - 4)
    assert two.decode() == "<6>" + "é" * ((BLOCK - 4) // 2)
    end(log)
    os.close(reader)


@pytest.mark.parametrize("ends", [pipe, connection, own_terminal], ids=["pipe", "socket", "terminal"])
def test_what_the_error_log_has_lost_is_told_when_there_is_room(ends: Callable[[], tuple[int, int]]) -> None:
    reader, writer = ends()
    log = logger(writer)
    count = 5000
    for number in range(count):
        log.info("%99d", number)
    taken = b""

    def told() -> list[int]:
        nonlocal taken
        taken += drain(reader)
        log.handlers[0].flush()
        found = re.findall(r"^error log: (\d+) lines dropped \(reader too slow\)$", taken.decode(), re.M)
        return list(map(int, found))

    until(lambda: bool(told()), "it is told")
    assert len(told()) == 1
    assert taken.count(b"\n") - 1 + told()[0] == count
    log.info("behind it")
    assert drain(reader) == b"behind it\n"
    end(log)
    os.close(reader)


def test_no_error_of_the_error_log_is_anybodys_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    reader, writer = pipe()
    os.close(reader)
    for log in (logger(-1), logger(writer), logger(os.open("/dev/full", os.O_WRONLY))):
        log.error("nobody hears this")
        log.error("%d", "not a number")
        log.handlers[0].flush()
        end(log)
        log.error("nor this")
    assert capsys.readouterr().err == ""


def test_a_message_that_cannot_be_made_is_said_as_it_is() -> None:
    reader, writer = pipe()
    log = logger(writer)
    log.error("%d of %s\n", "x")
    assert drain(reader) == b"%d of %s\\n\n"
    end(log)
    os.close(reader)


INSTALLED = """
import logging, os, sys
from rawservers.logs import error as error_log

error_log.install()
log = logging.getLogger("rawservers")
for number in range(int(sys.argv[1])):
    log.info("%99d", number)
log.debug("not this")
print("said", flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:  # what has not been said is its parent's to say
    logging.shutdown()
    os._exit(0)
os.waitpid(child, 0)
error_log.flush()
log.warning("the last word")
"""


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("ends", [os.pipe, connection, terminal], ids=["pipe", "socket", "terminal"])
def test_standard_error_that_is_not_read(ends: Callable[[], tuple[int, int]], journal: bool) -> None:
    count = 5000
    reader, writer = ends()
    status = os.fstat(writer)
    environment = os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino if journal else 0}"}
    command = [sys.executable, "-c", INSTALLED, str(count)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer
    ) as process:
        assert process.stdin
        assert process.stdout
        os.close(writer)
        assert process.stdout.readline() == b"said\n"
        taken = drain(reader)
        process.stdin.write(b"\n")
        process.stdin.close()

        def is_over() -> bool:
            nonlocal taken
            taken += drain(reader)
            return process.poll() is not None

        until(is_over, "its end")
        lines = (taken + drain(reader)).decode().splitlines()
    assert {line[:3] for line in lines[:-2]} == ({"<6>"} if journal else {"   "})
    numbers = [int(line.removeprefix("<6>")) for line in lines if line.removeprefix("<6>").startswith(" ")]
    assert numbers == list(range(len(numbers)))
    told = [int(number) for number in re.findall(r"error log: (\d+) lines", "\n".join(lines))]
    assert len(numbers) + sum(told) == count
    assert sum(told) > 1000
    assert ("<4>" * journal + "the last word") in lines
    os.close(reader)


def test_standard_error_that_is_closed(folder: Path) -> None:
    command = ["sh", "-c", f'exec {sys.executable} -c "$0" 10 2>&- </dev/null', INSTALLED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"said\n", b"")


FAILS = """
from rawservers import Config, ListenConfig, serve
from rawservers.logs import error as error_log

def fail(request):
    raise ValueError("as told")

error_log.install()
serve(Config(listen=(ListenConfig("http", "127.0.0.1:0"),), access_log="off", handlers=(("/f", fail),)))
"""


def test_a_server_whose_standard_error_is_not_read(folder: Path) -> None:
    answers = 1000
    with Server(program=FAILS, may_fail=True) as server:
        with server.connect() as sock:
            for _ in range(answers):
                sock.sendall(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
                assert receive_until(sock, b"</html>\n").startswith(b"HTTP/1.0 500 ")

            def goes_on() -> bool:
                nonlocal answers
                server.pump()
                sock.sendall(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
                assert receive_until(sock, b"</html>\n").startswith(b"HTTP/1.0 500 ")
                answers += 1
                return "error log: " in server.stderr()

            until(goes_on, "it is told")
        server.signal()
        assert server.wait() == 0
        listening, *lines = server.stderr().splitlines()
        assert listening.startswith("http listening on ")
        told = [int(line.split()[2]) for line in lines if line.startswith("error log: ")]
        failures = [line for line in lines if not line.startswith(("error log: ", "  "))]
        assert set(failures) == {"handler for /f failed"}
        size = lines.index(failures[0], 1)  # lines of each
        assert len(lines) - len(told) + sum(told) == answers * size
        assert sum(told) > 1000


RECORDS = (record(), record("GET /g HTTP/1.0"), record("GET /f HTTP/1.0"), None, "a record of another protocol")


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("aab"), st.integers(0, 4), st.sampled_from([112, 112, 50]), st.sampled_from([0.0, 0.0, 1.5]))
        | st.sampled_from([0.0, 0.4, 1.0]),
        max_size=30,
    )
)
@settings(max_examples=300, deadline=None)
def test_an_answer_is_told_as_if_it_were_the_first(steps: list[tuple[str, int, int, float] | float]) -> None:
    """Whatever was told before it. A step is an answer, or the end of a wake and the seconds until the next."""
    clock = Clock(time=1e9)
    reader, writer = pipe()
    log = AccessLog(writer, "combined", clock)
    expected = b""
    for step in steps:
        if isinstance(step, float):
            log.flush()
            clock.time += step
            continue
        host, number, sent, seconds = step
        log.add(Peer((host, 0), clock), RECORDS[number], sent, seconds)
        own_reader, own_writer = pipe()
        own = AccessLog(own_writer, "combined", clock)
        own.add(Peer((host, 0), clock), RECORDS[number], sent, seconds)
        own.close()
        expected += drain(own_reader)
        os.close(own_reader)
    log.close()
    assert drain(reader) == expected
    os.close(reader)
