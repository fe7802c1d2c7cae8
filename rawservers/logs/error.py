"""The error log: all logging records, on standard error, without blocking.

A line is the record's message. In the journal it begins with the record's level, as sd-daemon(3) specifies. A message is always
one line, whatever a peer has put into it: unprintable characters are escaped. Tracebacks have more lines, which are indented,
so that the text of an exception cannot be mistaken for a message.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Sequence

from rawservers.core.errors import os_error_text
from rawservers.logs.sink import BLOCK, duplicate, open_sink

log = logging.getLogger("rawservers")

MAX_PENDING = 1 << 17  # bytes buffered for a slow reader; the first lines of a failure matter most
REPEAT_INTERVAL = 60.0  # seconds between two lines of the same RepeatedError
PRIORITIES = "776432"  # those of syslog(3), by level // 10: NOTSET, DEBUG, INFO, WARNING, ERROR, CRITICAL


def install() -> None:
    """Log records of level INFO and above, and errors that Python ignores, to standard error.

    Call once, before any threads are started. Raises OSError.
    """
    fd = duplicate(2)
    error_log = ErrorLog(fd, fd >= 0 and is_journal(fd))
    logging.getLogger().addHandler(error_log)
    logging.getLogger().setLevel(logging.INFO)
    logging.raiseExceptions = False  # a failure to log must neither raise, nor be printed to standard error
    sys.unraisablehook = log_unraisable
    os.register_at_fork(after_in_child=error_log.sink.reset)


def is_journal(fd: int) -> bool:
    """Whether `fd` leads to the journal, which takes priorities: systemd.exec(5). Raises OSError."""
    return "{0.st_dev}:{0.st_ino}".format(os.fstat(fd)) == os.environ.get("JOURNAL_STREAM")


def flush() -> None:
    """Write pending lines. Call once a second."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """An error that no caller could be told of, in a destructor for example."""
    log.error("%s: %r", unraisable.err_msg or "error ignored in", unraisable.object, exc_info=unraisable.exc_value)


class RepeatedError:
    """An error that may occur again and again: logged at once, then once in REPEAT_INTERVAL, with the number of times."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """It is over: the next one is logged at once."""
        self._text, self._count, self._logged_at = "", 0, -math.inf

    def log(self, text: str) -> None:
        """text: if it is another one than the last time, it is logged at once as well."""
        self._count += 1
        now = time.monotonic()
        if text != self._text or now - self._logged_at >= REPEAT_INTERVAL:
            log.error("%s%s", text, f" ({self._count} times)" * (self._count > 1))
            self._text, self._count, self._logged_at = text, 0, now


class ErrorLog(logging.Handler):
    """Logging handler that never blocks and never raises.

    fd: owned by the handler, -1 for none; journal: begin lines with their level.
    """

    def __init__(self, fd: int, journal: bool = False) -> None:
        super().__init__()
        self.sink = open_sink(fd, MAX_PENDING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self._lines(record), record.levelno)
        except Exception as error:  # out of memory, above all
            self.sink.refused += 1
            self.sink.drop_reason = os_error_text(error)

    def flush(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._write()

    def close(self) -> None:
        """Write pending lines, wait up to a second for a slow reader, close the descriptor. shutdown() holds the lock."""
        self.sink.finish()
        self._write(now=math.inf)
        self.sink.close()
        super().close()

    def _lines(self, record: logging.LogRecord) -> list[str]:
        try:
            message = record.getMessage()
        except Exception:  # its arguments do not match
            message = str(record.msg)
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        return [message, *(f"  {line}" for line in f"{trace}\n{record.stack_info or ''}".split("\n") if line)]

    def _write(self, lines: Sequence[str] = (), level: int = logging.WARNING, now: float = 0.0) -> None:
        self.sink.write(b"".join([self._line(line, level) for line in lines]))
        if not self.sink.stalled and (report := self.sink.drop_report(now or time.monotonic())):
            self.sink.write(self._line(f"error log: {report}", logging.WARNING))

    def _line(self, line: str, level: int) -> bytes:
        """One line of at most BLOCK bytes, truncated if necessary. Unprintable characters become Python escapes."""
        prefix = f"<{PRIORITIES[min(level // 10, 5)]}>" if self._journal else ""
        escaped = [each if each.isprintable() else each.encode("unicode_escape").decode() for each in line[:BLOCK]]
        return (prefix + "".join(escaped)).encode()[: BLOCK - 1].decode(errors="ignore").encode() + b"\n"
