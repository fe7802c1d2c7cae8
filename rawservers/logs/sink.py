"""Lines out to a file, a pipe, a terminal or a socket, for servers that never wait for whoever takes them.

What is not taken at once is kept, up to a limit; what does not fit is dropped in whole lines, and counted. None of the places
that a log may go to can be trusted to take a line at once, and each has its own way of not waiting for it:

- A file does not make anybody wait. When its disk is full it is tried again once a second.
- A pipe or a terminal is opened anew in non-blocking mode (not switched to it: the shell holds the same one, and would be
  surprised).
- A socket cannot be opened anew, and the journal's is one. But a send can say MSG_DONTWAIT.
- Somebody else's pipe may not be opened anew. But splice, from a pipe of our own, can be told not to wait.
- Somebody else's terminal may not either, and there is nothing of the kind: a thread waits for it.

Several processes may write to the same place, and none of their lines may end up inside another's. A file takes a write in
one piece. A pipe or a socket does so with up to PIPE_BUF bytes: it is given blocks of no more, of whole lines.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import stat
import sys
import threading
import time
from typing import NoReturn

BLOCK = select.PIPE_BUF  # bytes, 4096 on Linux: the longest line, and the most that a pipe takes whole or not at all
KEPT = 1 << 20  # bytes that wait for a reader, at the most; a pipe itself holds 64 KiB more
PATIENCE = 1.0  # seconds: between two tries on a full disk, between two reports of a loss, and for the last lines to be taken
STUCK = 60.0  # seconds between two reports of a loss while nothing is taken at all

DONTWAIT = int(socket.MSG_DONTWAIT)
OPEN_ANEW = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Outlet:
    """Takes over the descriptor `fd`; -1: everything is dropped. Holds back `limit` bytes at the most.

    kept: the lines held back, not to be touched; dropped: how many lines are lost so far; why: the reason for the last of them.
    """

    def __init__(self, fd: int, limit: int = KEPT) -> None:
        self.kept = bytearray()
        self.dropped = 0
        self.why = ""
        self._limit = limit
        self._torn = b""  # the beginning of the first line in `kept`, which has been taken already
        self._told = 0  # how many of the lines dropped were reported
        self._told_at = -math.inf
        self._way = way(fd)

    def write(self, lines: bytes = b"") -> None:
        """Pass on what is kept, then `lines`, as far as that goes: whole lines of at most BLOCK bytes. Never raises OSError."""
        kept = self.kept
        kept += lines
        try:
            while kept:
                self._pass_on()
        except BlockingIOError as error:
            self._note(error)
            if len(kept) > self._limit:
                self._drop(kept.rfind(b"\n", 0, self._limit) + 1)
        except OSError as error:  # the reader is gone, and does not come back
            self._note(error)
            self._drop(0)

    def move(self, fd: int) -> None:
        """Go on with another descriptor, which begins with whole lines: those that the old one has not taken."""
        new = way(fd)
        self._way.hurry()
        self.write()
        self._way.close()
        self._way = new
        self._begin_again()
        self.write()

    def finish(self) -> None:
        """Pass on what is kept, and wait for a reader if need be, for at most a second."""
        self._way.hurry()
        self.write()
        end = time.monotonic() + PATIENCE
        while self.kept and (left := end - time.monotonic()) > 0 and self._way.wait(left):
            self.write()

    def close(self) -> None:
        """Finish, and close. What is not taken by then is dropped."""
        self.finish()
        self._drop(0)
        self._way.close()
        self._way = Way(-1)

    def forget(self) -> None:
        """Leave what is kept, and what is to be said of it, to the process that this one was forked from."""
        self.kept.clear()
        self._torn = b""
        self._told = self.dropped = 0

    def loss(self, now: float) -> int:
        """How many lines were dropped since this last told: 0 within a second of it, or a minute while nothing is taken."""
        if now - self._told_at < (STUCK if self.kept else PATIENCE):
            return 0
        lost = self.dropped - self._told
        if lost:
            self._told = self.dropped
            self._told_at = now
        return lost

    def _pass_on(self) -> None:
        kept = self.kept
        if self._way.stopped and not self._way.resume(self._torn != b""):
            self._begin_again()
        end = len(kept)
        if end > self._way.most:
            end = (kept.rfind(b"\n", 0, self._way.most) + 1) or (kept.find(b"\n") + 1)
        part = bytes(memoryview(kept)[:end])
        taken = self._way.send(part)
        torn = part.rfind(b"\n", 0, taken) + 1
        self._torn = part[torn:taken] if torn else self._torn + part[:taken]
        del kept[:taken]

    def _begin_again(self) -> None:
        self.kept[:0] = self._torn
        self._torn = b""

    def _drop(self, begin: int) -> None:
        self.dropped += self.kept.count(b"\n", begin)
        del self.kept[begin:]
        if not begin:
            self._torn = b""

    def _note(self, error: OSError) -> None:
        slow = "its reader does not take them"
        self.why = (error.strerror or slow).lower() if error.errno != errno.EAGAIN else slow


class Way:
    """How a descriptor is written to without waiting: here one in non-blocking mode.

    most: bytes to be sent at once; stopped: `resume` is to be called before the next `send`.
    """

    most = BLOCK
    stopped = False

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def send(self, lines: bytes) -> int:
        """How many of these bytes were taken. BlockingIOError: none, for the time being. Other OSErrors: none ever again."""
        return os.write(self.fd, lines)

    def resume(self, torn: bool) -> bool:
        """Whether to go on where the last line was `torn`, rather than to begin it again."""
        return torn

    def wait(self, seconds: float) -> bool:
        """Wait until there may be room; whether that is to be expected."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def hurry(self) -> None:
        """Do not put off the next `send`, which may be the last."""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class File(Way):
    """A file on a disk, which may be full now, and have room again later.

    A line of which it took a part is completed then. But if another process has written in the meantime, the part stands on
    a line of its own, and the whole line follows: the first write, and the next one after a failure, look for such a part.
    """

    most = sys.maxsize

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._reason = 0  # an errno
        self._size = 0  # when it was put off
        self._next = 0.0  # when to try again
        self._doubtful = True  # whether there may be a part of a line at its end

    def send(self, lines: bytes) -> int:
        size = self._broken_off() if self._doubtful else 0
        if size != 0 and size != self._size:
            self._put_off(errno.EAGAIN, size)  # another process may be in the middle of a write
        end = b"\n" if size else b""
        try:
            taken = os.write(self.fd, end + lines) - len(end)
        except OSError as error:
            self._put_off(error.errno or errno.EIO, os.fstat(self.fd).st_size)
        self._doubtful = False
        return taken

    def resume(self, torn: bool) -> bool:
        if time.monotonic() < self._next:
            raise BlockingIOError(self._reason, os.strerror(self._reason))
        self.stopped = False
        alone = torn and os.fstat(self.fd).st_size == self._size
        self._doubtful = not alone
        return alone

    def wait(self, seconds: float) -> bool:
        return False

    def hurry(self) -> None:
        self._next = 0.0

    def _put_off(self, reason: int, size: int) -> NoReturn:
        self.stopped = True
        self._reason = reason
        self._size = size
        self._next = time.monotonic() + PATIENCE
        raise BlockingIOError(reason, os.strerror(reason))

    def _broken_off(self) -> int:
        """The size of the file if it ends within a line. 0 if not, or if we may write but not read it."""
        with contextlib.suppress(OSError):
            return broken_off(self.fd)
        with contextlib.suppress(OSError), open(f"/proc/self/fd/{self.fd}", "rb", buffering=0) as file:
            return broken_off(file.fileno())
        return 0


class Socket(Way):
    """One end of a connection that others hold, too, in whatever mode they like."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._sock = socket.socket(fileno=fd)

    def send(self, lines: bytes) -> int:
        return self._sock.send(lines, DONTWAIT)

    def close(self) -> None:
        self._sock.close()


class Pipe(Way):
    """Somebody else's pipe, in blocking mode. A block goes there through a pipe of our own, which is empty before and after."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._source, self._sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def send(self, lines: bytes) -> int:
        os.write(self._sink, lines)
        taken = 0
        try:
            taken = os.splice(self._source, self.fd, len(lines), flags=os.SPLICE_F_NONBLOCK)
        finally:
            if taken < len(lines):
                os.read(self._source, len(lines))
        return taken

    def close(self) -> None:
        super().close()
        os.close(self._source)
        os.close(self._sink)


class Terminal(Way):
    """Somebody else's terminal, in blocking mode: for each block a thread, so that it is not us who wait."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._thread: threading.Thread | None = None

    def send(self, lines: bytes) -> int:
        if self._thread and self._thread.is_alive():
            raise BlockingIOError
        fd = os.dup(self.fd)  # the thread's own, which may have to wait for longer than ours is open
        self._thread = threading.Thread(target=write_all, args=(fd, lines), daemon=True)
        self._thread.start()
        return len(lines)

    def wait(self, seconds: float) -> bool:
        if self._thread:
            self._thread.join(seconds)
        return True

    def close(self) -> None:
        self.wait(PATIENCE)
        super().close()


def way(fd: int) -> Way:
    """How to write to `fd` without waiting."""
    mode = os.fstat(fd).st_mode if fd >= 0 else 0
    if stat.S_ISREG(mode):
        return File(fd)
    if stat.S_ISSOCK(mode):
        return Socket(fd)
    if fd < 0 or not os.get_blocking(fd):
        return Way(fd)
    return Pipe(fd) if stat.S_ISFIFO(mode) else Terminal(fd)


def broken_off(fd: int) -> int:
    """The size of a file if it ends within a line, else 0."""
    size = os.fstat(fd).st_size
    return size if size and os.pread(fd, 1, size - 1) != b"\n" else 0


def open_anew(fd: int) -> int:
    """A descriptor of our own for what `fd`, standard output or error, is open on; -1 if it is closed. OSError: too many.

    In non-blocking mode, where nobody else is touched by that.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return -1
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):  # somebody else's, or there is no /proc
            return os.open(f"/proc/self/fd/{fd}", OPEN_ANEW)
    return os.dup(fd)


def write_all(fd: int, lines: bytes) -> None:
    """Write, however long that takes, and close."""
    with contextlib.suppress(OSError), open(fd, "wb", buffering=0) as file:
        while lines:
            lines = lines[file.write(lines) or 0 :]
