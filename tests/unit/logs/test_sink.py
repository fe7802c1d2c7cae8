"""The sink of the logs: nobody waits for it, whether its reader is stopped, gone or slow, or the disk full."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rawservers.logs import sink
from rawservers.logs.access import open_target
from rawservers.logs.sink import BLOCK, MAX_PENDING, QueueSink, Sink, open_sink
from tests.harness.logs import connection, drain, fill, own_terminal, pipe, terminal
from tests.harness.needs import ROOT
from tests.harness.waiting import DEADLINE, until

LINE = b"x" * 99 + b"\n"

KINDS = {
    "pipe": os.pipe,
    "non-blocking pipe": pipe,
    "socket": connection,
    "terminal": terminal,
    "non-blocking terminal": own_terminal,
}


def pending(out: Sink) -> int:
    """Bytes that are not written."""
    return out._queued - out._done if isinstance(out, QueueSink) else len(out._pending)


# Each kind of descriptor


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


every_kind = pytest.mark.parametrize("ends", KINDS.values(), ids=KINDS.keys())


@every_kind
def test_nobody_waits_for_a_reader_and_nothing_is_lost_for_one_that_comes_back(ends: Callable[[], tuple[int, int]]) -> None:
    reader, writer = ends()
    out = open_sink(writer)
    count = 4000  # 400,000 bytes: no pipe, socket or terminal takes as many
    for number in range(count):
        out.write(numbered(range(number, number + 1)))
    assert pending(out) > 100_000
    taken = take(reader, out, lambda taken: len(taken) == count * 100)
    assert [int(line) for line in taken.splitlines()] == list(range(count))
    until(lambda: pending(out) == 0, "all is written")
    assert out.dropped == 0
    out.close()
    os.close(reader)


@every_kind
def test_what_does_not_fit_is_dropped_in_whole_lines(ends: Callable[[], tuple[int, int]]) -> None:
    reader, writer = ends()
    out = open_sink(writer, 100_000)
    for number in range(0, 4000, 20):
        out.write(numbered(range(number, number + 20)))
        assert pending(out) <= 100_000
    assert out.drop_reason == "reader too slow"
    taken = take(reader, out, lambda _: pending(out) == 0)
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
    out = open_sink(writer)
    for _ in range(3):
        out.write(LINE * 10)
    until(lambda: out.dropped == 30, "they are counted")
    assert pending(out) == 0
    assert out.drop_reason in ("broken pipe", "input/output error")
    out.close()


def test_nowhere() -> None:
    out = open_sink(-1)
    out.write(LINE)
    out.close()
    out.write(LINE)
    assert out.dropped == 2


@every_kind
def test_no_descriptor_is_left(ends: Callable[[], tuple[int, int]], tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    reader, writer = ends()
    out = open_sink(writer)
    out.write(LINE)
    out = out.reopen(os.open(os.devnull, os.O_WRONLY))
    out.write(LINE)
    for path in (os.devnull, tmp_path / "log", tmp_path / "log", os.devnull):
        out = out.reopen(os.open(path, os.O_WRONLY | os.O_CREAT))
    out.close()
    os.close(reader)
    until(lambda: len(os.listdir("/proc/self/fd")) == before, "all are closed")


def test_in_the_end_a_slow_reader_is_waited_for(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    out = open_sink(writer)
    with (tmp_path / "read").open("wb") as file:
        out.write(LINE * 5000)
        with subprocess.Popen(["sh", "-c", "sleep 0.3; cat"], stdin=reader, stdout=file):
            os.close(reader)
            out.close()
    assert (tmp_path / "read").read_bytes() == LINE * 5000
    assert out.dropped == 0


def test_in_the_end_nobody_waits_for_ever() -> None:
    reader, writer = os.pipe()
    out = open_sink(writer)
    for _ in range(100):
        out.write(LINE * 50)
    began = time.monotonic()
    out.close()
    assert time.monotonic() - began > 0.9
    assert 5000 <= drain(reader).count(b"\n") + out.dropped <= 5000 + BLOCK // 100  # a block may be written after all
    os.close(reader)


def test_no_thread_before_the_first_line_and_none_for_a_file(tmp_path: Path) -> None:
    before = set(threading.enumerate())  # some of an earlier test may be about to end
    reader, writer = os.pipe()
    quiet, file = open_sink(writer), open_sink(open_target(str(tmp_path / "log")))
    quiet.write()
    file.write(LINE)
    assert set(threading.enumerate()) <= before
    for _ in range(3):
        quiet.write(LINE)
        assert len(set(threading.enumerate()) - before) == 1
    for out in (quiet, file):
        out.close()
    assert set(threading.enumerate()) <= before
    assert drain(reader) == LINE * 3
    os.close(reader)


@every_kind
def test_the_thread_waits_for_its_reader_in_the_kernel(
    ends: Callable[[], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def write(fd: int, data: bytes) -> int:
        nonlocal tries
        tries += 1
        return os.writev(fd, [data])

    monkeypatch.setattr(sink.os, "write", write)  # type: ignore[attr-defined]
    reader, writer = ends()
    out = open_sink(writer)
    out.write(LINE * 5000)

    def rests() -> bool:
        """Whether there is no attempt for so long. (No poll tells: a terminal may become writable without a wake-up.)"""
        before = tries
        time.sleep(0.3)
        return tries == before > 0

    until(rests, "it waits")
    assert pending(out) > 0
    os.close(reader)
    out.close()


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines wait for the next attempt to start one."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reader, writer = os.pipe()
    out = open_sink(writer)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        out.write(numbered(range(1)))
        out.write(numbered(range(1, 2)))
    assert take(reader, out, lambda heard: heard.count(b"\n") == 2) == numbered(range(2))  # by the call of each second
    out.close()
    assert drain(reader) == b""
    os.close(reader)


FORKS = """
import os, sys
from rawservers.logs.sink import open_sink

out = open_sink(1)
os.register_at_fork(after_in_child=out.reset)
line = "x" * 98 + chr(10)
for _ in range(20):
    out.write((line * 100).encode())  # more than the pipe takes: the thread waits
child = os.fork()
if child == 0:
    out.write((line.replace("x", "c") * 10).encode())
    out.close()
    os._exit(out.dropped)
status = os.waitpid(child, 0)[1]
out.close()
os._exit(status)
"""


def test_a_child_process_has_a_thread_of_its_own_and_leaves_the_lines_of_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        time.sleep(0.3)
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert lines.count(b"x" * 98) == 2000
    assert lines.count(b"c" * 98) == 10
    assert len(lines) == 2010


ENDS = """
import sys
from rawservers.logs.sink import open_sink

out = open_sink(1)
out.write((b"x" * 98 + b"\\n") * 4000)
print("ends", file=sys.stderr)
"""


def test_a_thread_that_waits_for_its_reader_does_not_hold_up_the_end_of_the_interpreter() -> None:
    reader, writer = os.pipe()
    done = subprocess.run([sys.executable, "-c", ENDS], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, b"ends\n")
    os.close(reader)
    os.close(writer)


# Several processes


WRITER = """
import sys
from rawservers.logs.sink import open_sink

fd, name, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
out = open_sink(fd)
for number in range(0, count, 4):
    lines = [f"{name} {each} ".ljust(4095 - each * 997 % 4081, name) + chr(10) for each in range(number, number + 4)]
    out.write("".join(lines).encode())
    if number % 40 == 0:
        out.finish()
out.close()
assert out.dropped == 0
"""


def lines_of(name: str, count: int) -> list[str]:
    return [f"{name} {number} ".ljust(BLOCK - 1 - number * 997 % 4081, name) for number in range(count)]


@pytest.mark.parametrize("kind", ["pipe", "non-blocking pipe", "socket", "file"])
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
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is tried again at once."""
    monkeypatch.setattr(sink, "RETRY_INTERVAL", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_line_that_did_not_fit_on_the_disk_is_completed(disk: Path) -> None:
    out = open_sink(open_target(str(disk / "log")))
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
    torn, other = open_sink(open_target(str(disk / "log"))), open_sink(open_target(str(disk / "log")))
    torn.write(numbered(range(5)))
    fill(disk / "filler")
    torn.write(numbered(range(5, 50)))
    other.write(numbered(range(50, 60)))
    assert (disk / "log").stat().st_size == 4096
    assert pending(other) == 1000
    (disk / "filler").unlink()
    for each in (other, torn) if first == "the other" else (torn, other):
        each.write()
        assert pending(each) == 0
        each.close()
    lines = (disk / "log").read_bytes().splitlines()
    whole = [int(line) for line in lines if len(line) == 99]
    if first == "the other":
        assert whole == [*range(40), *range(51, 60), *range(40, 50)]
        assert [len(line) for line in lines] == [*[99] * 40, 96 + 99, *[99] * 19]  # its first line follows what is there
    else:
        assert whole == [int(line) for line in lines] == list(range(60))


def test_a_full_disk_is_tried_once_a_second(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(sink.time, "monotonic", lambda: now)
    out = open_sink(open_target(str(disk / "log")))
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
    out = open_sink(open_target(str(disk / "log")))
    count = 20_000
    for number in range(0, count, 100):
        out.write(numbered(range(number, number + 100)))
    assert 0 < pending(out) <= MAX_PENDING
    out.close()
    lines = (disk / "log").read_bytes().splitlines()
    assert [int(line) for line in lines[:-1]] == list(range(65536 // 100))
    assert len(lines) - 1 + out.dropped == count  # the last one is torn


# Another file


def test_lines_that_a_pipe_has_not_taken_go_to_the_new_one() -> None:
    (stuck, writer), (reader, other) = os.pipe(), os.pipe()
    out = open_sink(writer)
    for number in range(0, 1000, 10):
        out.write(numbered(range(number, number + 10)))
    until(lambda: not select.select([], [writer], [], 0)[1], "the pipe is full")
    out = out.reopen(other)
    out.write(numbered(range(1000, 1010)))
    out.close()
    taken = b""

    def all_taken() -> bool:
        nonlocal taken
        taken += drain(stuck)
        return len(taken + drain_new) == 101_000

    drain_new = drain(reader)
    assert len(drain_new) > 1000
    until(all_taken, "what its thread was just writing")
    assert taken + drain_new == numbered(range(1010))
    assert out.dropped == 0
    os.close(stuck)
    os.close(reader)


def test_the_same_pipe_again_is_no_other_thread() -> None:
    reader, writer = os.pipe()
    out = open_sink(writer)
    out.write(LINE * 1000)
    before = threading.active_count()
    for _ in range(3):
        assert out.reopen(os.dup(writer)) is out
    assert threading.active_count() == before
    os.close(reader)
    out.close()


def test_drops_are_reported_by_the_sink_of_the_new_descriptor(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = open_sink(writer)
    out.write(LINE * 3)
    until(lambda: out.dropped == 3, "they are counted")
    assert out.drop_report(1000.0) == "3 lines dropped (broken pipe)"
    out.write(LINE * 2)
    until(lambda: out.dropped == 5, "they are counted")
    out = out.reopen(open_target(str(tmp_path / "log")))
    assert out.drop_report(1000.9) == ""
    assert out.drop_report(1001.0) == "2 lines dropped (broken pipe)"
    assert out.dropped == 5
    out.close()
