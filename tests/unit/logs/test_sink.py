"""The sink of the logs: nobody waits for it, whether its reader is stopped, gone or slow, or the disk full."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rawservers.logs import sink
from rawservers.logs.access import open_target
from rawservers.logs.sink import BLOCK, MAX_PENDING, Sink
from tests.harness.logs import connection, drain, fill, own_terminal, pipe, terminal
from tests.harness.needs import ROOT
from tests.harness.waiting import DEADLINE, until

pytestmark = pytest.mark.timeout(30)  # who waits where nobody should is ended


LINE = b"x" * 99 + b"\n"

KINDS = {
    "pipe": pipe,
    "somebody else's pipe": os.pipe,
    "socket": connection,
    "terminal": own_terminal,
    "somebody else's terminal": terminal,
}


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
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is tried again at once."""
    monkeypatch.setattr(sink, "RETRY_INTERVAL", 0.0)


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


# Another file


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
