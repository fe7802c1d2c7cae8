"""Errors of the system, which are no errors of this program."""

from __future__ import annotations

import errno
import logging
import select

import pytest

from rawservers.core.errors import is_of_system
from rawservers.core.loop import EventHandler, Loop

OF_SYSTEM = [MemoryError(), *(OSError(code, "as told") for code in (errno.ENOMEM, errno.EMFILE, errno.ENOSPC, errno.EIO))]
OF_THIS_PROGRAM = [OSError("as told"), OSError(errno.EBADF, "as told"), BlockingIOError(errno.EAGAIN, "x"), ValueError()]


@pytest.mark.parametrize("error", [*OF_SYSTEM, *OF_THIS_PROGRAM], ids=repr)
def test_whose_error_it_is(error: Exception) -> None:
    assert is_of_system(error) == (error in OF_SYSTEM)


class Failing(EventHandler):
    service = ""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.was_told = False

    def __repr__(self) -> str:
        return "the handler"

    def ready(self, events: int) -> None:
        raise self.error

    def failed(self) -> None:
        self.was_told = True


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "error in the handler: cannot allocate memory"),
        (MemoryError(), "error in the handler: out of memory"),
        (OSError(errno.EBADF, "as told"), "unexpected error in the handler"),
    ],
    ids=repr,
)
def test_an_error_of_the_system_is_a_line(error: Exception, line: str, caplog: pytest.LogCaptureFixture) -> None:
    loop, handler = Loop(), Failing(error)
    loop.call_isolated(handler, lambda: handler.ready(0))
    loop.close()
    assert handler.was_told
    (record,) = caplog.records
    assert (record.getMessage(), record.levelno, record.exc_info is None) == (line, logging.ERROR, is_of_system(error))


def test_the_loop_s_own_error_names_it(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(fd: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    loop = Loop()
    with monkeypatch.context() as patched:
        patched.setattr("rawservers.core.loop.os.read", read)
        loop.call_isolated(loop, lambda: loop.ready(select.EPOLLIN))
    loop.close()
    assert caplog.messages == ["error in the event loop: input/output error"]
