"""One process that serves: the loop, the listeners, and an orderly end.

To stop is to drain. What clients have already sent is still taken (the queue of a server socket that nobody else will accept
from), then nothing new is. Answers under way are finished, within a limit; kept connections are told with their next answer
that it is the last; those that wait for nothing get a FIN after a second, since their clients may have a request under way
that crossed the order to stop. A second order ends it at once.

To retire is to drain without haste, since another worker has taken over: what is idle may stay until its own deadline, and
Telnet sessions until their end.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Callable

from rawservers.core.connection import Connection
from rawservers.core.limits import Connections
from rawservers.core.listener import Listener
from rawservers.core.loop import Loop
from rawservers.core.peer import Clock
from rawservers.core.wakes import BOUNDS
from rawservers.daemon.scoreboard import Figures, Row, Scoreboard, status_of
from rawservers.daemon.startup import (
    CannotStart,
    Servers,
    all_of,
    announce,
    bind_all,
    close_log,
    open_log,
    raise_descriptor_limit,
    rehearse,
    room,
    services,
    shares,
)
from rawservers.logs.access import AccessLog
from rawservers.settings import Config
from rawservers.status import Status

log = logging.getLogger("rawservers")

SLOW = 1.0  # seconds that the loop has worked at one thing, from which on the log says so
WARN_EVERY = 60.0  # seconds between two such lines
SWEEP = 500  # connections whose deadlines are looked at in one turn
GRACE = 1.0  # seconds that an idle connection is left open after the order to stop
STATUS_CONNECTIONS = 16  # beside all others, so that the status can be asked for while there is no room


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
        self._draining = False  # it was told to stop, or to retire
        self._stopping = False  # it was told to stop
        self._drain_began = 0.0
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
        if self._stopping:
            return self.loop.stop()
        self.finish()

    def finish(self) -> None:
        """Come to an orderly end, however often that is said."""
        if not self._stopping:
            self._stopping = True
            self._drain()

    def retire(self) -> None:
        """Take nothing new, and end when all is done."""
        if not self._draining:
            self._drain()

    def reopen(self, access_log: int) -> None:
        """Write to this descriptor from now on."""
        self._log.reopen(access_log)

    def _drain(self) -> None:
        if not self._draining:
            self.loop.after_poll.append(self._stop_when_done)
        self._draining = True
        self._drain_began = self.loop.clock.now
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
        if self._draining:
            self._press_on()
        self._note()
        self._warn()

    def _sweep(self, connections: list[Connection]) -> None:
        """Look whether deadlines have passed: now those of SWEEP connections, the others in turn."""
        for connection in connections[-SWEEP:]:
            self.loop.call_isolated(connection, connection.tick)
        del connections[-SWEEP:]
        if connections:
            self.loop.in_turn(self.loop, lambda: self._sweep(connections))

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
        elapsed = self.loop.clock.now - self._drain_began
        limit = self._config.drain_time if self._stopping else self._config.reload_drain
        if 0 < limit <= elapsed:
            self.loop.stop()
        elif self._stopping and elapsed >= GRACE:
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
