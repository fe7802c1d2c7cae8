"""A worker process, as its supervisor sees it: forking, orders, and the watch over its heartbeat."""

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
from rawservers.daemon.orders import READY, REOPEN, RETIRED, STOP, WORDS, Orders
from rawservers.daemon.privileges import become
from rawservers.daemon.scoreboard import Row, Scoreboard
from rawservers.daemon.startup import CannotStart
from rawservers.daemon.worker import GarbageCollector, Worker
from rawservers.logs import error as error_log

log = logging.getLogger("rawservers")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
LAST_WORDS = 2.0  # seconds between SIGABRT and SIGKILL, for the dump, and beyond the time to drain


class Child:
    """A worker, as its supervisor sees it: the event handler of its socket."""

    service = ""

    def __init__(
        self, pid: int, generation: Generation, row: Row, sock: socket.socket, loop: Loop, go_on: Callable[[], None]
    ) -> None:
        self.pid = pid
        self.generation = generation
        self.row = row
        self.sock = sock
        self.is_ready = False  # it serves
        self.has_retired = False  # it accepts nothing any more
        self.order = b""  # the last one it was given
        self.aborted = False
        self.excused = 0.0  # until when its silence does not count
        self._loop = loop
        self._go_on = go_on
        loop.watch(sock.fileno(), self, WORDS)

    def ready(self, events: int) -> None:
        try:
            word = self.sock.recv(16, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return
        self.is_ready |= word == READY
        self.has_retired |= word == RETIRED
        if not word:  # it has ended, and is about to be reaped
            self._loop.watch(self.sock.fileno(), self, 0)
        self._go_on()

    def close(self) -> None:
        self._loop.watch(self.sock.fileno(), self, 0)
        self.sock.close()

    def failed(self) -> None:
        pass  # what it tells next is another matter

    def tell(self, order: bytes, fds: Iterable[int] = ()) -> None:
        """Give an order; a worker that has ended, or hears nothing, is seen to in other ways."""
        if order != REOPEN:
            self.order = order
        with contextlib.suppress(OSError):
            socket.send_fds(self.sock, [order], list(fds), socket.MSG_DONTWAIT)

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def look_at(self, now: float, gap: float) -> None:
        """See whether this worker is alive. gap: seconds since the last look."""
        limit = self.generation.config.stuck_time
        if gap > max(limit / 2, 1.5 * TICK):
            self.excused = now  # we were asleep, and it may have been as well: a terminal's ^Z stops all of us
        silence = now - max(self.row.alive[1] + TICK, self.excused)  # since it was to write again
        if not 0 < limit < silence:
            return
        if not self.aborted:
            self.aborted = True
            log.error("worker %d has been stuck for %.0f seconds: this is where it stands, and its end", self.pid, silence)
            self.kill(signal.SIGABRT)
        elif silence > limit + LAST_WORDS:
            self.kill(signal.SIGKILL)

    def end_if_late(self, elapsed: float) -> None:
        """Kill it if it has had time enough. elapsed: seconds since the order to stop."""
        limit = self.generation.config.drain_time if self.order == STOP else 0.001
        if limit > 0 and elapsed > limit + LAST_WORDS:
            self.kill(signal.SIGKILL)


def fork(
    generation: Generation,
    scoreboard: Scoreboard,
    row: Row,
    loop: Loop,
    go_on: Callable[[], None],
    let_go: Callable[[], None],
) -> Child:
    """A new worker. let_go: called in the child, to close what is the supervisor's. OSError if there can be none."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the child must not write into the wake-up pipe it shares with us
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.close()  # or this process would keep the other end open, and never hear that its supervisor has gone
            be_worker(generation, scoreboard, row, theirs, let_go)
        theirs.close()
        return Child(pid, generation, row, ours, loop, go_on)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def be_worker(
    generation: Generation, scoreboard: Scoreboard, row: Row, sock: socket.socket, let_go: Callable[[], None]
) -> NoReturn:
    """In the child: let go of what is the supervisor's, become who one is to be, and serve."""
    status = 1
    try:
        let_go()
        for number in SIGNALS:  # a terminal sends some of them to all of its processes; the supervisor says what they mean
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        faulthandler.enable(2)
        become(generation.who)
        serving = Worker(generation.config, generation.servers, generation.access_log, scoreboard, row)
        serving.loop.on_signal(signal.SIGTERM, serving.finish)  # the supervisor may have had the same one
        serving.loop.watch(sock.fileno(), Orders(serving, sock), WORDS)
        serving.loop.at_tick += [error_log.flush, GarbageCollector(serving.loop.clock)]
        serving.run(lambda: sock.send(READY))
        status = 0
    except CannotStart as error:
        log.error("%s", error)
    except BaseException:
        log.exception("the worker has failed")
    finally:
        logging.shutdown()
        os._exit(status)
