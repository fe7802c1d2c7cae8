"""The lifeline: a worker is killed when its supervisor has exited, whenever that is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from rawservers.daemon.lifeline import Lifeline


def fork(work: Callable[[], object]) -> int:
    """A process that does this, and then exits with status 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(99)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_worker_with_all_signals_blocked() -> None:
    lifeline, (reader, writer) = Lifeline(), os.pipe()

    def work() -> None:
        lifeline.hold()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.write(writer, b"x")
        while True:
            pass

    workers = [fork(work), fork(work)]  # each has a signal of its own
    for _ in workers:
        assert os.read(reader, 1) == b"x"
    other = fork(lambda: (lifeline.hold(), os.write(writer, b"y"), signal.pause()))
    assert os.read(reader, 1) == b"y"
    os.close(lifeline._write)  # as the kernel does at the end of the supervisor
    assert [status_of(pid) for pid in (*workers, other)] == [-signal.SIGKILL] * 3
    for fd in (lifeline._read, reader, writer):
        os.close(fd)


def test_a_supervisor_that_has_exited_before() -> None:
    lifeline, (reader, writer) = Lifeline(), os.pipe()

    def work() -> None:
        os.read(reader, 1)
        lifeline.hold()

    pid = fork(work)
    os.close(lifeline._write)
    os.write(writer, b"x")
    assert status_of(pid) == 1
    for fd in (lifeline._read, reader, writer):
        os.close(fd)


def test_a_worker_whose_supervisor_lives() -> None:
    lifeline = Lifeline()
    assert status_of(fork(lifeline.hold)) == 0
    for fd in (lifeline._read, lifeline._write):
        os.close(fd)
