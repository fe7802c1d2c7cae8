"""One process that serves: the loop, the listeners, and an orderly end.

To stop is to drain. What clients have already sent is still taken (the queue of a server socket that nobody else will accept
from), then nothing new is. Answers under way are finished, within a limit; kept connections are told with their next answer
that it is the last; those that wait for nothing get a FIN after a second, since their clients may have a request under way
that crossed the order to stop. A second order ends it at once.

To retire is to drain without haste, since another worker has taken over: what is idle may stay until its own deadline, and
Telnet sessions until their end.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from rawservers.core.bind import Endpoint, ServerSocket, bind
from rawservers.core.connection import Connection, ServiceSpec
from rawservers.core.limits import Connections
from rawservers.core.listener import Listener
from rawservers.core.loop import Loop
from rawservers.core.peer import Clock
from rawservers.core.wakes import BOUNDS
from rawservers.daemon.scoreboard import Figures, Row, Scoreboard, status_of
from rawservers.logs.access import AccessLog, open_target
from rawservers.services import SERVICES, Report, of_requests
from rawservers.settings import Config, ListenConfig
from rawservers.status import Page, Status

log = logging.getLogger("rawservers")

SLOW = 1.0  # seconds that the loop has worked at one thing, from which on the log says so
WARN_EVERY = 60.0  # seconds between two such lines
SWEEP = 500  # connections whose deadlines are looked at in one turn
GRACE = 1.0  # seconds that an idle connection is left open after the order to stop
STATUS_CONNECTIONS = 16  # beside all others, so that the status can be asked for while there is no room
RESERVE = 64  # descriptors for everything that is neither a connection nor a large file kept open

# What a supervisor orders, and what a worker tells it: one packet each.
RETIRE, STOP, HURRY, REOPEN = b"retire", b"stop", b"hurry", b"reopen"  # REOPEN comes with a descriptor of the new access log
READY, RETIRED = b"ready", b"retired"
WORDS = select.EPOLLIN  # what either end watches for

Servers: TypeAlias = "dict[ListenConfig, list[ServerSocket]]"  # for each of Config.listen


class CannotStart(Exception):
    """What could not be done, and why, in one line."""


def serve(config: Config) -> None:
    """Serve as `config` says until SIGTERM or SIGINT, in this process and its main thread. Raises CannotStart.

    Where it listens is logged at level INFO by the logger "rawservers". `workers` and `user` are left out of account.
    """
    banners = rehearse(config)
    access_log = open_log(config)
    try:
        servers = bind_all(config)
    except CannotStart:
        close_log(access_log)
        raise
    raise_descriptor_limit(config)
    scoreboard = Scoreboard(time.time())
    worker = Worker(config, servers, access_log, scoreboard, scoreboard.take())
    for number in (signal.SIGTERM, signal.SIGINT):
        worker.loop.on_signal(number, worker.stop)
    announce(banners, servers)
    worker.run()
    for server in all_of(servers):
        server.close()
    scoreboard.close()


class Worker:
    """Serves on `servers`, and writes to the descriptor `access_log` (-1 for none), which it closes in the end."""

    def __init__(self, config: Config, servers: Servers, access_log: int, scoreboard: Scoreboard, row: Row) -> None:
        self.loop = loop = Loop()
        self._config = config
        self._scoreboard = scoreboard
        self._row = row
        self._order = b""  # RETIRE or STOP, when it came
        self._ordered = 0.0  # when it came
        self._log = AccessLog(access_log, config.log_format, loop.clock)
        self._connections: Connections[Connection] = Connections(
            loop.clock, room(config), config.connections_per_address, shares(config), {"status": STATUS_CONNECTIONS}
        )
        self._warned = -WARN_EVERY  # when it was last said that the loop is slow
        self._services = services(config, loop.clock, self._log.answered, self._look)
        self._listeners = [
            Listener(server, self._services[listen.service], loop, self._connections)
            for listen, group in servers.items()
            for server in group
        ]

    def _look(self) -> Status:
        self._note()
        workers = sum(1 for _ in self._scoreboard.rows())
        return status_of(self._scoreboard.total(), self._scoreboard.history, workers, self.loop.clock.time)

    def run(self, begun: Callable[[], object] = lambda: None) -> None:
        """Serve until an order to stop, or to retire, is carried out. `begun` is called as soon as connections are accepted."""
        for listener in self._listeners:
            listener.open()
        self._note()
        begun()
        self.loop.at_tick.append(self._tick)
        self.loop.after_poll.append(self._log.flush)
        self.loop.run()
        self._let_go()

    # The end

    def stop(self) -> None:
        """Come to an orderly end; when called again, to an end."""
        if self._order == STOP:
            return self.loop.stop()
        self.finish()

    def finish(self) -> None:
        """Come to an orderly end, however often that is said."""
        if self._order != STOP:
            self._drain(STOP)

    def retire(self) -> None:
        """Take nothing new, and end when all is done."""
        if not self._order:
            self._drain(RETIRE)

    def reopen(self, access_log: int) -> None:
        """Write to this descriptor from now on."""
        self._log.reopen(access_log)

    def _drain(self, order: bytes) -> None:
        if not self._order:
            self.loop.after_poll.append(self._stop_when_done)
        self._order = order
        self._ordered = self.loop.clock.now
        for listener in self._listeners:
            listener.close()
        for connection in self._connections:
            self.loop.call_isolated(connection, connection.drain)

    def _stop_when_done(self) -> None:
        if not self._connections:
            self.loop.stop()

    def _let_go(self) -> None:
        for connection in self._connections:
            self.loop.call_isolated(connection, connection.close)
        for listener in self._listeners:
            listener.close()
        self._note()
        self._log.close()
        self.loop.close()

    # Once a second

    def _tick(self) -> None:
        for listener in self._listeners:
            listener.tick()
        self._connections.forget_candidates()
        self._sweep(list(self._connections))
        if self._order:
            self._press_on()
        self._note()
        self._warn()

    def _sweep(self, connections: list[Connection]) -> None:
        """Look whether deadlines have passed: now those of SWEEP connections, the others in turn."""
        for connection in connections[-SWEEP:]:
            self.loop.call_isolated(connection, connection.tick)
        del connections[-SWEEP:]
        if connections:
            self.loop.call_in_turn(self.loop, lambda: self._sweep(connections))

    def _warn(self) -> None:
        """Say that the loop turns slowly, if it does: it is not stuck, but everybody waits."""
        seconds, service = self.loop.times.slowest()
        if seconds >= SLOW and self.loop.clock.now - self._warned >= WARN_EVERY:
            self._warned = self.loop.clock.now
            log.warning(
                "the event loop was blocked for %.1f seconds%s: all other connections had to wait",
                seconds,
                f" by {service}" * bool(service),
            )

    def _press_on(self) -> None:
        """See to it that an order is carried out in time."""
        elapsed = self.loop.clock.now - self._ordered
        limit = self._config.drain_time if self._order == STOP else self._config.reload_drain
        if 0 < limit <= elapsed:
            self.loop.stop()
        elif self._order == STOP and elapsed >= GRACE:
            for connection in self._connections:
                if connection.idle and not connection.has_unread():
                    self.loop.call_isolated(connection, connection.hang_up)

    def _note(self) -> None:
        """Write what has been done, and that this process is alive."""
        figures = Figures()
        for name, service in self._services.items():
            counters = service.counters
            figures.counted.update({f"{name}.{field}": getattr(counters, field) for field in counters.__slots__})
            figures.counted[f"{name}.answers"] += counters.cache_hits
            figures.counted[f"{name}.long_wakes"] = self.loop.times.long[name]
        figures.counted["log.dropped"] = self._log.dropped
        for kind in ("wall", "cpu"):
            histogram = getattr(self.loop.times, kind)
            figures.counted.update({f"wakes.{kind} {le}": n for le, n in zip((*BOUNDS, "more"), histogram.counts, strict=True)})
            figures.counted[f"wakes.{kind} us"] = round(histogram.sum * 1e6)
            figures.highest[f"{kind} us"] = round(histogram.max * 1e6)
        figures.now.update(f"{connection.service}.{connection.state}" for connection in self._connections)
        self._row.write(figures)
        self._row.beat(os.getpid(), self.loop.clock.now)


class GarbageCollector:
    """Python's cyclic garbage collector, run once a second over what is new.

    Left to itself it looks at all there is, every so often. With full caches that takes tens of milliseconds, in which nobody
    is served. What has lived through one look here is not looked at again (gc.freeze), but once in EVERY seconds.
    """

    EVERY = 3600.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.now
        gc.set_threshold(700, 10, 1000)  # the youngest are looked at as usual

    def __call__(self) -> None:
        if self._clock.now - self._last >= self.EVERY:
            self._last = self._clock.now
            gc.unfreeze()
        gc.collect()
        gc.freeze()


class Orders:
    """An event handler of a worker's loop: the supervisor's orders. Without a supervisor there is nothing left to do."""

    service = ""

    def __init__(self, worker: Worker, sock: socket.socket) -> None:
        self._worker = worker
        self._sock = sock

    def ready(self, events: int) -> None:
        try:
            order, fds, _, _ = socket.recv_fds(self._sock, 16, 1, socket.MSG_DONTWAIT)
        except ConnectionResetError:  # it has gone without hearing all that it was told
            order = b""
        if order == RETIRE:
            self._worker.retire()
            with contextlib.suppress(OSError):  # it has gone: that is the next news
                self._sock.send(RETIRED)
        elif order == STOP:
            self._worker.finish()
        elif order == REOPEN:
            if fds:  # else there was no descriptor for it here
                self._worker.reopen(fds[0])
        else:
            self._worker.loop.stop()

    def failed(self) -> None:
        pass  # the next order is another matter


def services(config: Config, clock: Clock, report: Report, look: Callable[[], Status]) -> dict[str, ServiceSpec]:
    """The services that `config` asks for, by name. Raises CannotStart for what cannot be served, such as a bad header."""

    def status(config: Config, clock: Clock, report: Report) -> ServiceSpec:
        return ServiceSpec("status", Page(look).start, of_requests(config), lambda *_: None)

    table = SERVICES | {"status": status}
    made: dict[str, ServiceSpec] = {}
    for listen in config.listen:
        name = listen.service
        if name not in table:
            raise CannotStart(f"no such service: {name} (there are {', '.join(table)})")
        try:
            made[name] = made.get(name) or table[name](config, clock, report)
        except (OSError, ValueError) as error:
            raise CannotStart(f"cannot serve {name} on {listen.address}: {reason(error)}") from error
    return made


def rehearse(config: Config) -> dict[str, ServiceSpec]:
    """What `services` gives, or raises, for banners and before anything is bound; not to be served."""

    def nothing() -> Status:
        raise AssertionError("a rehearsal has no public")

    return services(config, Clock(), lambda *_: None, nothing)


def bind_all(config: Config, known: Mapping[ListenConfig, list[ServerSocket]] = {}) -> Servers:
    """Server sockets for all of `config.listen`; those that are known are taken over. CannotStart leaves none behind."""
    servers: Servers = {}
    try:
        for listen in dict.fromkeys(config.listen):
            endpoint = Endpoint.parse(listen.address)
            key = ListenConfig(
                listen.service, str(endpoint)
            )  # not the address as it was written: 80 and 127.0.0.1:80 are the same
            servers[key] = servers.get(key) or known.get(key) or bind(endpoint, config.send_time)
    except (OSError, ValueError) as error:
        for key in servers.keys() - known.keys():
            for server in servers[key]:
                server.close()
        low = isinstance(error, PermissionError) and not listen.address.startswith("unix:")
        raise CannotStart(f"cannot listen on {listen.address}: {reason(error)}{LOW_PORT if low else ''}") from error
    for server in all_of(servers):
        server.tune(config.send_time)  # which may be another than when it was bound
    return servers


def all_of(servers: Servers) -> Iterable[ServerSocket]:
    return (server for group in servers.values() for server in group)


def announce(services: Mapping[str, ServiceSpec], servers: Servers) -> None:
    """Log what is served where."""
    for listen, group in servers.items():
        for server in group:
            log.info("%s listening on %s", listen.service, services[listen.service].banner(server.address))


def open_log(config: Config) -> int:
    """A descriptor to write the access log to. Raises CannotStart."""
    try:
        return open_target(config.access_log)
    except OSError as error:
        raise CannotStart(f"cannot write the access log {config.access_log}: {reason(error)}") from error


def close_log(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def raise_descriptor_limit(config: Config) -> None:
    """Each connection takes a descriptor, and the usual limit of 1024 is there for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if room(config) < config.connections:
        log.warning("only %d connections at once, not %d: more descriptors are not allowed", room(config), config.connections)
    elif not config.connections and room(config) == 1:
        log.warning("only 1 connection at once: http.open_files is for %d files, all descriptors there are", config.open_files)


def room(config: Config) -> int:
    """How many connections a worker may have, by its configuration and the descriptors it is allowed."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(1, allowed - config.open_files - RESERVE)
    return min(config.connections or most, most)


def shares(config: Config) -> dict[str, int]:
    """How many connections each service may have. Each of HTTP and Telnet by default half of all, if both are given."""
    total = room(config)
    wanted = {"http": config.http_connections, "telnet": config.telnet_connections}
    default = max(1, total // 2) if wanted.keys() <= {listen.service for listen in config.listen} else total
    return {name: min(number or default, total) for name, number in wanted.items()}


def reason(error: Exception) -> str:
    """Why something was refused."""
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


LOW_PORT = (
    " (a port below 1024 is root's: start as root, through a systemd socket, or after"
    " sysctl net.ipv4.ip_unprivileged_port_start=0)"
)
