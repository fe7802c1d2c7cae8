"""A worker process: event loop, listeners, connections, and how they stop.

A graceful stop drains. The accept queue is emptied first, if no other process accepts from it; then the listeners close.
Responses under way are finished, within `drain_time`. The next response on a kept connection is its last. Idle connections get
a FIN after a second, since a request that crossed the signal may still arrive. A second signal stops at once.

A worker that retires, since others have taken over, drains without that hurry: idle connections stay until their own deadlines,
Telnet sessions until they end, within `reload_drain`.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable

from rawservers.core.connection import Connection
from rawservers.core.limits import Connections
from rawservers.core.listener import Listener
from rawservers.core.loop import Loop
from rawservers.core.peer import Clock
from rawservers.core.protocol import Deadline
from rawservers.core.wakes import BOUNDS
from rawservers.daemon.scoreboard import Metrics, Scoreboard, Slot, make_status
from rawservers.daemon.startup import (
    CannotStart,
    Servers,
    all_servers,
    bind_all,
    close_access_log,
    connection_shares,
    log_addresses,
    make_services,
    max_connections,
    open_access_log,
    raise_descriptor_limit,
    validate,
)
from rawservers.logs.access import AccessLog
from rawservers.settings import Config
from rawservers.status import Status

log = logging.getLogger("rawservers")

SLOW_WAKE = 1.0  # seconds of a wake from which on a warning is logged
WARN_INTERVAL = 60.0  # seconds between two such warnings
COUNT_BATCH = 500  # connections whose states are counted in one turn
IDLE_GRACE = 1.0  # seconds before idle connections are closed in a graceful stop
STATES = {  # of a connection, by what it waits for
    Deadline.HEAD: "reading", Deadline.BODY: "reading", Deadline.IDLE: "idle", Deadline.LINGER: "lingering",
    Deadline.SEND: "sending",
}  # fmt: skip
STATUS_CONNECTIONS = 16  # beside all others, so that the status is available while the server is full


def serve(config: Config) -> None:
    """Serve in this process, without a supervisor, until SIGTERM or SIGINT. Call it in the main thread.

    Logs its addresses at level INFO, by the logger "rawservers". Ignores `workers` and `user`. Raises CannotStart.
    """
    validate(config)
    access_log = open_access_log(config)
    try:
        servers = bind_all(config)
    except CannotStart:
        close_access_log(access_log)
        raise
    raise_descriptor_limit(config)
    scoreboard = Scoreboard(time.time())
    worker = Worker(config, servers, access_log, scoreboard, scoreboard.allocate())
    for number in (signal.SIGTERM, signal.SIGINT):
        worker.loop.on_signal(number, worker.stop)
    log_addresses(config, servers)
    worker.run()
    for server in all_servers(servers):
        server.close()
    scoreboard.close()


class Worker:
    """access_log: a descriptor, which the worker closes in the end, or -1; slot: where it writes its metrics and heartbeat."""

    def __init__(self, config: Config, servers: Servers, access_log: int, scoreboard: Scoreboard, slot: Slot) -> None:
        self.loop = loop = Loop()
        self._config = config
        self._scoreboard = scoreboard
        self._slot = slot
        self._draining = False  # to stop, or to retire
        self._stopping = False
        self._drain_began = 0.0
        self._counting: list[Connection] = []  # connections whose states are still to be counted
        self._states: Counter[str] = Counter()  # number of connections by service and state, a second ago
        self._log = AccessLog(access_log, config.log_format, loop.clock)
        self._connections = Connections(
            loop.clock,
            max_connections(config),
            config.connections_per_address,
            connection_shares(config),
            {"status": STATUS_CONNECTIONS},
        )
        self._last_warning = -WARN_INTERVAL
        self._services = make_services(config, loop.clock, self._log.add, self._get_status)
        self._listeners = [
            Listener(server, self._services[listen.service], loop, self._connections)
            for listen, group in servers.items()
            for server in group
        ]

    def _get_status(self) -> Status:
        self._states = Counter(map(state_of, self._connections))
        self._write_metrics()
        return make_status(self._scoreboard.total(), self.loop.clock.time)

    def run(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Serve until stopped or retired. on_ready: called once connections are accepted."""
        for listener in self._listeners:
            listener.open()
        self._write_metrics()
        on_ready()
        self.loop.at_tick.append(self._tick)
        self.loop.at_wake_end.append(self._log.flush)
        self.loop.run()
        self._close()

    # Stop

    def stop(self) -> None:
        """Stop gracefully; at once when called again."""
        if self._stopping:
            return self.loop.stop()
        self.finish()

    def finish(self) -> None:
        """Stop gracefully, however often called."""
        if not self._stopping:
            self._stopping = True
            self._drain()

    def retire(self) -> None:
        """Stop accepting, and exit with the last connection."""
        if not self._draining:
            self._drain()

    def reopen(self, access_log: int) -> None:
        """Write the access log to this descriptor from now on."""
        self._log.reopen(access_log)

    def _drain(self) -> None:
        if not self._draining:
            self.loop.at_wake_end.append(self._stop_when_done)
        self._draining = True
        self._drain_began = self.loop.clock.now
        for listener in self._listeners:
            listener.close()
        for connection in self._connections:
            self.loop.call_isolated(connection, connection.drain)

    def _stop_when_done(self) -> None:
        if not self._connections:
            self.loop.stop()

    def _close(self) -> None:
        for connection in self._connections:
            self.loop.call_isolated(connection, connection.close)
        for listener in self._listeners:
            listener.close()
        self._write_metrics()
        self._log.close()
        self.loop.close()

    # Once a second

    def _tick(self) -> None:
        for listener in self._listeners:
            listener.tick()
        self._connections.forget_candidates()
        if self._draining:
            self._enforce_drain_time()
        self._write_metrics()
        self._warn_if_slow()
        if not self._counting:
            self._counting = list(self._connections)
            self._count_states(Counter())

    def _count_states(self, states: Counter[str]) -> None:
        """Add the states of COUNT_BATCH more connections to `states`; queue a turn for the rest."""
        batch, self._counting = self._counting[:COUNT_BATCH], self._counting[COUNT_BATCH:]
        states.update(map(state_of, batch))
        if self._counting:
            self.loop.call_in_turn(self.loop, lambda: self._count_states(states))
        else:
            self._states = states

    def _warn_if_slow(self) -> None:
        seconds, service = self.loop.times.slowest()
        if seconds >= SLOW_WAKE and self.loop.clock.now - self._last_warning >= WARN_INTERVAL:
            self._last_warning = self.loop.clock.now
            log.warning(
                "the event loop was blocked for %.1f seconds%s; all other connections were delayed",
                seconds,
                f" by {service}" * bool(service),
            )

    def _enforce_drain_time(self) -> None:
        """Stop once the drain has taken too long; close idle connections after IDLE_GRACE."""
        elapsed = self.loop.clock.now - self._drain_began
        limit = self._config.drain_time if self._stopping else self._config.reload_drain
        if 0 < limit <= elapsed:
            self.loop.stop()
        elif self._stopping and elapsed >= IDLE_GRACE:
            for connection in self._connections:
                if connection.waits_for is Deadline.IDLE and not connection.has_unread():
                    self.loop.call_isolated(connection, connection.hang_up)

    def _write_metrics(self) -> None:
        """Write all metrics and a heartbeat to this worker's slot."""
        metrics = Metrics()
        for name, service in self._services.items():
            counters = service.counters
            metrics.counters.update({f"{name}.{field}": getattr(counters, field) for field in counters.__slots__})
            metrics.counters[f"{name}.answers"] += counters.cache_hits
            metrics.counters[f"{name}.long_wakes"] = self.loop.times.long[name]
        metrics.counters["log.dropped"] = self._log.dropped
        for clock in ("wall", "cpu"):
            histogram = getattr(self.loop.times, clock)
            buckets = zip((*BOUNDS, "more"), histogram.counts, strict=True)
            metrics.counters.update({f"wakes.{clock} {bound}": number for bound, number in buckets})
            metrics.counters[f"wakes.{clock} us"] = round(histogram.sum * 1e6)
            metrics.maxima[f"{clock} us"] = round(histogram.max * 1e6)
        metrics.gauges.update(self._states)
        self._slot.write(metrics)
        self._slot.write_heartbeat(os.getpid(), self.loop.clock.now)


def state_of(connection: Connection) -> str:
    """The service and the state of a connection, as a key of `Metrics.gauges`."""
    return f"{connection.service}.{STATES.get(connection.waits_for, 'busy')}"


class GarbageCollector:
    """Python's cyclic garbage collector, called once a second, on new objects only.

    By default it scans all objects from time to time; with full caches that takes tens of milliseconds, during which nothing is
    served. Here the objects that survive a collection are excluded from later ones (gc.freeze), except once every EVERY
    seconds.
    """

    EVERY = 3600.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_full = clock.now
        gc.set_threshold(700, 10, 1000)  # automatic collections of the youngest generation stay as they are

    def __call__(self) -> None:
        if self._clock.now - self._last_full >= self.EVERY:
            self._last_full = self._clock.now
            gc.unfreeze()
        gc.collect()
        gc.freeze()
