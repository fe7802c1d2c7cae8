"""The error log: its lines, the journal's levels, and that no error of its own is anybody's problem."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.logs import error as error_log
from rawservers.logs.error import RepeatedError
from rawservers.logs.sink import BLOCK
from tests.harness.logs import connection, drain, own_terminal, pipe
from tests.harness.waiting import until


def logger(fd: int, journal: bool = False) -> logging.Logger:
    made = logging.Logger("test")
    made.addHandler(error_log.ErrorLog(fd, journal))
    return made


def end(log: logging.Logger) -> None:
    for each in log.handlers:
        each.close()


def read(log: logging.Logger, reader: int) -> bytes:
    """All that was logged, once it is written."""
    for each in log.handlers:
        assert isinstance(each, error_log.ErrorLog)
        each.sink.finish()
    return drain(reader)


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
    first, second, third, *traceback = read(log, reader).decode().splitlines()
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
    assert read(log, reader).decode().splitlines() == [f"<{number}>message" for number in (7, 6, 4, 3, 2)]
    try:
        fail("one\ntwo")
    except ValueError:
        log.exception("failed")
    lines = read(log, reader).decode().splitlines()
    assert lines[0] == "<3>failed"
    assert lines[-1] == "<3>  two"
    assert {line[:5] for line in lines[1:]} == {"<3>  "}
    end(log)
    os.close(reader)


@given(st.text(st.characters(), max_size=5000), st.booleans())
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
    one, two, three = read(log, reader).split(b"\n")[:-1]
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

    def is_all_told() -> bool:
        found = told()  # several, if the thread made room between two drops
        return bool(found) and taken.count(b"\n") - len(found) + sum(found) == count

    until(is_all_told, "all that was lost is told")
    log.info("behind it")
    assert read(log, reader) == b"behind it\n"
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
    log.error("%d of %s\n", "x")  # noqa: PLE1206  # this is what is tested
    assert read(log, reader) == b"%d of %s\\n\n"
    end(log)
    os.close(reader)


def test_an_error_that_comes_again_is_told_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("rawservers.logs.error.time.monotonic", lambda: now)
    repeated = RepeatedError()
    for now in map(float, range(130)):  # noqa: B007  # the time
        repeated.log("it fails")
    repeated.log("in another way")
    repeated.clear()
    repeated.log("in another way")
    told = ["it fails", "it fails (60 times)", "it fails (60 times)", "in another way (10 times)", "in another way"]
    assert [record.message for record in caplog.records] == told


def test_a_line_for_which_there_is_no_memory_is_counted() -> None:
    def run_out(record: logging.LogRecord) -> list[str]:
        raise MemoryError

    reader, writer = pipe()
    log = logger(writer)
    (handler,) = log.handlers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "_lines", run_out)
        log.error("lost")
    handler.flush()
    assert read(log, reader) == b"error log: 1 lines dropped (out of memory)\n"
    end(log)
    os.close(reader)
