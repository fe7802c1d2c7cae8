"""A worker process as its supervisor sees it: the fork, replies, commands, heartbeats."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable

from rawservers.core.loop import TICK, EventHandler, Loop
from rawservers.daemon.scoreboard import Slot
from rawservers.daemon.startup import Resources
from rawservers.daemon.transitions import EventKind
from rawservers.daemon.worker import MAX_PACKET, REOPEN, REPLIES, SIGNALS

MAX_REPLIES = 100  # that are read of a worker that has exited


class Child(EventHandler):
    """A worker process, and the event handler of the socket that leads to it.

    on_reply: called with each of its replies, and its process id; heard_at: monotonic time of its last heartbeat; needs_log: it
    has not got the descriptor of the reopened access log; unsent: a command that the socket has not taken yet. Raises OSError.
    """

    service = ""

    def __init__(
        self,
        pid: int,
        resources: Resources,
        slot: Slot,
        sock: socket.socket,
        loop: Loop,
        on_reply: Callable[[EventKind, int], None],
    ) -> None:
        self.pid, self.resources, self.slot, self.sock, self.loop, self.on_reply = pid, resources, slot, sock, loop, on_reply
        self.heard_at = time.monotonic()
        self.needs_log = False
        self.unsent = b""
        self.loop.watch(self.sock.fileno(), self, select.EPOLLIN)

    def __repr__(self) -> str:
        return f"Child(pid={self.pid})"

    def ready(self, events: int) -> None:
        if self.read() == b"":  # it has exited; SIGCHLD follows
            self.close()

    def read(self) -> bytes | None:
        """Read a reply, and pass it on; b"" at the end of them, None if there is none."""
        try:
            reply = self.sock.recv(MAX_PACKET, socket.MSG_DONTWAIT)
        except OSError:
            return None
        if reply in REPLIES:
            self.on_reply(REPLIES[reply], self.pid)
        self.needs_log |= reply == REOPEN
        return reply

    def read_rest(self) -> None:
        """Read the last replies of a worker that has exited."""
        for _ in range(MAX_REPLIES):
            if not self.read():
                break

    def close(self) -> None:
        self.loop.watch(self.sock.fileno(), self, 0)
        self.sock.close()

    def send_command(self, command: bytes) -> None:
        """Send a command without waiting, in place of one that could not be sent. If it cannot be sent either, `retry` may."""
        self.unsent = b"" if self._send(command) else command

    def retry(self) -> None:
        """Send what could not be sent so far: without RETIRING, a worker would serve the old configuration for ever."""
        if self.unsent:
            self.send_command(self.unsent)

    def send_log(self, target: str, fd: int) -> None:
        """Have it write the access log to `fd`, if its log is `target`."""
        self.needs_log = self.resources.config.access_log == target and not self._send(REOPEN, fd)

    def _send(self, command: bytes, *fds: int) -> bool:
        """Whether it was sent."""
        with contextlib.suppress(OSError):
            return bool(socket.send_fds(self.sock, [command], fds, socket.MSG_DONTWAIT))
        return False

    def is_stuck(self, now: float, gap: float) -> bool:
        """Whether it has sent no heartbeat for `stuck_time` since one was due. gap: seconds since the last check.

        The worker may have written anything: a heartbeat that is not from the time since the last one counts as none.
        """
        limit, heartbeat = self.resources.config.stuck_time, self.slot.heartbeat[1]
        if gap > max(limit / 2, 1.5 * TICK):
            self.heard_at = now - TICK  # all processes were suspended, by ^Z in a terminal for example
        elif self.heard_at < heartbeat <= now:
            self.heard_at = heartbeat
        return 0 < limit < now - self.heard_at - TICK


def fork() -> tuple[int, socket.socket]:
    """Fork. The process id, 0 in the new process, and this process's end of a socket pair between both. Raises OSError.

    In the new process SIGNALS stay blocked until it has handlers of its own: it shares our signal wake-up pipe.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid <= 0:
            ours.close()  # an open copy would hide the supervisor's exit from this worker
        if pid != 0:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return pid, ours if pid else theirs
