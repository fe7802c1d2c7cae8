"""The supervisor: binds the server sockets, opens the access log, forks the workers, and replaces those that exit.

The workers inherit the sockets and the log, and all accept from the same sockets; the supervisor serves nothing itself. What it
does next is decided in `transitions.py`. This file makes events of what it hears, and carries out the actions:

    SIGCHLD                   a worker has exited: another is forked, with a growing delay if workers exit before they are ready
    SIGHUP                    reload, all or nothing: new workers, with the present configuration, replace the old ones. Its
                              file is read by a timer, until two reads in a row find the same
    SIGUSR1                   reopen the access log (also done when its file was renamed or removed)
    SIGTERM, SIGINT, SIGQUIT  graceful stop, after `drain_announce`; a second signal stops at once
    a reply of a worker       it is ready, or no longer accepts, or has found no descriptor for the reopened log
    a tick, once a second     heartbeats, delays and deadlines are checked, and systemd's watchdog is served

A worker without a heartbeat is stuck. It gets SIGABRT, on which it dumps its stack, and then SIGKILL. A worker whose supervisor
has exited is killed by the kernel (see `lifeline.py`).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable

from rawservers.config.source import SETTLE_TIME, Reading, read_settled
from rawservers.core.errors import os_error_text
from rawservers.core.loop import Loop
from rawservers.daemon.child import Child, fork
from rawservers.daemon.lifeline import Lifeline
from rawservers.daemon.scoreboard import Scoreboard
from rawservers.daemon.startup import CannotStart, Resources
from rawservers.daemon.systemd import Notifier
from rawservers.daemon.transitions import (
    NO_GENERATION,
    Action,
    ActionKind,
    EventKind,
    Generation,
    ServerEvent,
    ServerState,
    transition,
)
from rawservers.daemon.worker import SIGNALS, run_worker
from rawservers.logs import error as error_log
from rawservers.logs.access import rotated
from rawservers.settings import Config, ConfigError

log = logging.getLogger("rawservers")


class Supervisor:
    """configure: makes the configuration, at the start and for each reload, of the content of the file, and that of the file
    of the running configuration, b"" if there is none; path: of the file, None: there is none; inherited_fds: descriptors that
    were open before the start, of which only server sockets are kept."""

    def __init__(
        self, configure: Callable[[bytes, bytes], Config], path: str | None, inherited_fds: Iterable[int] = ()
    ) -> None:
        self._configure = configure
        self._path = path
        self._inherited_fds = set(inherited_fds)
        self._notifier = Notifier()
        self._loop = Loop()
        self._lifeline = Lifeline()
        self._scoreboard = Scoreboard()
        self._state = ServerState()  # replaced by each event
        self._children: dict[int, Child] = {}  # by process id
        self._resources: dict[Generation | None, Resources] = {}  # of open generations
        self._last_tick = 0.0
        self._last_failure = ""  # of a worker, for the status text
        self._log_error = error_log.RepeatedError()
        self._sent_status = ""
        self._is_stop_announced = False

    def run(self) -> int:
        """Serve until a signal to stop; returns the exit status. Raises CannotStart, and whatever `configure` raises."""
        first = self._prepare(read_settled(self._path) if self._path is not None else b"")
        self._state, resources = ServerState(next=first), self._resources[first]
        for fd in self._inherited_fds - {server.sock.fileno() for server in resources.servers}:
            os.close(fd)  # else it stays open for as long as this process runs
        if resources.credentials is None and os.geteuid() == 0:
            log.warning("workers run as root; set --user to drop privileges")
        for number in SIGNALS:
            self._loop.on_signal(number, getattr(self, f"handle_{number.name.removeprefix('SIG').lower()}"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._loop.at_tick += [self._tick, error_log.flush]
        gc.collect()
        gc.freeze()  # a collection writes to each object, and would unshare the memory pages of all workers
        self._handle(EventKind.TICK)
        self._loop.run()
        self._scoreboard.close()
        return self._state.exit_status or 0

    # Events

    def _handle(self, kind: EventKind, pid: int = 0, generation: Generation = NO_GENERATION) -> None:
        """Carry out the actions that follow from this event, and from their results."""
        event: ServerEvent | None = ServerEvent(kind, time.monotonic(), pid, generation)
        while event:
            self._state, actions = transition(self._state, event)
            event = None
            for action in actions:  # one that fails keeps none of the others back
                try:
                    event = self._carry_out(action)
                except Exception:
                    log.exception("unexpected error in %s", action.kind.name)
        if (wait := self._state.fork_at - time.monotonic()) > 0:
            self._loop.tick_within(wait)

    def handle_hup(self) -> None:
        if self._state.exit_status is None and not self._is_stop_announced:
            return self._handle(EventKind.RELOAD)
        self._fail_reload("the server is shutting down")

    def handle_term(self) -> None:
        """Announce a stop, or begin it. When called again, stop at once."""
        current = self._current()
        if not self._is_stop_announced and current and current.config.drain_announce:
            return self._announce_stop(current.config.drain_announce)
        if self._is_stop_announced:
            self._begin_stop()
        self._handle(EventKind.STOP)

    def _announce_stop(self, seconds: float) -> None:
        """Begin the stop in so many seconds. Until then health checks fail."""
        self._is_stop_announced = True
        self._scoreboard.announce_stop()
        self._loop.call_at(self._loop.clock.now + seconds, self._loop, self._begin_stop)
        log.info("stop in %g seconds announced to health checks", seconds)
        self._notifier.send("STOPPING=1", f"STATUS=Shutting down in {seconds:g} seconds")

    def _begin_stop(self) -> None:
        if self._state.exit_status is None:
            self._handle(EventKind.STOP)

    handle_int = handle_quit = handle_term

    def handle_chld(self) -> None:
        """Collect the exit status of all workers that have exited."""
        with contextlib.suppress(ChildProcessError):
            while (result := os.waitpid(-1, os.WNOHANG))[0]:
                if child := self._children.get(result[0]):
                    child.read_rest()  # before its exit: it may have been killed just after it became ready
                    status = os.waitstatus_to_exitcode(result[1])
                    self._log_exit(child.pid, status)
                    child.close()
                    del self._children[child.pid]
                    self._scoreboard.release(child.slot, child.pid)
                    self._handle(EventKind.KILLED if status == -signal.SIGKILL else EventKind.EXITED, child.pid)

    def _log_exit(self, pid: int, status: int) -> None:
        """Log the exit of a worker, unless it was told to exit, and did. status: negative for a signal."""
        if status or self._state.workers[pid].is_active:
            how = f"exited with status {status}" if status >= 0 else f"killed by signal {-status} ({signal.strsignal(-status)})"
            self._last_failure = f"worker {pid} {how}" + ", perhaps out of memory" * (status == -signal.SIGKILL)
            log.error("%s", self._last_failure)

    def handle_usr1(self) -> None:
        """Reopen the access log."""
        self._log_error.clear()
        if (current := self._current()) and current.access_log >= 0:
            self._reopen_log(current)

    def _reopen_log(self, current: Resources) -> None:
        """Reopen the access log, and send the new descriptor to all workers that write to it."""
        target = current.config.access_log
        try:
            fd = current.open_log()
        except OSError as error:
            return self._log_error.log(f"cannot reopen the access log {target}: {os_error_text(error)}")
        self._log_error.clear()
        for child in self._children.values():
            child.send_log(target, fd)
        for resources in self._resources.values():
            if resources.config.access_log == target:
                os.dup2(fd, resources.access_log, inheritable=False)
        os.close(fd)

    def _tick(self) -> None:
        now = self._loop.clock.now
        gap, self._last_tick = now - self._last_tick, now
        for child in list(self._children.values()):
            if child.is_stuck(time.monotonic(), gap):
                self._handle(EventKind.STUCK, child.pid)
            child.retry()
        self._handle(EventKind.TICK)
        if current := self._current():
            if rotated(current.access_log, current.config.access_log):
                self._reopen_log(current)
            for child in self._children.values():
                if child.needs_log:
                    child.send_log(current.config.access_log, current.access_log)
        self._scoreboard.publish()
        self._notify()

    # Actions

    def _carry_out(self, action: Action) -> ServerEvent | None:
        """Returns the event that is the result of the action, if it has one."""
        match action.kind:
            case ActionKind.PREPARE:
                self._begin_reload()
            case ActionKind.FORK:
                return self._fork(action.generation)
            case ActionKind.CLOSE:
                self._resources.pop(action.generation).close(self._resources.values())
            case ActionKind.COMMAND:
                self._children[action.pid].send_command(action.phase.name.encode())
            case ActionKind.ABORT:
                silence = time.monotonic() - self._children[action.pid].heard_at
                log.error("worker %d stuck for %.0f seconds without a heartbeat: dumping its stack", action.pid, silence)
                os.kill(action.pid, signal.SIGABRT)
            case ActionKind.KILL:
                os.kill(action.pid, signal.SIGKILL)
            case ActionKind.FAIL if not self._state.current:
                log.error("%s: exiting", action.reason)
            case ActionKind.FAIL:
                self._fail_reload(f"{action.reason}; keeping the old configuration")
                self._notify("READY=1")
            case ActionKind.COMPLETE:
                self._resources[action.generation].log_addresses()
                if action.generation.number:
                    self._scoreboard.count("reloads")
                self._notify("READY=1")
            case ActionKind.STOP:
                counters = self._scoreboard.server.counters
                if counters["server.reloads_begun"] > counters["server.reloads"] + counters["server.reloads_failed"]:
                    self._fail_reload("the server is shutting down")
                self._scoreboard.announce_stop()
                self._notifier.send("STOPPING=1", "STATUS=Shutting down, finishing open requests")
            case ActionKind.EXIT:
                self._loop.stop()
        return None

    def _fail_reload(self, reason: str) -> None:
        """Log why, and count it, for whoever waits for the result."""
        log.error("reload failed: %s", reason)
        self._scoreboard.count("reloads_failed")

    def _prepare(self, content: bytes) -> Generation:
        """A new generation. content: of the configuration file. Raises CannotStart, and whatever `configure` raises."""
        current = self._current()
        config = self._configure(content, current.source if current else b"")
        number, size = self._scoreboard.server.counters["server.reloads_begun"], config.workers or len(os.sched_getaffinity(0))
        generation = Generation(number, size, config.drain_time)
        resources = self._resources[generation] = Resources.prepare(config, current.servers if current else {})
        resources.source = content
        return generation

    def _begin_reload(self) -> None:
        """Read the configuration file, with as many attempts as it takes, each in a turn of its own."""
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._scoreboard.count("reloads_begun")
        log.info("reloading")
        reading = Reading(self._path) if self._path is not None else None
        self._loop.call_at(self._loop.clock.now, self._loop, lambda: self._go_on_reading(reading))

    def _go_on_reading(self, reading: Reading | None) -> None:
        """Make an attempt to read the file. If that succeeds, or fails for good, the preparation has its result."""
        if self._state.exit_status is not None:
            return
        kind, generation, now = EventKind.REJECTED, NO_GENERATION, time.monotonic()
        try:
            content = reading.attempt(now) if reading else b""
            if content is None:
                self._loop.call_at(now + SETTLE_TIME, self._loop, lambda: self._go_on_reading(reading))
                return
            kind, generation = EventKind.PREPARED, self._prepare(content)
        except Exception as error:  # unexpected ones with a traceback
            for line in getattr(error, "errors", (str(error),)):
                log.error("%s", line, exc_info=not isinstance(error, CannotStart | ConfigError))
        self._handle(kind, generation=generation)

    def _fork(self, generation: Generation) -> ServerEvent:
        """Fork a worker. A failure is logged."""
        resources = self._resources[generation]
        slot, pid = None, -1
        try:
            slot = self._scoreboard.allocate()  # after the fork only the worker writes to it
            pid, sock = fork()
            if pid:
                self._children[pid] = Child(pid, resources, slot, sock, self._loop, self._handle)
        except OSError as error:
            if pid > 0:  # the loop has no room for its socket
                os.kill(pid, signal.SIGKILL)
                sock.close()
            if slot:
                self._scoreboard.release(slot, 0)
            self._last_failure = f"cannot start a worker: {os_error_text(error)}"
            log.error("%s", self._last_failure)
            return ServerEvent(EventKind.FORK_FAILED, time.monotonic(), 0, generation)
        if pid == 0:
            run_worker(resources, self._scoreboard, slot, sock, lambda: self._close_inherited(resources))
        return ServerEvent(EventKind.FORKED, time.monotonic(), pid, generation)

    def _close_inherited(self, own: Resources) -> None:
        """In a new worker: close descriptors of the supervisor and of other generations, whose ports it would keep bound."""
        self._lifeline.hold()
        self._loop.close()
        for child in self._children.values():
            child.sock.close()
        for other in self._resources.values():
            if other is not own:
                other.close([own], in_worker=True)

    def _current(self) -> Resources | None:
        """Those of the current generation; None before there is one, and during a stop."""
        return self._resources.get(self._state.current)

    def _notify(self, *lines: str) -> None:
        """Send these lines to the service manager, with the status if it has changed or there are any, and with WATCHDOG=1.

        The status says what is served where, and by how many workers.
        """
        generation, current = self._state.current, self._current()
        if self._notifier.unsent:
            lines += ("READY=1",)
        if generation and current:
            addresses = ", ".join(f"{listen.name} on {server.address}" for server, listen in current.servers.items())
            ready = self._state.ready(generation)
            missing = f" of {generation.size}: {self._last_failure}" if ready < generation.size else ""
            status = f"STATUS=Serving {addresses} with {ready} worker{'s' * (ready != 1)}{missing}"
            if lines or status != self._sent_status:
                self._sent_status = status
                lines += (status, f"MAINPID={os.getpid()}")
        if self._notifier.watchdog_time:
            lines += ("WATCHDOG=1",)
            self._loop.tick_within(self._notifier.watchdog_time / 2)
        if lines:
            self._notifier.send(*lines)
