"""Worker processes: fork, commands and replies, heartbeat checks.

A SOCK_SEQPACKET socket pair leads from the supervisor to each worker. Every command and every reply is one packet.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from rawservers.core.loop import TICK, Loop
from rawservers.daemon.privileges import drop_privileges
from rawservers.daemon.scoreboard import Scoreboard, Slot
from rawservers.daemon.startup import CannotStart, Resources
from rawservers.daemon.transitions import EventKind, WorkerPhase
from rawservers.daemon.worker import GarbageCollector, Worker
from rawservers.logs import error as error_log

log = logging.getLogger("rawservers")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)  # the supervisor's

RETIRE = b"retire"  # stop accepting, and exit with the last connection
STOP = b"stop"  # stop accepting, finish responses, and exit within drain_time
STOP_NOW = b"stop now"  # close all connections, and exit
REOPEN = b"reopen"  # write the access log to the descriptor that comes with this packet
COMMANDS = {WorkerPhase.RETIRING: RETIRE, WorkerPhase.STOPPING: STOP, WorkerPhase.STOPPING_NOW: STOP_NOW}

READY = b"ready"  # accepting
RETIRED = b"retired"  # no longer accepting, after RETIRE
REPLIES = {READY: EventKind.READY, RETIRED: EventKind.RETIRED}

MAX_PACKET = 16  # bytes


@dataclass(eq=False, slots=True)
class Child:
    """A worker process, and the event handler of the socket that leads to it.

    on_reply: called with each of its replies, and its process id; heard_at: monotonic time of its last heartbeat.
    """

    pid: int
    resources: Resources
    slot: Slot
    sock: socket.socket
    loop: Loop
    on_reply: Callable[[EventKind, int], None]
    heard_at: float = field(default_factory=time.monotonic)
    service: str = ""

    def __post_init__(self) -> None:
        self.loop.watch(self.sock.fileno(), self, select.EPOLLIN)

    def ready(self, events: int) -> None:
        try:
            reply = self.sock.recv(MAX_PACKET, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return
        if reply in REPLIES:
            self.on_reply(REPLIES[reply], self.pid)
        elif not reply:  # it has exited; SIGCHLD follows
            self.close()

    def failed(self) -> None:
        pass  # keep reading replies

    def close(self) -> None:
        self.loop.watch(self.sock.fileno(), self, 0)
        self.sock.close()

    def send_command(self, command: bytes, fds: Iterable[int] = ()) -> None:
        """Send a command without waiting. A failure is ignored: a worker that does not comply is killed in time."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.sock, [command], list(fds), socket.MSG_DONTWAIT)

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


def fork_worker(work: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    """Fork a process that does `work` with one end of a socket pair, and exits. Its process id, and the other end.

    Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child has handlers: it shares our signal wake-up pipe
    try:
        pid = os.fork()
        if pid == 0:
            ours.close()  # an open copy would hide the supervisor's exit from this worker
            exit_after(lambda: work(theirs))
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return pid, ours


def exit_after(work: Callable[[], None]) -> NoReturn:
    """Exit, without what the supervisor has yet to do: with status 1 if `work` raises, which is logged."""
    status = 1
    try:
        work()
        status = 0
    except CannotStart as error:
        log.error("%s", error)
    except BaseException:
        log.exception("unexpected error in a worker")
    finally:
        logging.shutdown()
        os._exit(status)


class CommandReader:
    """Event handler of a worker: executes the supervisor's commands. If the supervisor has exited, the worker stops at once."""

    service = ""

    def __init__(self, worker: Worker, sock: socket.socket) -> None:
        self._worker = worker
        self._sock = sock

    def ready(self, events: int) -> None:
        try:
            command, fds, *_ = socket.recv_fds(self._sock, MAX_PACKET, 1, socket.MSG_DONTWAIT)
        except ConnectionResetError:  # the supervisor has exited with replies unread
            command = b""
        if command == RETIRE:
            self._worker.retire()
            with contextlib.suppress(OSError):  # the supervisor has exited, which the next read reports
                self._sock.send(RETIRED)
        elif command == STOP:
            self._worker.finish()
        elif command == REOPEN:
            if fds:  # none if this process is out of descriptors
                self._worker.access_log.reopen(fds[0])
        else:
            self._worker.loop.stop()

    def failed(self) -> None:
        pass  # keep reading commands


def run_worker(resources: Resources, scoreboard: Scoreboard, slot: Slot, sock: socket.socket) -> None:
    """Serve in this process, a new worker, until its supervisor wants it to exit. sock: leads to the supervisor."""
    for number in SIGNALS:  # a terminal sends ^C to all processes of the group; workers obey the supervisor only
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    faulthandler.enable(2)
    drop_privileges(resources.credentials)
    worker = Worker(resources, scoreboard, slot)
    worker.loop.on_signal(signal.SIGTERM, worker.finish)  # not `stop`: the supervisor may send STOP as well
    worker.loop.watch(sock.fileno(), CommandReader(worker, sock), select.EPOLLIN)
    worker.loop.at_tick += [error_log.flush, GarbageCollector(worker.loop.clock)]
    worker.run(lambda: sock.send(READY))
