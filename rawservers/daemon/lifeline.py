"""The lifeline: a pipe by which the kernel kills workers whose supervisor has exited, even if they hang with signals blocked.

Only the supervisor holds the write end. When it exits, however that is, the kernel closes it, and sends SIGKILL to the workers:
F_SETOWN, F_SETSIG and O_ASYNC in fcntl(2). PR_SET_PDEATHSIG would be cleared by the change of the user.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal


class Lifeline:
    """Made by the supervisor, inherited by its workers."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def hold(self) -> None:
        """In a worker, with the supervisor's user: be killed when the supervisor exits, or exit, if it has.

        Where the system cannot do this, the worker still exits as soon as its loop reads the end of the supervisor's socket.
        """
        os.close(self._write)
        with contextlib.suppress(OSError):
            # Owner and signal belong to the open file description: this worker's own one, not that of all.
            fd = os.open(f"/proc/self/fd/{self._read}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        poll = select.poll()
        poll.register(self._read, 0)
        if poll.poll(0):  # POLLHUP: too late for a signal
            os._exit(1)
        os.close(self._read)
