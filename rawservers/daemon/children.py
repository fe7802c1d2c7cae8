"""Worker processes as their supervisor sees them: fork, commands, replies, heartbeat checks."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable
from typing import NoReturn

from rawservers.core.loop import TICK, Loop
from rawservers.daemon.generation import Generation
from rawservers.daemon.orders import MAX_PACKET, READABLE, READY, REOPEN, RETIRED, STOP, CommandReader
from rawservers.daemon.privileges import drop_privileges
from rawservers.daemon.scoreboard import Scoreboard, Slot
from rawservers.daemon.startup import CannotStart
from rawservers.daemon.worker import GarbageCollector, Worker
from rawservers.logs import error as error_log

log = logging.getLogger("rawservers")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)  # the supervisor's
KILL_DELAY = 2.0  # seconds from SIGABRT to SIGKILL, for the stack dump; and from the end of drain_time to SIGKILL


class Child:
    """A worker process, and the event handler of the socket that leads to it.

    is_ready, has_retired: the replies it has sent; command: the last one sent to it, but for REOPEN.
    """

    service = ""

    def __init__(
        self, pid: int, generation: Generation, slot: Slot, sock: socket.socket, loop: Loop, on_reply: Callable[[], None]
    ) -> None:
        self.pid = pid
        self.generation = generation
        self.slot = slot
        self.sock = sock
        self.is_ready = False
        self.has_retired = False
        self.command = b""
        self.abort_sent = False
        self.silence_excused_until = 0.0
        self._loop = loop
        self._on_reply = on_reply
        loop.watch(sock.fileno(), self, READABLE)

    def ready(self, events: int) -> None:
        try:
            reply = self.sock.recv(MAX_PACKET, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return
        self.is_ready |= reply == READY
        self.has_retired |= reply == RETIRED
        if not reply:  # it has exited; SIGCHLD follows
            self._loop.watch(self.sock.fileno(), self, 0)
        self._on_reply()

    def failed(self) -> None:
        pass  # keep reading replies

    def close(self) -> None:
        self._loop.watch(self.sock.fileno(), self, 0)
        self.sock.close()

    def send_command(self, command: bytes, fds: Iterable[int] = ()) -> None:
        """Send a command without waiting. A failure is ignored: a worker that does not comply is killed in time."""
        if command != REOPEN:
            self.command = command
        with contextlib.suppress(OSError):
            socket.send_fds(self.sock, [command], list(fds), socket.MSG_DONTWAIT)

    def kill(self, number: int) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def check_heartbeat(self, now: float, gap: float) -> None:
        """Abort the worker after `stuck_time` seconds without a heartbeat, and kill it if it survives that.

        gap: seconds since the last check.
        """
        limit = self.generation.config.stuck_time
        if gap > max(limit / 2, 1.5 * TICK):
            self.silence_excused_until = now  # all processes were suspended, by ^Z in a terminal for example
        silence = now - max(self.slot.heartbeat[1] + TICK, self.silence_excused_until)  # since a heartbeat was due
        if not 0 < limit < silence:
            return
        if not self.abort_sent:
            self.abort_sent = True
            log.error("worker %d stuck for %.0f seconds without a heartbeat: dumping its stack", self.pid, silence)
            self.kill(signal.SIGABRT)
        elif silence > limit + KILL_DELAY:
            self.kill(signal.SIGKILL)

    def kill_if_late(self, elapsed: float) -> None:
        """Kill the worker if it should have exited by now. elapsed: seconds since the last signal to stop."""
        limit = self.generation.config.drain_time if self.command == STOP else 0.001
        if limit > 0 and elapsed > limit + KILL_DELAY:
            self.kill(signal.SIGKILL)


def fork_worker(
    generation: Generation,
    scoreboard: Scoreboard,
    slot: Slot,
    loop: Loop,
    on_reply: Callable[[], None],
    close_inherited: Callable[[], None],
) -> Child:
    """Fork a worker.

    on_reply: called after each of its replies; close_inherited: called in the worker, to close what only the supervisor needs.
    Raises OSError.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child has handlers: it shares our signal wake-up pipe
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.close()  # an open copy would hide the supervisor's exit from this worker
            run_worker(generation, scoreboard, slot, theirs, close_inherited)
        theirs.close()
        return Child(pid, generation, slot, ours, loop, on_reply)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def run_worker(
    generation: Generation, scoreboard: Scoreboard, slot: Slot, sock: socket.socket, close_inherited: Callable[[], None]
) -> NoReturn:
    """The worker process, from the fork to its exit."""
    status = 1
    try:
        close_inherited()
        for number in SIGNALS:  # a terminal sends ^C to all processes of the group; workers obey the supervisor only
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        faulthandler.enable(2)
        drop_privileges(generation.credentials)
        worker = Worker(generation.config, generation.servers, generation.access_log, scoreboard, slot)
        worker.loop.on_signal(signal.SIGTERM, worker.finish)  # not `stop`: the supervisor may send STOP as well
        worker.loop.watch(sock.fileno(), CommandReader(worker, sock), READABLE)
        worker.loop.at_tick += [error_log.flush, GarbageCollector(worker.loop.clock)]
        worker.run(lambda: sock.send(READY))
        status = 0
    except CannotStart as error:
        log.error("%s", error)
    except BaseException:
        log.exception("unexpected error in a worker")
    finally:
        logging.shutdown()
        os._exit(status)
