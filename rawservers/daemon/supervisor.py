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
import faulthandler
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, TypeAlias

from rawservers.core.connection import ServiceSpec
from rawservers.core.loop import TICK, Loop
from rawservers.daemon import worker
from rawservers.daemon.scoreboard import Row, Scoreboard, history_of
from rawservers.daemon.systemd import Notifier
from rawservers.daemon.worker import CannotStart, GarbageCollector, Orders, Servers, Worker, reason
from rawservers.logs import error as error_log
from rawservers.logs.access import open_target, rotated
from rawservers.settings import Config

log = logging.getLogger("rawservers")

Identity: TypeAlias = "tuple[int, int, list[int]]"  # user, group, and further groups

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
BACK_OFF = 0.1, 5.0  # seconds from one fork to the next: the least, and the most, for workers that end before they serve
LAST_WORDS = 2.0  # seconds between SIGABRT and SIGKILL, for the dump, and beyond the time to drain
START_TIME = 30.0  # seconds for a new generation to become ready, and for the old one to hear that it has


@dataclass(slots=True)
class Generation:
    """What one reading of the configuration has brought: the same for all workers forked for it."""

    config: Config
    services: dict[str, ServiceSpec]
    servers: Servers
    access_log: int
    who: Identity | None
    begun: float

    @property
    def size(self) -> int:
        """How many workers it is to have."""
        return self.config.workers or len(os.sched_getaffinity(0))

    @property
    def summary(self) -> str:
        """What it serves, in a few words."""
        places = (f"{listen.service} on {server.address}" for listen, group in self.servers.items() for server in group)
        return ", ".join(places)


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
        loop.watch(sock.fileno(), self, worker.WORDS)

    def ready(self, events: int) -> None:
        try:
            word = self.sock.recv(16, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return
        self.is_ready |= word == worker.READY
        self.has_retired |= word == worker.RETIRED
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
        if order != worker.REOPEN:
            self.order = order
        with contextlib.suppress(OSError):
            socket.send_fds(self.sock, [order], list(fds), socket.MSG_DONTWAIT)

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


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
        self._coming = self._prepare(self._configure())
        for fd in self._foreign - {server.sock.fileno() for server in worker.all_of(self._coming.servers)}:
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

    def _prepare(self, config: Config) -> Generation:
        """All that a new generation needs; CannotStart leaves nothing behind."""
        services = worker.rehearse(config)
        who = identity(config.user)
        access_log = worker.open_log(config)
        try:
            servers = worker.bind_all(config, self._current.servers if self._current else {})
        except CannotStart:
            worker.close_log(access_log)
            raise
        worker.raise_descriptor_limit(config)
        return Generation(config, services, servers, access_log, who, time.monotonic())

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
            self._coming = self._prepare(self._configure())
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
                child.tell(worker.HURRY)
            self._drop(coming, self._current)
        self._note(failed=1)
        self._say_ready()

    def _hand_over(self, coming: Generation) -> None:
        """Every new worker is ready: the old ones need accept no more."""
        old, self._current, self._coming = self._current, coming, None
        if old:
            self._drop(old, coming)
        for child in self._old():
            if not child.order:
                child.tell(worker.RETIRE)
        self._handing_over = True
        self._go_on()

    def _handed_over(self) -> None:
        assert self._current
        self._handing_over = False
        worker.announce(self._current.services, self._current.servers)
        history = self._scoreboard.history
        self._note(reloads=history.begun - history.reloads - history.failed)  # 1; at the start 0
        self._say_ready()
        self._go_on()

    def _note(self, **more: int) -> None:
        """For whoever looks on: so many more of these."""
        history = self._scoreboard.history
        self._scoreboard.history = replace(history, **{name: getattr(history, name) + number for name, number in more.items()})

    def _drop(self, generation: Generation, heir: Generation | None) -> None:
        """Close what `generation` has and `heir` does not."""
        worker.close_log(generation.access_log)
        for listen, group in generation.servers.items():
            if heir is None or listen not in heir.servers:
                for server in group:
                    server.close()

    def _workers(self, generation: Generation) -> list[Child]:
        """Those of a generation that were not told to end."""
        return [child for child in self._children.values() if child.generation is generation and not child.order]

    def _old(self) -> list[Child]:
        return [child for child in self._children.values() if child.generation is not self._current]

    def _press_old(self) -> bool:
        """Whether workers of former generations are still there; if so, they are told not to take their time."""
        for child in self._old():
            if child.order == worker.RETIRE:
                child.tell(worker.STOP)
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
        pair: Sequence[socket.socket] = ()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the child must not write into the wake-up pipe it shares with us
        try:
            ours, theirs = pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
        except OSError as error:
            for sock in pair:
                sock.close()
            row.begin(0, 0.0)
            self._trouble = f"cannot start a worker: {reason(error)}"
            log.error("%s", self._trouble)
            self._slow_down()
            return False
        else:
            if pid == 0:
                ours.close()  # or this process would keep the other end open, and never hear that its supervisor has gone
                self._be_worker(generation, row, theirs)
            theirs.close()
            self._children[pid] = Child(pid, generation, row, ours, self._loop, self._go_on)
            return True
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _be_worker(self, generation: Generation, row: Row, sock: socket.socket) -> NoReturn:
        """In the child: let go of what is the supervisor's, become who one is to be, and serve."""
        status = 1
        try:
            self._let_go(generation)
            for number in SIGNALS:  # a terminal sends some of them to all of its processes; the supervisor says what they mean
                signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            faulthandler.enable(2)
            become(generation.who)
            serving = Worker(generation.config, generation.servers, generation.access_log, self._scoreboard, row)
            serving.loop.on_signal(signal.SIGTERM, serving.finish)  # the supervisor may have had the same one
            serving.loop.watch(sock.fileno(), Orders(serving, sock), worker.WORDS)
            serving.loop.at_tick += [error_log.flush, GarbageCollector(serving.loop.clock)]
            serving.run(lambda: sock.send(worker.READY))
            status = 0
        except CannotStart as error:
            log.error("%s", error)
        except BaseException:
            log.exception("the worker has failed")
        finally:
            logging.shutdown()
            os._exit(status)

    def _let_go(self, generation: Generation) -> None:
        """In the child: close what is the supervisor's, or another generation's; a port that it has given up must be free."""
        self._loop.close()
        for child in self._children.values():
            child.sock.close()
        ours = set(map(id, worker.all_of(generation.servers)))
        for other in filter(None, (self._current, self._coming)):
            if other is not generation:
                worker.close_log(other.access_log)
            for server in worker.all_of(other.servers):
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
        order = worker.HURRY if self._stopping else worker.STOP
        if not self._stopping:
            self._notifier.tell("STOPPING=1", "STATUS=Finishing what is under way")
            for generation in filter(None, (self._current, self._coming)):
                self._drop(generation, None)
        self._stopping = self._loop.clock.now
        for child in self._children.values():
            child.tell(order)
        self._go_on()

    def _end_late_ones(self) -> None:
        """Kill who has had time enough."""
        for child in self._children.values():
            limit = child.generation.config.drain_time if child.order == worker.STOP else 0.001
            if limit > 0 and self._loop.clock.now - self._stopping > limit + LAST_WORDS:
                child.kill(signal.SIGKILL)

    # Once a second

    def _tick(self) -> None:
        now = self._loop.clock.now
        gap, self._ticked = now - self._ticked, now
        for child in self._children.values():
            self._look_at(child, gap)
        if self._stopping:
            self._end_late_ones()
        elif self._coming and self._current and time.monotonic() - self._coming.begun > START_TIME:
            self._give_up("the new workers are not ready in time")
        elif self._handing_over and self._current and time.monotonic() - self._current.begun > START_TIME:
            self._handed_over()  # an old one does not hear; should it come round, it will read its order
        self._fork_missing()
        self._notice_rotation()
        self._notify()

    def _look_at(self, child: Child, gap: float) -> None:
        """See whether this worker is alive. gap: seconds since the last look."""
        now = self._loop.clock.now
        limit = child.generation.config.stuck_time
        if gap > max(limit / 2, 1.5 * TICK):
            child.excused = now  # we were asleep, and it may have been as well: a terminal's ^Z stops all of us
        silence = now - max(child.row.alive[1] + TICK, child.excused)  # since it was to write again
        if not 0 < limit < silence:
            return
        if not child.aborted:
            child.aborted = True
            log.error("worker %d has been stuck for %.0f seconds: this is where it stands, and its end", child.pid, silence)
            child.kill(signal.SIGABRT)
        elif silence > limit + LAST_WORDS:
            child.kill(signal.SIGKILL)

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
            return log.error("cannot open the access log %s anew: %s", target, reason(error))
        for child in self._children.values():
            if fd >= 0 and child.generation.config.access_log == target:
                child.tell(worker.REOPEN, [fd])
        for generation in filter(None, (self._current, self._coming)):
            if generation.config.access_log == target:
                worker.close_log(generation.access_log)
                generation.access_log = os.dup(fd) if fd >= 0 else -1
        worker.close_log(fd)

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


def reload(pid: int, patience: float = 90) -> None:
    """Have the supervisor with this process id reload, and wait until it has. CannotStart if it has not, as its log says."""
    try:
        os.kill(pid, 0)
        before = history_of(pid)
        os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + patience
        while (now := history_of(pid)).reloads + now.failed <= before.begun:
            if time.monotonic() > deadline:
                raise CannotStart(f"process {pid} has not reloaded within {patience} seconds")
            time.sleep(0.02)
    except OSError as error:
        raise CannotStart(f"cannot have process {pid} reload: {reason(error)}") from error
    if now.failed > before.failed:
        raise CannotStart(f"process {pid} has not taken the new configuration; its log says why")


def descriptors() -> list[int]:
    """What is open in this process, but for its standard input, output and error."""
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]


def normalise() -> None:
    """Whatever the surroundings were that this process began in, have them as it expects them."""
    for fd in range(3):  # closed, it would be the number of the next socket, which would take what is printed
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(os.umask(0o022) | 0o022)  # neither sockets nor logs are for everybody to write to


def identity(user: str) -> Identity | None:
    """Who NAME or NAME:GROUP is; None for "". Raises CannotStart."""
    if not user:
        return None
    import grp
    import pwd

    name, _, group = user.partition(":")
    try:
        entry = pwd.getpwnam(name)
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError as error:
        raise CannotStart(f"cannot become {user}: {error.args[0]}") from error
    if os.geteuid() not in {0, entry.pw_uid}:
        raise CannotStart(f"cannot become {user}: only root can become somebody else")
    return entry.pw_uid, gid, [gid] if group else os.getgrouplist(name, gid)


def become(who: Identity | None) -> None:
    """Give up root's rights for good."""
    if who is None or os.geteuid() != 0:
        return
    uid, gid, groups = who
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
