"""Non-blocking output of log lines to a file, pipe, terminal or socket.

Lines that the descriptor does not accept at once are buffered up to a limit. Beyond it they are dropped, in whole lines, and
counted. The descriptor may be shared with other processes, so O_NONBLOCK must not be set on it; each kind has its own way:

- A regular file never blocks. On a full disk, writes are retried once a second.
- A pipe or terminal is reopened through /proc in non-blocking mode, where permissions allow that.
- A socket, such as the journal's, cannot be reopened; send(2) has MSG_DONTWAIT.
- A pipe of another user: splice(2) from a pipe of our own, with SPLICE_F_NONBLOCK.
- A terminal of another user: blocking writes in a thread.

Several processes may write to the same file, pipe or socket, and lines must not be interleaved. A write to a file in append
mode is atomic. A pipe or socket accepts up to PIPE_BUF bytes atomically, so it gets blocks of whole lines of no more than that.
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

BLOCK = select.PIPE_BUF  # bytes, 4096 on Linux: the longest line, and the most that a pipe accepts atomically
MAX_PENDING = 1 << 20  # bytes buffered for a slow reader; a pipe itself holds 64 KiB more

RETRY_INTERVAL = 1.0  # seconds between two attempts to write to a full disk
REPORT_INTERVAL = 1.0  # seconds between two reports of dropped lines
STALLED_REPORT_INTERVAL = 60.0  # the same, while the reader accepts nothing at all
CLOSE_TIMEOUT = 1.0  # seconds to wait for a slow reader before closing

DONTWAIT = int(socket.MSG_DONTWAIT)
REOPEN_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Sink:
    """Owner of the descriptor `fd`; with -1 all lines are dropped. limit: bytes buffered.

    pending: the buffered lines, read-only for others; dropped: number of lines dropped so far; drop_reason: the reason for the
    last failure to write.
    """

    def __init__(self, fd: int, limit: int = MAX_PENDING) -> None:
        self.pending = bytearray()
        self.dropped = 0
        self.drop_reason = ""
        self._limit = limit
        self._partial_line = b""  # what was written of the first line in `pending`
        self._reported = 0  # of `dropped`
        self._reported_at = -math.inf
        self._writer = open_writer(fd)

    def write(self, lines: bytes = b"") -> None:
        """Write pending lines, then `lines`: whole ones of at most BLOCK bytes. Never blocks, never raises OSError."""
        pending = self.pending
        pending += lines
        try:
            while pending:
                self._write_next()
        except BlockingIOError as error:
            self._set_drop_reason(error)
            if len(pending) > self._limit:
                self._drop_from(pending.rfind(b"\n", 0, self._limit) + 1)
        except OSError as error:  # the reader has closed its end
            self._set_drop_reason(error)
            self._drop_from(0)

    def reopen(self, fd: int) -> None:
        """Change to another descriptor. Lines that were not completely written to the old one go to the new one, whole."""
        new = open_writer(fd)
        self._writer.retry_now()
        self.write()
        self._writer.close()
        self._writer = new
        self._restore_partial_line()
        self.write()

    def finish(self) -> None:
        """Write pending lines; wait up to CLOSE_TIMEOUT for a slow reader."""
        self._writer.retry_now()
        self.write()
        end = time.monotonic() + CLOSE_TIMEOUT
        while self.pending and (left := end - time.monotonic()) > 0 and self._writer.wait(left):
            self.write()

    def close(self) -> None:
        """Finish, drop what is still pending, and close the descriptor."""
        self.finish()
        self._drop_from(0)
        self._writer.close()
        self._writer = SinkWriter(-1)

    def discard_pending(self) -> None:
        """In a child process after a fork: forget pending lines and unreported drops, which the parent process has as well."""
        self.pending.clear()
        self._partial_line = b""
        self._reported = self.dropped = 0

    def unreported_drops(self, now: float) -> int:
        """Number of lines dropped since the last report, to be reported now; 0 if the report interval has not passed."""
        if now - self._reported_at < (STALLED_REPORT_INTERVAL if self.pending else REPORT_INTERVAL):
            return 0
        drops = self.dropped - self._reported
        if drops:
            self._reported = self.dropped
            self._reported_at = now
        return drops

    def _write_next(self) -> None:
        """Write one block of pending lines, or what is left of a partial line."""
        pending = self.pending
        if self._writer.paused and not self._writer.resume(self._partial_line != b""):
            self._restore_partial_line()
        end = len(pending)
        if end > self._writer.max_write:
            end = (pending.rfind(b"\n", 0, self._writer.max_write) + 1) or (pending.find(b"\n") + 1)
        block = bytes(memoryview(pending)[:end])
        written = self._writer.write(block)
        line_start = block.rfind(b"\n", 0, written) + 1
        self._partial_line = block[line_start:written] if line_start else self._partial_line + block[:written]
        del pending[:written]

    def _restore_partial_line(self) -> None:
        self.pending[:0] = self._partial_line
        self._partial_line = b""

    def _drop_from(self, start: int) -> None:
        self.dropped += self.pending.count(b"\n", start)
        del self.pending[start:]
        if not start:
            self._partial_line = b""

    def _set_drop_reason(self, error: OSError) -> None:
        slow = "reader too slow"
        self.drop_reason = (error.strerror or slow).lower() if error.errno != errno.EAGAIN else slow


class SinkWriter:
    """Non-blocking writes to a descriptor; here to one in non-blocking mode.

    max_write: bytes per write; paused: `resume` must be called before the next `write`.
    """

    max_write = BLOCK
    paused = False

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, block: bytes) -> int:
        """The number of bytes written. Raises BlockingIOError to try again later; any other OSError is final."""
        return os.write(self.fd, block)

    def resume(self, partial: bool) -> bool:
        """Whether to continue a line, rather than to write it again. partial: whether a part of it was written."""
        return partial

    def wait(self, seconds: float) -> bool:
        """Wait until the descriptor is writable. False if that is not to be expected."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def retry_now(self) -> None:
        """Cut a pause short: the next `write` may be the last."""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class FileWriter(SinkWriter):
    """A regular file, whose disk may be full for a while.

    A line that was written in part is continued afterwards. But if another process has written meanwhile, the part gets a line
    end, and the whole line follows. The first write, and the first after a failure, look for such a part at the end of the
    file.
    """

    max_write = sys.maxsize

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._errno = 0  # of the last failure
        self._size = 0  # of the file, at the last failure
        self._retry_at = 0.0
        self._check_tail = True  # the file may end with a partial line

    def write(self, block: bytes) -> int:
        size = self._partial_line_end() if self._check_tail else 0
        if size not in (0, self._size):
            self._pause(errno.EAGAIN, size)  # another process may be in the middle of a write
        end = b"\n" if size else b""
        try:
            written = os.write(self.fd, end + block) - len(end)
        except OSError as error:
            self._pause(error.errno or errno.EIO, os.fstat(self.fd).st_size)
        self._check_tail = False
        return written

    def resume(self, partial: bool) -> bool:
        if time.monotonic() < self._retry_at:
            raise BlockingIOError(self._errno, os.strerror(self._errno))
        self.paused = False
        unchanged = partial and os.fstat(self.fd).st_size == self._size
        self._check_tail = not unchanged
        return unchanged

    def wait(self, seconds: float) -> bool:
        return False

    def retry_now(self) -> None:
        self._retry_at = 0.0

    def _pause(self, number: int, size: int) -> NoReturn:
        """number: an errno; size: of the file."""
        self.paused = True
        self._errno = number
        self._size = size
        self._retry_at = time.monotonic() + RETRY_INTERVAL
        raise BlockingIOError(number, os.strerror(number))

    def _partial_line_end(self) -> int:
        """As `partial_line_end`; 0 if the file is not readable."""
        with contextlib.suppress(OSError):
            return partial_line_end(self.fd)
        with contextlib.suppress(OSError), open(f"/proc/self/fd/{self.fd}", "rb", buffering=0) as file:
            return partial_line_end(file.fileno())
        return 0


class SocketWriter(SinkWriter):
    """A connected socket, in blocking mode or not."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._sock = socket.socket(fileno=fd)

    def write(self, block: bytes) -> int:
        return self._sock.send(block, DONTWAIT)

    def close(self) -> None:
        self._sock.close()


class PipeWriter(SinkWriter):
    """A pipe in blocking mode. Each block is spliced from a pipe of our own, which is empty before and after."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def write(self, block: bytes) -> int:
        os.write(self._write_end, block)
        written = 0
        try:
            written = os.splice(self._read_end, self.fd, len(block), flags=os.SPLICE_F_NONBLOCK)
        finally:
            if written < len(block):
                os.read(self._read_end, len(block))
        return written

    def close(self) -> None:
        super().close()
        os.close(self._read_end)
        os.close(self._write_end)


class TerminalWriter(SinkWriter):
    """A terminal in blocking mode. Each block is written by a thread of its own, one at a time."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._thread: threading.Thread | None = None

    def write(self, block: bytes) -> int:
        if self._thread and self._thread.is_alive():
            raise BlockingIOError
        fd = os.dup(self.fd)  # the thread may block for longer than ours is open
        self._thread = threading.Thread(target=write_all, args=(fd, block), daemon=True)
        self._thread.start()
        return len(block)

    def wait(self, seconds: float) -> bool:
        if self._thread:
            self._thread.join(seconds)
        return True

    def close(self) -> None:
        self.wait(CLOSE_TIMEOUT)
        super().close()


def open_writer(fd: int) -> SinkWriter:
    """The writer for this kind of descriptor."""
    mode = os.fstat(fd).st_mode if fd >= 0 else 0
    if stat.S_ISREG(mode):
        return FileWriter(fd)
    if stat.S_ISSOCK(mode):
        return SocketWriter(fd)
    if fd < 0 or not os.get_blocking(fd):
        return SinkWriter(fd)
    return PipeWriter(fd) if stat.S_ISFIFO(mode) else TerminalWriter(fd)


def partial_line_end(fd: int) -> int:
    """The size of a file if its last line is incomplete, else 0."""
    size = os.fstat(fd).st_size
    return size if size and os.pread(fd, 1, size - 1) != b"\n" else 0


def reopen_nonblocking(fd: int) -> int:
    """A new descriptor for the file behind `fd`, which is standard output or error; -1 if `fd` is closed. Raises OSError.

    A pipe or terminal is reopened in non-blocking mode, which does not affect other processes; if that fails, and for all other
    kinds, `fd` is duplicated.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return -1
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):  # no permission, or no /proc
            return os.open(f"/proc/self/fd/{fd}", REOPEN_FLAGS)
    return os.dup(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, blocking, and close `fd`."""
    with contextlib.suppress(OSError), open(fd, "wb", buffering=0) as file:
        while data:
            data = data[file.write(data) or 0 :]
