"""The supervisor: binds the server sockets, opens the access log, forks the workers, and replaces those that exit.

The workers inherit the sockets and the log, and all accept from the same sockets; the supervisor serves nothing itself. Its
event loop handles signals, the workers' replies, and a tick once a second:

    SIGCHLD                   a worker has exited: fork another, with a growing delay if workers exit before they are ready
    SIGHUP                    reload: a new generation of workers, with the present configuration, replaces the old one
    SIGUSR1                   reopen the access log (also done when its file was renamed or removed)
    SIGTERM, SIGINT, SIGQUIT  graceful stop; a second signal stops at once

A reload is all or nothing. The configuration is read, sockets are bound, the log is opened and new workers are forked while the
old ones serve; the old ones retire only when every new one is ready. Any earlier failure is logged, and the reload is undone. A
further reload waits until all retiring workers have exited, and hastens them; so there are never more than twice as many
workers as configured.

A worker without a heartbeat is stuck. It gets SIGABRT, on which it dumps its stack, and then SIGKILL. A worker whose supervisor
has exited reads the end of file from their socket, and exits as well.
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
from rawservers.daemon.children import SIGNALS, Child, fork_worker
from rawservers.daemon.generation import Generation, prepare
from rawservers.daemon.orders import REOPEN, RETIRE, STOP, STOP_NOW
from rawservers.daemon.scoreboard import Scoreboard
from rawservers.daemon.startup import CannotStart, all_servers, close_access_log, log_addresses, sanitize_process_state
from rawservers.daemon.systemd import Notifier
from rawservers.logs import error as error_log
from rawservers.logs.access import open_target, rotated
from rawservers.settings import Config

log = logging.getLogger("rawservers")

RESPAWN_DELAY = 0.1, 5.0  # seconds between two forks, lowest and highest; doubled while workers exit before they are ready
START_TIME = 30.0  # seconds for the workers of a new generation to become ready, and for the old ones to stop accepting


class Supervisor:
    """configure: reads the configuration, at the start and for each reload; inherited_fds: descriptors that were open before
    the start, of which only server sockets are kept."""

    def __init__(self, configure: Callable[[], Config], inherited_fds: Iterable[int] = ()) -> None:
        sanitize_process_state()
        self._configure = configure
        self._inherited_fds = set(inherited_fds)
        self._notifier = Notifier()
        self._loop = Loop()
        self._scoreboard = Scoreboard(time.time())
        self._children: dict[int, Child] = {}  # by process id
        self._current: Generation | None = None  # the one that serves
        self._next: Generation | None = None  # the one that is to serve once all its workers are ready
        self._reload_requested = False
        self._in_handover = False  # RETIRE was sent to the old workers, and not all have replied
        self._stopped_at = 0.0  # when the last signal to stop came, 0.0 for none
        self._last_tick = 0.0
        self._exit_status = 0
        self._respawn_delay = RESPAWN_DELAY[0]
        self._has_backed_off = False  # since the last attempt to fork
        self._forked_at = 0.0
        self._last_failure = ""  # of a worker, for the status text
        self._sent_status = ""

    def run(self) -> int:
        """Serve until a signal to stop; returns the exit status. Raises CannotStart, and whatever `configure` raises."""
        self._next = prepare(self._configure(), self._current)
        for fd in self._inherited_fds - {server.sock.fileno() for server in all_servers(self._next.servers)}:
            os.close(fd)  # else it stays open for as long as this process runs
        if self._next.credentials is None and os.geteuid() == 0:
            log.warning("workers run as root; set --user to drop privileges")
        for number, callback in zip(
            SIGNALS, (self.stop, self.stop, self.stop, self.reload, self.reopen, self._reap), strict=True
        ):
            self._loop.on_signal(number, callback)
        self._loop.at_tick += [self._tick, error_log.flush]
        gc.collect()
        gc.freeze()  # a collection writes to each object, and would unshare the memory pages of all workers
        self._fork_missing()
        self._loop.run()
        self._scoreboard.close()
        return self._exit_status

    # Generations

    def reload(self) -> None:
        """Reload the configuration as soon as possible."""
        self._reload_requested = True
        self._advance()

    def _advance(self) -> None:
        """Take the next step of a stop or reload, if its condition is met. Called after each event."""
        if self._stopped_at:
            if not self._children:
                self._loop.stop()
        elif self._next:
            workers = self._active_children(self._next)
            if len(workers) == self._next.size and all(child.is_ready for child in workers):
                self._begin_handover(self._next)
        elif self._in_handover:
            if all(child.has_retired for child in self._old_children()):
                self._end_handover()
        elif self._reload_requested and not self._hasten_old():
            self._reload_requested = False
            self._begin_reload()

    def _begin_reload(self) -> None:
        assert self._current
        self._respawn_delay = RESPAWN_DELAY[0]  # the new configuration may have removed the cause of earlier failures
        self._notifier.send_reloading()
        self._count_reloads(reloads_begun=1)
        log.info("reloading")
        try:
            self._next = prepare(self._configure(), self._current)
        except Exception as error:
            for line in getattr(error, "errors", (str(error),)):
                log.error("%s", line)
            if not isinstance(error, CannotStart) and not hasattr(error, "errors"):
                log.exception("unexpected error while reading the configuration")
            return self._abort_reload("invalid configuration")
        self._fork_missing()

    def _abort_reload(self, reason: str) -> None:
        """Discard the new generation; the old one keeps serving."""
        log.error("reload failed: %s; keeping the old configuration", reason)
        aborted, self._next = self._next, None
        if aborted:
            for child in self._active_children(aborted):
                child.send_command(STOP_NOW)
            aborted.close(self._current)
        self._count_reloads(reloads_failed=1)
        self._notify_ready()

    def _begin_handover(self, generation: Generation) -> None:
        """All workers of the new generation are ready: retire the old ones."""
        old, self._current, self._next = self._current, generation, None
        if old:
            old.close(generation)
        for child in self._old_children():
            if not child.command:
                child.send_command(RETIRE)
        self._in_handover = True
        self._advance()

    def _end_handover(self) -> None:
        """Only the new generation accepts now: the start or reload is complete."""
        assert self._current
        self._in_handover = False
        log_addresses(self._current.config, self._current.servers)
        info = self._scoreboard.server_info
        self._count_reloads(reloads=info.reloads_begun - info.reloads - info.reloads_failed)  # 1, or 0 after the start
        self._notify_ready()
        self._advance()

    def _count_reloads(self, **increments: int) -> None:
        """Increment the reload counters in shared memory."""
        info = self._scoreboard.server_info
        self._scoreboard.server_info = replace(info, **{name: getattr(info, name) + by for name, by in increments.items()})

    def _active_children(self, generation: Generation) -> list[Child]:
        """The workers of a generation that have no command to exit."""
        return [child for child in self._children.values() if child.generation is generation and not child.command]

    def _old_children(self) -> list[Child]:
        """The workers of all former generations."""
        return [child for child in self._children.values() if child.generation is not self._current]

    def _hasten_old(self) -> bool:
        """Send STOP to retiring workers. Whether any old workers are left."""
        for child in self._old_children():
            if child.command == RETIRE:
                child.send_command(STOP)
        return bool(self._old_children())

    # Workers

    def _fork_missing(self) -> None:
        """Fork until each generation has its number of workers, unless the delay since the last fork has not passed."""
        wait = self._forked_at + self._respawn_delay - time.monotonic()
        if self._stopped_at or wait > 0:
            return self._loop.tick_within(max(0.0, wait))
        self._has_backed_off = False
        for generation in (self._current, self._next):
            if generation:
                missing = generation.size - len(self._active_children(generation))
                while missing > 0 and self._fork(generation):
                    missing -= 1
                if missing > 0 and generation is self._next and self._current:
                    self._abort_reload("cannot start all workers")

    def _fork(self, generation: Generation) -> bool:
        """Fork a worker. False if that has failed, which is logged."""
        self._forked_at = time.monotonic()
        slot = self._scoreboard.allocate()
        slot.assign(os.getpid(), self._forked_at)  # before the fork: afterwards only the worker writes to it
        try:
            child = fork_worker(
                generation, self._scoreboard, slot, self._loop, self._advance, lambda: self._close_inherited(generation)
            )
        except OSError as error:
            slot.assign(0, 0.0)
            self._last_failure = f"cannot start a worker: {os_error_text(error)}"
            log.error("%s", self._last_failure)
            self._back_off()
            return False
        self._children[child.pid] = child
        return True

    def _close_inherited(self, generation: Generation) -> None:
        """In a new worker: close descriptors of the supervisor and of other generations, whose ports it would keep bound."""
        self._loop.close()
        for child in self._children.values():
            child.sock.close()
        own = set(map(id, all_servers(generation.servers)))
        for other in filter(None, (self._current, self._next)):
            if other is not generation:
                close_access_log(other.access_log)
            for server in all_servers(other.servers):
                if id(server) not in own:
                    server.sock.close()

    def _reap(self) -> None:
        """Collect the exit status of all workers that have exited, and replace them."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in self._children:
                    self._on_exit(self._children.pop(pid), os.waitstatus_to_exitcode(status))
        self._fork_missing()
        self._advance()

    def _on_exit(self, child: Child, status: int) -> None:
        """A worker has exited. status: negative for a signal."""
        child.close()
        self._scoreboard.release(child.slot)
        if child.command and status == 0:
            return
        how = f"exited with status {status}" if status >= 0 else f"killed by signal {-status} ({signal.strsignal(-status)})"
        self._last_failure = f"worker {child.pid} {how}" + ", perhaps out of memory" * (status == -signal.SIGKILL)
        log.error("%s", self._last_failure)
        if child.is_ready:
            self._respawn_delay = RESPAWN_DELAY[0]
        else:
            self._back_off()
            if child.generation is self._next and not self._stopped_at:
                self._on_start_failure()

    def _on_start_failure(self) -> None:
        """A worker of the new generation has exited before it was ready."""
        if self._current:
            return self._abort_reload("a worker failed to start")
        log.error("a worker failed to start: exiting")
        self._exit_status = 1
        self.stop()

    def _back_off(self) -> None:
        """Double the delay before the next attempt to fork, once per attempt."""
        if not self._has_backed_off:
            self._respawn_delay = min(2 * self._respawn_delay, RESPAWN_DELAY[1])
        self._has_backed_off = True

    # Stop

    def stop(self) -> None:
        """Stop gracefully; at once when called again."""
        command = STOP_NOW if self._stopped_at else STOP
        if not self._stopped_at:
            self._notifier.send("STOPPING=1", "STATUS=Shutting down, finishing open requests")
            for generation in filter(None, (self._current, self._next)):
                generation.close(None)
        self._stopped_at = self._loop.clock.now
        for child in self._children.values():
            child.send_command(command)
        self._advance()

    # Once a second

    def _tick(self) -> None:
        now = self._loop.clock.now
        gap, self._last_tick = now - self._last_tick, now
        for child in self._children.values():
            child.check_heartbeat(now, gap)
        if self._stopped_at:
            for child in self._children.values():
                child.kill_if_late(now - self._stopped_at)
        elif self._next and self._current and time.monotonic() - self._next.started_at > START_TIME:
            self._abort_reload("the new workers did not become ready in time")
        elif self._in_handover and self._current and time.monotonic() - self._current.started_at > START_TIME:
            self._end_handover()  # an old worker hangs; RETIRE stays in its socket
        self._fork_missing()
        self._reopen_if_rotated()
        self._notify()

    def _reopen_if_rotated(self) -> None:
        if self._current and not self._stopped_at and rotated(self._current.access_log, self._current.config.access_log):
            self.reopen()

    def reopen(self) -> None:
        """Reopen the access log, and send the new descriptor to all workers that write to it."""
        if not self._current or self._stopped_at:
            return
        target = self._current.config.access_log
        try:
            fd = open_target(target)
        except OSError as error:
            return log.error("cannot reopen the access log %s: %s", target, os_error_text(error))
        for child in self._children.values():
            if fd >= 0 and child.generation.config.access_log == target:
                child.send_command(REOPEN, [fd])
        for generation in filter(None, (self._current, self._next)):
            if generation.config.access_log == target:
                close_access_log(generation.access_log)
                generation.access_log = os.dup(fd) if fd >= 0 else -1
        close_access_log(fd)

    # Notifications to the service manager

    def _notify_ready(self) -> None:
        self._sent_status = self._status_text()
        self._notifier.send("READY=1", f"STATUS={self._sent_status}", f"MAINPID={os.getpid()}")
        self._notify()

    def _notify(self) -> None:
        """Send WATCHDOG=1, and STATUS= if it has changed."""
        if self._notifier.watchdog_time:
            self._notifier.send("WATCHDOG=1")
            self._loop.tick_within(self._notifier.watchdog_time / 2)
        text = self._status_text()
        if self._current and not self._stopped_at and text != self._sent_status:
            self._sent_status = text
            self._notifier.send(f"STATUS={text}")

    def _status_text(self) -> str:
        if not self._current:
            return "Starting"
        serving = sum(child.is_ready for child in self._active_children(self._current))
        workers = f"{serving} worker{'s' * (serving != 1)}"
        if serving < self._current.size:
            workers += f" of {self._current.size}: {self._last_failure}"
        return f"Serving {self._current.summary} with {workers}"
