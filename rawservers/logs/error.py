"""Everything that is logged, on standard error, without ever waiting for whoever reads it.

By hand a record is its message; in the journal each line also begins with the record's level, as sd-daemon(3) has it. A message
is one line, whatever the peer has put into it: what is not printable is escaped. Only a traceback has more, and those are
indented, so that no exception's text can pass for a message.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time

from rawservers.logs.sink import BLOCK, Outlet, open_anew

KEPT = 65536  # bytes that wait for a reader, at the most: the beginning of a trouble tells more than its end
LEVELS = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # as syslog(3) numbers them
DEBUG = 7


def install(level: int = logging.INFO) -> None:
    """From now on, say on standard error what is logged at `level` or above. To be called once, before there are threads."""
    fd = -1
    with contextlib.suppress(OSError):
        fd = open_anew(2)
    error_log = ErrorLog(fd, is_journal(2))
    logging.getLogger().addHandler(error_log)
    logging.getLogger().setLevel(level)
    logging.raiseExceptions = False  # what cannot be logged is no reason to fail, nor to write past all this
    os.register_at_fork(after_in_child=error_log.forget)


def flush() -> None:
    """Say what could not be said at once. To be called once a second."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ErrorLog):
            handler.flush()


class ErrorLog(logging.Handler):
    """fd: where to write, taken over, -1: nowhere; journal: whether lines begin with their level. Never waits, never raises."""

    def __init__(self, fd: int, journal: bool = False) -> None:
        super().__init__()
        self._outlet = Outlet(fd, KEPT)
        self._journal = journal
        self._style = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(record.levelno, self._lines(record), time.monotonic())
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._write(logging.WARNING, [], time.monotonic())

    def close(self) -> None:
        """Say what is left, for at most a second while nobody takes it, and close."""
        with self.lock or contextlib.nullcontext():
            self._outlet.finish()
            self._write(logging.WARNING, [], math.inf)
            self._outlet.close()
        super().close()

    def forget(self) -> None:
        """Leave what has not been said to the process that this one was forked from."""
        self._outlet.forget()

    def _lines(self, record: logging.LogRecord) -> list[str]:
        more = self._style.formatException(record.exc_info) if record.exc_info else ""
        if record.stack_info:
            more += "\n" + record.stack_info
        return [message_of(record), *(f"  {line}" for line in more.split("\n") if line)]

    def _write(self, level: int, lines: list[str], now: float) -> None:
        outlet = self._outlet
        outlet.write(b"".join([self._line(level, line) for line in lines]))
        if outlet.dropped and not outlet.kept and (lost := outlet.loss(now)):
            outlet.write(self._line(logging.WARNING, f"this log was not taken: {lost} lines dropped ({outlet.why})"))

    def _line(self, level: int, line: str) -> bytes:
        """One line of at most BLOCK bytes, cut where it is too long."""
        start = f"<{priority(level)}>" if self._journal else ""
        line = (start + printable(line[:BLOCK])).encode()[: BLOCK - 1].decode(errors="ignore")
        return line.encode() + b"\n"


def message_of(record: logging.LogRecord) -> str:
    """Its message; if the arguments do not fit it, without them."""
    try:
        return record.getMessage()
    except Exception:
        return str(record.msg)


def priority(level: int) -> int:
    """The number that syslog and the journal have for a level of `logging`."""
    return next((number for least, number in LEVELS if level >= least), DEBUG)


def printable(text: str) -> str:
    """The same with what would move the cursor, or hide, as Python escapes it."""
    if text.isprintable():
        return text
    return "".join([each if each.isprintable() else each.encode("unicode_escape").decode() for each in text])


def is_journal(fd: int) -> bool:
    """Whether `fd` leads to the journal, as systemd.exec(5) has a service find out."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
