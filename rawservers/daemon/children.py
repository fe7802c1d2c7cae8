"""Worker processes as their supervisor sees them: fork, commands, replies, heartbeat checks."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from rawservers.core.loop import TICK, Loop
from rawservers.daemon.orders import MAX_PACKET, READABLE, READY, REPLIES, CommandReader
from rawservers.daemon.privileges import drop_privileges
from rawservers.daemon.scoreboard import Scoreboard, Slot
from rawservers.daemon.startup import CannotStart, Resources
from rawservers.daemon.transitions import EventKind
from rawservers.daemon.worker import GarbageCollector, Worker
from rawservers.logs import error as error_log

log = logging.getLogger("rawservers")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)  # the supervisor's


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

    def ready(self, events: int) -> None:
        try:
            reply = self.sock.recv(MAX_PACKET, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return
        if reply in REPLIES:
            self.on_reply(REPLIES[reply], self.pid)
        elif not reply:  # it has exited; SIGCHLD follows
            self.loop.watch(self.sock.fileno(), self, 0)

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


def run_worker(resources: Resources, scoreboard: Scoreboard, slot: Slot, sock: socket.socket) -> None:
    """Serve in this process, a new worker, until its supervisor wants it to exit. sock: leads to the supervisor."""
    for number in SIGNALS:  # a terminal sends ^C to all processes of the group; workers obey the supervisor only
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    faulthandler.enable(2)
    drop_privileges(resources.credentials)
    worker = Worker(resources, scoreboard, slot)
    worker.loop.on_signal(signal.SIGTERM, worker.finish)  # not `stop`: the supervisor may send STOP as well
    worker.loop.watch(sock.fileno(), CommandReader(worker, sock), READABLE)
    worker.loop.at_tick += [error_log.flush, GarbageCollector(worker.loop.clock)]
    worker.run(lambda: sock.send(READY))
