"""The access log: its lines, its targets, rotation, and what is told of lines that were lost."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rawservers.core.peer import Clock, Peer
from rawservers.http.response import AccessRecord, UserRecord
from rawservers.logs.access import AccessLog, open_target, rotated
from rawservers.logs.sink import BLOCK, QueueSink
from tests.harness.logs import connection, drain, fill, pipe, terminal
from tests.harness.needs import ROOT
from tests.harness.waiting import DEADLINE, until

PEER = Peer(("192.0.2.1", 4711), Clock())


# Lines


def record(line: str = "GET /f HTTP/1.0", referer: str = "", agent: str = "") -> AccessRecord:
    return AccessRecord(line, 200, 100, 12, referer, agent)


def logged(style: str, host: str, record: AccessRecord, sent: int, seconds: float) -> bytes:
    """What the log has of a response: one line that can be read, and is not too long."""
    reader, writer = pipe()
    log = AccessLog(writer, style, Clock(time=1e9))
    log.add(Peer((host, 0), Clock()), record, sent, seconds)
    log.close()
    said = drain(reader)
    os.close(reader)
    assert re.fullmatch(rb"[ -~]+\n", said)
    assert len(said) <= BLOCK
    return said


texts = st.one_of(
    st.binary(max_size=6000),
    st.builds(lambda unit, count: unit * count, st.binary(min_size=1, max_size=5), st.integers(1, 5000)),
).map(lambda data: data[:20_000].decode("latin-1"))


@pytest.mark.parametrize("style", ["combined", "json"])
@given(user=texts.filter(bool), host=st.binary(max_size=108).map(lambda data: "unix:" + os.fsdecode(data)))
@example(user="\xff" * 9000, host="unix:" + "\xff" * 108)
@example(user='"' * 9000, host="unix:" + '"' * 108)
@example(user=" x ", host="unix: - - ")
def test_the_line_of_a_user(style: str, user: str, host: str) -> None:
    long = "\xff" * 9000
    said = logged(style, host, UserRecord(long, 200, 100, 12, long, long, user=user), 1 << 63, 1e9)
    if style == "json":
        told = json.loads(said)
        assert told["user"] == user if len(user) < 10 else user.startswith(told["user"]) and told["user"]
        assert told["peer"] == os.fsencode(host).decode("latin-1")[: len(told["peer"])]
    else:
        match = re.fullmatch(r'(.+?) - ([!-~]+) \[[^]]+\] ".*"', said.decode().rpartition(" ")[0])
        assert match
        plain = re.sub(r"\\x(..)", lambda each: chr(int(each[1], 16)), match[2])
        assert plain == user if len(user) < 10 else user.startswith(plain)


def test_lines_with_and_without_a_user() -> None:
    """Of one wake, of several hosts, some of them equal."""
    reader, writer = pipe()
    log = AccessLog(writer, "combined", Clock(time=1e9))
    other = Peer(("192.0.2.2", 1), Clock())
    plain, of_user = record(), UserRecord("GET /f HTTP/1.0", 200, 100, 12, user="ada")
    for peers, each in (
        ((PEER, PEER), plain),
        ((other,), of_user),
        ((other,), plain),
        ((PEER, PEER), of_user),
        ((PEER,), plain),
    ):
        for peer in peers:
            log.add(peer, each, 112, 0.0)
    log.add(PEER, None, 112, 0.0)
    log.flush()
    log.close()
    lines = drain(reader).decode().splitlines()
    os.close(reader)
    assert [line.split()[:3] for line in lines] == [
        ["192.0.2.1", "-", "-"], ["192.0.2.1", "-", "-"], ["192.0.2.2", "-", "ada"], ["192.0.2.2", "-", "-"],
        ["192.0.2.1", "-", "ada"], ["192.0.2.1", "-", "ada"], ["192.0.2.1", "-", "-"],
    ]  # fmt: skip
    assert all(line.endswith('"GET /f HTTP/1.0" 200 12 "-" "-" 0.000') for line in lines)


def test_no_line_of_a_user_where_there_is_no_log() -> None:
    log = AccessLog(-1, "combined", Clock(time=1e9))
    log.add(PEER, UserRecord("GET /f HTTP/1.0", 200, 100, 12, user="ada"), 112, 0.0)
    assert log._lines == []


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
def test_an_answer_is_one_line(style: str, line: str, referer: str, agent: str, host: str, sent: int, seconds: float) -> None:
    said = logged(style, host, record(line, referer, agent), sent, seconds)
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


RECORDS = (record(), record("GET /g HTTP/1.0"), record("GET /f HTTP/1.0"), None, "a record of another protocol")


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("aab"), st.integers(0, 4), st.sampled_from([112, 112, 50]), st.sampled_from([0.0, 0.0, 1.5]))
        | st.sampled_from([0.0, 0.4, 1.0]),
        max_size=30,
    )
)
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


# Targets


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
    assert log.sink.dropped == 0
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
from rawservers.logs.access import open_target

print(json.dumps([os.get_blocking(1), os.get_blocking(open_target("-"))]), file=sys.stderr)
"""


@pytest.mark.parametrize("ends", [os.pipe, terminal, connection], ids=["pipe", "terminal", "socket"])
def test_the_shells_own_is_left_alone(ends: Callable[[], tuple[int, int]]) -> None:
    reader, writer = ends()
    command = [sys.executable, "-c", OPENS]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, timeout=DEADLINE)
    assert json.loads(done.stderr) == [True, True]
    os.close(reader)
    os.close(writer)


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
    assert log.sink.dropped == 0


def test_a_full_disk_is_told_of_before_a_line_is_dropped(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(now=100.0)
    log = AccessLog(open_target(str(disk / "log")), "combined", clock)

    def told(seconds: float) -> list[str]:
        clock.now += seconds
        for _ in range(99):
            log.add(PEER, record(), 112, 0.0)
        log.sink._retry_at = 0.0
        log.flush()
        found = caplog.messages[:]
        caplog.clear()
        return found

    line = "access log: lines wait until they can be written (no space left on device)"
    assert told(0) == []
    fill(disk / "filler")
    assert told(1) == [line]
    assert told(1) == told(100) == []
    (disk / "filler").unlink()
    assert told(1) == []
    fill(disk / "filler")
    assert told(1) == [line]
    (disk / "filler").unlink()
    assert told(1) == []
    fill(disk / "filler")
    assert told(1) == []  # once a minute
    assert told(60) == [line]
    (disk / "filler").unlink()
    assert told(1) == []
    fill(disk / "filler")
    assert told(1) == []
    (disk / "filler").unlink()
    assert told(1) == told(100) == []  # what is over is not told any more
    assert log.sink.dropped == 0


# A reader that does not read


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
    assert bool(log.sink.dropped) is (mode == "dropped")
    assert max(counts[-3:]) == min(counts[-3:]) <= 25
    os.close(reader)
    log.close()


def settle(log: AccessLog) -> None:
    """Wait until the thread has done what it can."""
    sink = log.sink
    assert isinstance(sink, QueueSink)
    until(lambda: sink._queued == sink._done, "all is written, or cannot be")


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
        settle(log)
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
    assert log.sink.dropped == 15


def test_a_loss_is_told_once_a_minute_while_nothing_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = pipe()
    clock = Clock(now=100.0)
    log = AccessLog(writer, "combined", clock)
    told: list[int] = []
    noted = 0
    while not log.sink.dropped:
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
    assert isinstance(log.sink, QueueSink)
    while log.sink._queued > log.sink._done:
        taken += drain(reader).count(b"\n")
        log.flush()
    clock.now += 1
    log.flush()
    told += warnings(caplog)
    log.close()
    assert taken + drain(reader).count(b"\n") + sum(told) == noted
    assert sum(told) == log.sink.dropped
    assert warnings(caplog) == []
    os.close(reader)
