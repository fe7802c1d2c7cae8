"""Output of log lines without blocking: to a regular file directly, to all else by a thread.

A write to a regular file does not wait for a reader. On a full disk, it is retried once a second.

A pipe, a terminal, a socket such as the journal's, or a character device may block for as long as its reader likes, and is
shared with other processes, so that O_NONBLOCK must not be set on it. Its lines go through a queue to a thread, which makes
blocking writes. Each descriptor has a thread of its own: a stopped terminal must not hold up the journal.

Pending lines are kept up to a limit. Beyond it the lines of a write are dropped, and counted.

Several processes may write to the same file, pipe or socket, and lines must not be interleaved. A write to a file in append
mode is atomic. A pipe or socket accepts up to PIPE_BUF bytes atomically, so it gets blocks of whole lines of no more than that.

Between the two threads there is only a SimpleQueue, and counters that one of them changes. With a lock, a finalizer that logs
could cause a deadlock, since it may run in either thread at any time.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import stat
import threading
import time
from queue import Empty, SimpleQueue

from rawservers.core.errors import os_error_text

BLOCK = select.PIPE_BUF  # bytes, 4096 on Linux: the longest line, and the most that a pipe accepts atomically
MAX_PENDING = 1 << 20  # bytes kept for a slow reader; a pipe itself holds 64 KiB more

RETRY_INTERVAL = 1.0  # seconds between two attempts to write to a full disk
REPORT_INTERVAL = 1.0  # seconds between two reports of dropped lines
STALLED_REPORT_INTERVAL = 60.0  # the same, while `Sink.stalled`
CLOSE_TIMEOUT = 1.0  # seconds to wait for a slow reader before closing


class Sink:
    """A regular file, as the descriptor `fd`, which the sink owns. limit: bytes kept while its disk is full.

    A line that was written in part is continued later; but if another process has written to the file meanwhile, the whole line
    is written again. What others have left in part is not looked for: their next line may continue it.

    stalled: as of the last `write`, the disk is full, or the reader far behind; waits: the disk has become full, which
    `wait_report` has not told; refused: number of lines dropped because of the
    limit; failed: number of those that a thread could not write; drop_reason: the last reason for either.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self._fd, self._limit = fd, limit
        self.reset()

    def reset(self) -> None:
        """Forget lines and counts: in a child process after a fork, since they are the parent's."""
        self.stalled = self.waits = False
        self.drop_reason = ""
        self.refused = self.failed = self._reported = 0  # lines; those that were reported are of both kinds
        self._pending = bytearray()
        self._offset = self._size = 0  # bytes of the first pending line that are written, and of the file with them
        self._reported_at = self._wait_reported_at = -math.inf
        self._retry_at = 0.0

    @property
    def dropped(self) -> int:
        """Number of lines dropped so far."""
        return self.refused + self.failed

    def write(self, lines: bytes = b"") -> None:
        """Write or queue whole lines of at most BLOCK bytes, behind earlier ones. Never blocks, never raises OSError."""
        if self.stalled and len(self._pending) + len(lines) > self._limit:
            self.refused += lines.count(b"\n")
        else:
            self._pending += lines
        if self.stalled and time.monotonic() < self._retry_at:
            return
        try:
            while self._pending:
                if self._offset and os.fstat(self._fd).st_size != self._size:
                    self._offset = 0
                written = self._offset + os.write(self._fd, self._pending[self._offset :])
                whole = self._pending.rfind(b"\n", 0, written) + 1
                del self._pending[:whole]
                self._offset = written - whole
                if self._offset:
                    self._size = os.fstat(self._fd).st_size
            self.stalled = self.waits = False
        except OSError as error:
            self.waits = self.waits or not self.stalled
            self.stalled, self.drop_reason = True, os_error_text(error)
            self._retry_at = time.monotonic() + RETRY_INTERVAL

    def finish(self) -> None:
        """Write all lines; wait up to CLOSE_TIMEOUT for a slow reader."""
        self._retry_at = 0.0
        self.write()

    def reopen(self, fd: int) -> Sink:
        """The sink for another descriptor, with the counts of this one, and the lines not yet written, whole.

        What a thread is writing stays with it, and so may a descriptor with a reader that never comes back.
        """
        if min(fd, self._fd) >= 0 and os.path.samestat(os.fstat(fd), os.fstat(self._fd)):
            os.close(fd)  # standard output again, for example
            return self
        new = open_sink(fd, self._limit)
        new.refused, new.drop_reason = self.dropped, self.drop_reason
        new._reported, new._reported_at = self._reported, self._reported_at
        new.write(self._take())
        self._release()
        return new

    def close(self) -> None:
        """Finish, drop what is still not written, and close the descriptor."""
        self.finish()
        self.refused += (self._take() + self._pending).count(b"\n")
        self._release()
        self._fd = -1

    def drop_report(self, now: float) -> str:
        """The number of lines dropped since the last report, with the reason; "" for none, or if it is not time to report."""
        drops = self.dropped - self._reported
        if not drops or now - self._reported_at < (STALLED_REPORT_INTERVAL if self.stalled else REPORT_INTERVAL):
            return ""
        self._reported += drops
        self._reported_at = now
        return f"{drops} lines dropped ({self.drop_reason})"

    def wait_report(self, now: float) -> str:
        """That lines wait, with the reason; "" if it was told already, this minute or since there was room."""
        if not self.waits or now - self._wait_reported_at < STALLED_REPORT_INTERVAL:
            return ""
        self.waits, self._wait_reported_at = False, now
        return f"lines wait until they can be written ({self.drop_reason})"

    def _take(self) -> bytes:
        """Remove and return the lines that are not written; without those that a thread is writing."""
        self.finish()
        lines = bytes(self._pending)
        self._pending.clear()
        return lines

    def _release(self) -> None:
        """Close the descriptor, once no thread writes to it."""
        if self._fd >= 0:
            os.close(self._fd)


class QueueSink(Sink):
    """Anything else, written to by a thread; or nothing, with the descriptor -1: all lines are dropped.

    The thread starts with the first line in this process, since threads do not survive a fork. It is a daemon thread: one that
    waits for its reader does not hold up the end of the process.
    """

    def reset(self) -> None:
        super().reset()  # `_pending` is what the thread is writing, and nobody else changes it
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()  # lines; b"" ends the thread, None closes the descriptor as well
        self._queued = self._done = 0  # bytes so far: queued, and of them those done with, which only the thread changes
        self._thread: threading.Thread | None = None

    def write(self, lines: bytes = b"") -> None:
        pending = self._queued - self._done
        self.stalled = pending > self._limit // 2
        if self._fd < 0 or 0 < pending > self._limit - len(lines):
            self.refused += lines.count(b"\n")
            self.drop_reason = "reader too slow"
        elif lines:
            self._queue.put(lines)
            self._queued += len(lines)
        if not self._thread and self._queued > self._done:
            thread = threading.Thread(target=self._run, args=(self._fd,), name="log", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads, or no memory for one: tried again by the next call
                thread.start()
                self._thread = thread

    def finish(self) -> None:
        if self._thread:
            self._queue.put(b"")
            self._thread.join(CLOSE_TIMEOUT)
            if not self._thread.is_alive():
                self._thread = None

    def _take(self, limit: float = math.inf) -> bytes:
        lines = bytearray()
        with contextlib.suppress(Empty):
            while len(lines) < limit:
                if not (more := self._queue.get_nowait()):
                    self._queue.put(more)  # for the thread
                    break
                lines += more
        return bytes(lines)

    def _release(self) -> None:
        if self._thread:
            self._queue.put(None)
        else:
            super()._release()

    def _run(self, fd: int) -> None:
        while lines := self._queue.get():
            self._pending += lines + self._take(BLOCK)  # few writes, for each of which it may wait for the other thread
            while self._pending and self._fd >= 0:
                self._write_block(fd)
        if lines is None:
            os.close(fd)

    def _write_block(self, fd: int) -> None:
        written = 0
        try:
            written = os.write(fd, self._pending[: self._pending.rfind(b"\n", 0, BLOCK) + 1 or BLOCK])
        except BlockingIOError:  # another process has made the descriptor non-blocking
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError as error:  # the reader has closed its end
            self.failed += self._pending.count(b"\n")
            self.drop_reason = os_error_text(error)
            written = len(self._pending)
        self._done += written
        del self._pending[:written]


def open_sink(fd: int, limit: int = MAX_PENDING) -> Sink:
    """The sink for this kind of descriptor. fd: owned by it; -1 for none."""
    return (Sink if fd >= 0 and stat.S_ISREG(os.fstat(fd).st_mode) else QueueSink)(fd, limit)


def duplicate(fd: int) -> int:
    """A duplicate of standard output or error; -1 if it is closed. Raises OSError."""
    return os.dup(fd) if os.path.exists(f"/proc/self/fd/{fd}") else -1
