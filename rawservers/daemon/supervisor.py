"""One process that serves nothing and keeps the workers alive.

It binds the server sockets, opens the log, and forks: the workers inherit both, and all accept from the same sockets. What
happens then reaches it as signals, which its loop takes one after another, and as packets from its workers:

    SIGCHLD         a worker has ended: another takes its place, at once, or a little later if it did not live long
    SIGHUP          reload: a new generation of workers, by the configuration as it stands now, takes over from the old
    SIGUSR1         open the access log anew (which also happens when its file was renamed or removed)
    SIGTERM, SIGINT, SIGQUIT
                    stop in good order; a second one: stop

A reload is all or nothing. The configuration is read, sockets are bound and logs opened while the old workers serve; only when
every new one is ready are the old ones told to retire. Whatever fails before that is undone, and said. A further reload
begins when the workers that retire have ended, for which they are then pressed; so there never are more than twice as many
as configured, however often somebody asks.

A worker whose loop does not turn is ended by SIGABRT, which makes it say where it stands, or else by SIGKILL. A worker whose
supervisor has gone, however that came, learns so from their socket and ends, too.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from rawservers.core.errors import os_error_text
from rawservers.core.loop import Loop
from rawservers.daemon.children import SIGNALS, Child, fork
from rawservers.daemon.generation import Generation, prepare
from rawservers.daemon.orders import HURRY, REOPEN, RETIRE, STOP
from rawservers.daemon.scoreboard import Scoreboard
from rawservers.daemon.startup import CannotStart, all_of, announce, close_log, normalise
from rawservers.daemon.systemd import Notifier
from rawservers.logs import error as error_log
from rawservers.logs.access import open_target, rotated
from rawservers.settings import Config

log = logging.getLogger("rawservers")

BACK_OFF = 0.1, 5.0  # seconds from one fork to the next: the least, and the most, for workers that end before they serve
START_TIME = 30.0  # seconds for a new generation to become ready, and for the old one to hear that it has


class Supervisor:
    """configure: reads the configuration, at the start and at each reload; foreign: descriptors that were open before."""

    def __init__(self, configure: Callable[[], Config], foreign: Iterable[int] = ()) -> None:
        normalise()
        self._configure = configure
        self._foreign = set(foreign)
        self._notifier = Notifier()
        self._loop = Loop()
        self._scoreboard = Scoreboard(time.time())
        self._children: dict[int, Child] = {}
        self._current: Generation | None = None  # that serves
        self._coming: Generation | None = None  # that is to serve, as soon as all its workers are ready
        self._reload_wanted = False
        self._handing_over = False  # the old workers have been told to retire, and not all have said that they did
        self._stopping = 0.0  # when the order came
        self._ticked = 0.0
        self._status = 0
        self._delay = BACK_OFF[0]
        self._has_slowed_down = False  # since the last try
        self._forked = 0.0
        self._trouble = ""  # how the last worker that was not told to ended
        self._told = ""

    def run(self) -> int:
        """Serve until told to stop; the exit status. Raises CannotStart, and what `configure` does."""
        self._coming = prepare(self._configure(), self._current)
        for fd in self._foreign - {server.sock.fileno() for server in all_of(self._coming.servers)}:
            os.close(fd)  # they belong to whoever started us, and would live as long as we do
        if self._coming.who is None and os.geteuid() == 0:
            log.warning("running as root: with --user the workers become somebody else")
        for number, callback in zip(
            SIGNALS, (self.stop, self.stop, self.stop, self.reload, self.reopen, self._reap), strict=True
        ):
            self._loop.on_signal(number, callback)
        self._loop.at_tick += [self._tick, error_log.flush]
        gc.collect()
        gc.freeze()  # what is there by now stays; looking through it would make each worker copy its pages
        self._fork_missing()
        self._loop.run()
        self._scoreboard.close()
        return self._status

    # Generations

    def reload(self) -> None:
        """Take over the configuration as it stands now, as soon as that is possible."""
        self._reload_wanted = True
        self._go_on()

    def _go_on(self) -> None:
        """Do what has become possible."""
        if self._stopping:
            if not self._children:
                self._loop.stop()
        elif self._coming:
            fresh = self._workers(self._coming)
            if len(fresh) == self._coming.size and all(child.is_ready for child in fresh):
                self._hand_over(self._coming)
        elif self._handing_over:
            if all(child.has_retired for child in self._old()):
                self._handed_over()
        elif self._reload_wanted and not self._press_old():
            self._reload_wanted = False
            self._begin_reload()

    def _begin_reload(self) -> None:
        assert self._current
        self._delay = BACK_OFF[0]  # whatever has failed so far may be mended
        self._notifier.tell_reloading()
        self._note(begun=1)
        log.info("reloading")
        try:
            self._coming = prepare(self._configure(), self._current)
        except Exception as error:
            for line in getattr(error, "errors", (str(error),)):
                log.error("%s", line)
            if not isinstance(error, CannotStart) and not hasattr(error, "errors"):
                log.exception("the configuration cannot be read")
            return self._give_up("the configuration was not taken")
        self._fork_missing()

    def _give_up(self, why: str) -> None:
        """The old generation goes on."""
        log.error("not reloaded: %s; the old configuration goes on", why)
        coming, self._coming = self._coming, None
        if coming:
            for child in self._workers(coming):
                child.tell(HURRY)
            coming.drop(self._current)
        self._note(failed=1)
        self._say_ready()

    def _hand_over(self, coming: Generation) -> None:
        """Every new worker is ready: the old ones need accept no more."""
        old, self._current, self._coming = self._current, coming, None
        if old:
            old.drop(coming)
        for child in self._old():
            if not child.order:
                child.tell(RETIRE)
        self._handing_over = True
        self._go_on()

    def _handed_over(self) -> None:
        assert self._current
        self._handing_over = False
        announce(self._current.services, self._current.servers)
        history = self._scoreboard.history
        self._note(reloads=history.begun - history.reloads - history.failed)  # 1; at the start 0
        self._say_ready()
        self._go_on()

    def _note(self, **more: int) -> None:
        """For whoever looks on: so many more of these."""
        history = self._scoreboard.history
        self._scoreboard.history = replace(history, **{name: getattr(history, name) + number for name, number in more.items()})

    def _workers(self, generation: Generation) -> list[Child]:
        """Those of a generation that were not told to end."""
        return [child for child in self._children.values() if child.generation is generation and not child.order]

    def _old(self) -> list[Child]:
        return [child for child in self._children.values() if child.generation is not self._current]

    def _press_old(self) -> bool:
        """Whether workers of former generations are still there; if so, they are told not to take their time."""
        for child in self._old():
            if child.order == RETIRE:
                child.tell(STOP)
        return bool(self._old())

    # Workers

    def _fork_missing(self) -> None:
        """Have as many workers as there should be, if it is not too soon for new ones."""
        wait = self._forked + self._delay - time.monotonic()
        if self._stopping or wait > 0:
            return self._loop.tick_within(max(0.0, wait))
        self._has_slowed_down = False
        for generation in (self._current, self._coming):
            if generation:
                missing = generation.size - len(self._workers(generation))
                while missing > 0 and self._fork(generation):
                    missing -= 1
                if missing > 0 and generation is self._coming and self._current:
                    self._give_up("no more workers could be started")

    def _fork(self, generation: Generation) -> bool:
        """Whether there is one worker more."""
        self._forked = time.monotonic()
        row = self._scoreboard.take()
        row.begin(os.getpid(), self._forked)  # here, since afterwards it is the child that writes there
        try:
            child = fork(generation, self._scoreboard, row, self._loop, self._go_on, lambda: self._let_go(generation))
        except OSError as error:
            row.begin(0, 0.0)
            self._trouble = f"cannot start a worker: {os_error_text(error)}"
            log.error("%s", self._trouble)
            self._slow_down()
            return False
        self._children[child.pid] = child
        return True

    def _let_go(self, generation: Generation) -> None:
        """In the child: close what is the supervisor's, or another generation's; a port that it has given up must be free."""
        self._loop.close()
        for child in self._children.values():
            child.sock.close()
        ours = set(map(id, all_of(generation.servers)))
        for other in filter(None, (self._current, self._coming)):
            if other is not generation:
                close_log(other.access_log)
            for server in all_of(other.servers):
                if id(server) not in ours:
                    server.sock.close()

    def _reap(self) -> None:
        """Take note of every worker that has ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in self._children:
                    self._bury(self._children.pop(pid), os.waitstatus_to_exitcode(status))
        self._fork_missing()
        self._go_on()

    def _bury(self, child: Child, status: int) -> None:
        child.close()
        self._scoreboard.give_back(child.row)
        if child.order and status == 0:
            return
        how = f"status {status}" if status >= 0 else f"signal {-status} ({signal.strsignal(-status)})"
        self._trouble = f"worker {child.pid} ended with {how}" + ", perhaps out of memory" * (status == -signal.SIGKILL)
        log.error("%s", self._trouble)
        if child.is_ready:
            self._delay = BACK_OFF[0]
        else:
            self._slow_down()
            if child.generation is self._coming and not self._stopping:
                self._fail()

    def _fail(self) -> None:
        """A worker of a generation that does not serve yet has failed."""
        if self._current:
            return self._give_up("a worker did not come up")
        log.error("a worker did not come up: giving up")
        self._status = 1
        self.stop()

    def _slow_down(self) -> None:
        """Wait longer before the next try: twice as long, however many have failed in this one."""
        if not self._has_slowed_down:
            self._delay = min(2 * self._delay, BACK_OFF[1])
        self._has_slowed_down = True

    # The end

    def stop(self) -> None:
        """Come to an orderly end; when called again, to an end."""
        order = HURRY if self._stopping else STOP
        if not self._stopping:
            self._notifier.tell("STOPPING=1", "STATUS=Finishing what is under way")
            for generation in filter(None, (self._current, self._coming)):
                generation.drop(None)
        self._stopping = self._loop.clock.now
        for child in self._children.values():
            child.tell(order)
        self._go_on()

    # Once a second

    def _tick(self) -> None:
        now = self._loop.clock.now
        gap, self._ticked = now - self._ticked, now
        for child in self._children.values():
            child.look_at(now, gap)
        if self._stopping:
            for child in self._children.values():
                child.end_if_late(now - self._stopping)
        elif self._coming and self._current and time.monotonic() - self._coming.begun > START_TIME:
            self._give_up("the new workers are not ready in time")
        elif self._handing_over and self._current and time.monotonic() - self._current.begun > START_TIME:
            self._handed_over()  # an old one does not hear; should it come round, it will read its order
        self._fork_missing()
        self._notice_rotation()
        self._notify()

    def _notice_rotation(self) -> None:
        if self._current and not self._stopping and rotated(self._current.access_log, self._current.config.access_log):
            self.reopen()

    def reopen(self) -> None:
        """Open the access log anew, and hand it to every worker that writes to it."""
        if not self._current or self._stopping:
            return
        target = self._current.config.access_log
        try:
            fd = open_target(target)
        except OSError as error:
            return log.error("cannot open the access log %s anew: %s", target, os_error_text(error))
        for child in self._children.values():
            if fd >= 0 and child.generation.config.access_log == target:
                child.tell(REOPEN, [fd])
        for generation in filter(None, (self._current, self._coming)):
            if generation.config.access_log == target:
                close_log(generation.access_log)
                generation.access_log = os.dup(fd) if fd >= 0 else -1
        close_log(fd)

    # What the service manager is told

    def _say_ready(self) -> None:
        self._told = self._report()
        self._notifier.tell("READY=1", f"STATUS={self._told}", f"MAINPID={os.getpid()}")
        self._notify()

    def _notify(self) -> None:
        if self._notifier.patience:
            self._notifier.tell("WATCHDOG=1")
            self._loop.tick_within(self._notifier.patience / 2)
        report = self._report()
        if self._current and not self._stopping and report != self._told:
            self._told = report
            self._notifier.tell(f"STATUS={report}")

    def _report(self) -> str:
        if not self._current:
            return "Starting"
        serving = sum(child.is_ready for child in self._workers(self._current))
        workers = f"{serving} worker{'s' * (serving != 1)}"
        if serving < self._current.size:
            workers += f" of {self._current.size}: {self._trouble}"
        return f"Serving {self._current.summary} with {workers}"
