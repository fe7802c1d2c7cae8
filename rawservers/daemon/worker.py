"""A worker process: event loop, listeners, connections, and how they stop.

A graceful stop drains. The accept queue is emptied first, if no other process accepts from it; then the listeners close.
Responses under way are finished, within `drain_time`, and so are requests of which the whole head has arrived. Nobody else is
waited for: idle connections, Telnet sessions and incomplete heads get a FIN after IDLE_GRACE, in which a request that crossed
the signal may still arrive, and what lingers is closed after LINGER_GRACE. A second signal stops at once.

A worker that retires, since others have taken over, drains without that hurry: idle connections stay until their own deadlines,
Telnet sessions until they end, within `reload_drain`.
"""

from __future__ import annotations

import faulthandler
import gc
import itertools
import logging
import os
import select
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import TYPE_CHECKING, NoReturn

from rawservers.core.bind import ServerSocket
from rawservers.core.connection import Connection
from rawservers.core.limits import Connections
from rawservers.core.listener import Listener
from rawservers.core.loop import TICK, Callback, EventHandler, Loop
from rawservers.core.networks import Networks
from rawservers.core.protocol import Deadline, state_word
from rawservers.core.record import replace
from rawservers.core.wakes import BOUNDS
from rawservers.daemon.privileges import drop_privileges
from rawservers.daemon.scoreboard import Metrics, Scoreboard, Slot, make_status
from rawservers.daemon.startup import (
    CannotStart,
    Resources,
    check_names,
    connection_shares,
    errors_as,
    make_services,
    max_connections,
    shows_sockets,
)
from rawservers.daemon.transitions import EventKind
from rawservers.logs import error as error_log
from rawservers.logs.access import make_log
from rawservers.services import ServiceContext
from rawservers.settings import Config, ListenConfig

if TYPE_CHECKING:
    from rawservers.status import Status

log = logging.getLogger("rawservers")

SLOW_WAKE = 1.0  # seconds of a wake from which on a warning is logged
WARN_INTERVAL = 60.0  # seconds between two such warnings
COUNT_BATCH = 500  # connections whose states are counted in one turn
IDLE_GRACE = 0.3  # seconds before a connection without a response under way gets a FIN in a graceful stop
LINGER_GRACE = 0.3  # seconds for which it then lingers at most
STATUS_CONNECTIONS = 16  # beside all others, so that the status is available while the server is full

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)  # the supervisor's

# Commands of the supervisor, and replies. Each is one packet on a SOCK_SEQPACKET socket pair. A command is the name of the
# WorkerPhase that it begins (RETIRING, STOPPING or STOPPING_NOW), or REOPEN.
REOPEN = b"REOPEN"  # write the access log to the descriptor that comes with this packet; as a reply: it had none, send it again
READY = b"READY"  # accepting
RETIRED = b"RETIRED"  # no longer accepting: after RETIRING, or because of a SIGTERM to this worker
REPLIES = {READY: EventKind.READY, RETIRED: EventKind.RETIRED}

MAX_PACKET = 16  # bytes

FULL_COLLECTION = 3600  # ticks between two garbage collections of all objects
collections_done = itertools.count(1)


def serve(config: Config) -> None:
    """Serve in this process, without a supervisor, until SIGTERM or SIGINT. Call it in the main thread.

    Logs its addresses at level INFO, by the logger "rawservers". Ignores `workers` and `user`. Raises ValueError for a service
    or a document root that does not exist, CannotStart, and RuntimeError in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve must be called in the main thread; a Server has a thread of its own")
    check_names(config)
    with errors_as(CannotStart):
        resources = Resources.prepare(replace(config, user=""))
    scoreboard = Scoreboard()
    worker = Worker(resources, scoreboard, scoreboard.allocate())
    for number in (signal.SIGTERM, signal.SIGINT):
        worker.loop.on_signal(number, worker.stop)
    resources.log_addresses()
    worker.run()
    resources.access_log = -1  # the worker has closed it
    resources.close()
    scoreboard.close()


class Worker(EventHandler):
    """Also the event handler of the socket that leads to the supervisor, if there is one.

    slot: where it writes its metrics and heartbeat. In the end it closes the access log.
    """

    service = ""
    _supervisor: socket.socket

    def __init__(self, resources: Resources, scoreboard: Scoreboard, slot: Slot) -> None:
        self.loop = loop = Loop()
        self._config = config = resources.config
        self._scoreboard = scoreboard
        self._slot = slot
        self._stop_began = inf  # when a graceful stop began; not yet
        self._limit_timer = 0  # ends a drain that takes too long
        self._at_end: list[Callback] = []
        self._uncounted: list[Connection] = []  # whose states are still to be counted
        self._states: Counter[str] = Counter()  # number of connections by service and state
        self._log_error = error_log.RepeatedError()
        self.access_log = make_log(resources.access_log, config.log_format, loop.clock, config.trusted_proxies)
        sizes = max_connections(config), config.connections_per_address, connection_shares(config)
        self._connections = Connections(loop.clock, *sizes, {"status": STATUS_CONNECTIONS})
        self._last_warning = -WARN_INTERVAL
        self._make = self._trace() if config.trace else Listener
        self._contexts = resources.contexts
        context = ServiceContext(loop.clock, self.access_log.add, self._get_status)
        context = replace(context, users=resources.users, is_stopping=scoreboard.is_stopping)
        if shows_sockets(config):
            from rawservers.daemon.socket_table import SocketTable  # imported before the fork

            table = SocketTable(loop, self._connections, resources.servers, scoreboard, slot.number)
            loop.at_tick.append(table.tick)
            context = replace(context, get_sockets=table.ask)
        try:
            self._services = make_services(config, context, resources.table)
        except CannotStart:
            loop.close()
            raise
        self._listeners = [self._make_listener(*row) for row in resources.servers.items()]

    def _trace(self) -> Callable[..., Listener]:
        """Begin a trace; returns what makes listeners with it."""
        from rawservers.logs import trace  # here, since it is seldom used

        log_of_trace = trace.trace_log()
        self.loop.at_tick.append(log_of_trace.write)
        self._at_end.append(log_of_trace.finish)
        return trace.traced_listener

    def _make_listener(self, server: ServerSocket, listen: ListenConfig) -> Listener:
        proxies = Networks(listen.proxy_protocol)
        arguments = server, self._services[listen.service], self.loop, self._connections
        if not listen.tls:
            return self._make(*arguments, proxies=proxies)
        from rawservers.core.tls import SharedTLS, TLSConnection, TLSTransport  # here, since it loads OpenSSL

        shared = SharedTLS(self._contexts[listen.service, listen.tls], self.loop.clock)
        return self._make(*arguments, partial(TLSTransport, shared), connection=TLSConnection, proxies=proxies)

    def _get_status(self) -> Status:
        self._states = Counter(map(state_of, self._connections))
        self._write_metrics()
        return make_status(self._scoreboard.total(), self.loop.clock.time)

    def run(self, supervisor: socket.socket | None = None) -> None:
        """Serve until stopped or retired. supervisor: the socket for its commands, and for the replies."""
        for listener in self._listeners:
            listener.open()
        self._write_metrics()
        if supervisor:
            self._supervisor = supervisor
            self.loop.watch(supervisor.fileno(), self, select.EPOLLIN)
            supervisor.send(READY)
        self.loop.at_tick.append(self._tick)
        self.loop.at_wake_end.append(self.access_log.flush)
        try:
            self.loop.run()
        finally:
            self.close_listeners()
            self.close_connections()
            self._write_metrics()
            self.access_log.close()
            for callback in self._at_end:
                callback()
            self.loop.close()

    def listen(self, server: ServerSocket, listen: ListenConfig) -> None:
        """Accept connections from `server`, too. listen: as one of those of the configuration, but for the address."""
        self._listeners.append(self._make_listener(server, listen))
        self._listeners[-1].open()

    def close_listeners(self) -> None:
        """Close the server sockets, once the connections in their accept queues are accepted."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def close_connections(self) -> None:
        """Close all connections at once."""
        for connection in self._connections:
            self.loop.call_isolated(connection, connection.close)

    def close_in_child(self) -> None:
        """In a forked process, which does not serve: close the copies of all connections, and of the loop's descriptors."""
        for connection in self._connections:
            connection.close_in_child()
        self.loop.close()

    def ready(self, events: int) -> None:
        """Execute a command of the supervisor. If it has exited, stop at once."""
        try:
            command, fds, *_ = socket.recv_fds(self._supervisor, MAX_PACKET, 1, socket.MSG_DONTWAIT)
        except ConnectionResetError:  # it has exited with replies unread
            command = b""
        if command != REOPEN:
            {b"RETIRING": self.retire, b"STOPPING": self.finish}.get(command, self.loop.stop)()
        elif fds:
            self.access_log.reopen(fds[0])
            self._log_error.clear()
        else:
            self._log_error.log("cannot take the reopened access log: too many open files; its lines go to the old file")
            self._reply(REOPEN)  # the supervisor sends it again

    # Stop

    def stop(self) -> None:
        """Stop gracefully, after `drain_announce`; at once when called again."""
        if self._stop_began < inf or self._scoreboard.is_stopping():
            return self.loop.stop()
        self._scoreboard.announce_stop()
        if seconds := self._config.drain_announce:
            self.loop.call_at(self.loop.clock.now + seconds, self.loop, self.finish)
        else:
            self.finish()

    def finish(self) -> None:
        """Stop gracefully, however often called."""
        if self._stop_began == inf:
            self._stop_began = self.loop.clock.now
            self._drain(self._config.drain_time)
            self.loop.call_at(self._stop_began + IDLE_GRACE, self.loop, self._hang_up_idle)

    def leave(self) -> None:
        """Stop gracefully. The supervisor gets a reply, and starts another worker in the place of this one."""
        self.finish()
        self._reply(RETIRED)

    def retire(self) -> None:
        """Stop accepting, and exit with the last connection. The supervisor gets a reply."""
        if self._stop_began == inf:
            self._drain(self._config.reload_drain)
        self._reply(RETIRED)

    def _reply(self, reply: bytes) -> None:
        """Send a reply without waiting; if it cannot be sent, try again: a reload waits for it."""
        try:
            self._supervisor.send(reply, socket.MSG_DONTWAIT)
        except ConnectionError:  # the supervisor has exited, which the next read reports
            pass
        except OSError:
            self.loop.call_at(self.loop.clock.now + TICK, self.loop, lambda: self._reply(reply))

    def _drain(self, limit: float) -> None:
        """Exit with the last connection, or after `limit` seconds (0: no limit)."""
        loop = self.loop
        self._limit_timer = loop.call_at(loop.clock.now + (limit or inf), loop, loop.stop, self._limit_timer)
        self.close_listeners()
        for connection in self._connections:
            loop.call_isolated(connection, connection.drain)
        loop.at_wake_end.append(self._stop_when_done)

    def _stop_when_done(self) -> None:
        if not self._connections:
            self.loop.stop()

    def _hang_up_idle(self) -> None:
        """In a graceful stop, now and again: hang up where no response is under way, and close what has lingered."""
        now = self.loop.clock.now
        for connection in self._connections:
            if connection.waits_for is Deadline.LINGER and connection.timer_started + LINGER_GRACE <= now:
                self.loop.call_isolated(connection, connection.close)
            elif connection.waits_for in (Deadline.IDLE, Deadline.HEAD) and not connection.has_unread():
                self.loop.call_isolated(connection, connection.hang_up)
        self.loop.call_at(now + LINGER_GRACE, self.loop, self._hang_up_idle)

    # Once a second

    def _tick(self) -> None:
        for listener in self._listeners:
            listener.tick()
        self._connections.forget_candidates()
        self._warn_if_slow()
        if self._uncounted:  # the last count is not finished
            return self._write_metrics()
        self._uncounted = list(self._connections)
        self._count_states(Counter())

    def _count_states(self, states: Counter[str]) -> None:
        """Add the states of COUNT_BATCH more connections to `states`; queue a turn for the rest, or write all metrics."""
        states.update(map(state_of, self._uncounted[-COUNT_BATCH:]))
        del self._uncounted[-COUNT_BATCH:]
        if self._uncounted:
            self.loop.call_in_turn(self.loop, lambda: self._count_states(states))
        else:
            self._states = states
            self._write_metrics()

    def _warn_if_slow(self) -> None:
        seconds, service = self.loop.times.slowest()
        if seconds >= SLOW_WAKE and self.loop.clock.now - self._last_warning >= WARN_INTERVAL:
            self._last_warning = self.loop.clock.now
            cause = f" by {service}" * bool(service)
            log.warning("the event loop was blocked for %.1f seconds%s; all other connections were delayed", seconds, cause)

    def _write_metrics(self) -> None:
        """Write all metrics and a heartbeat to this worker's slot."""
        times, metrics = self.loop.times, Metrics(gauges=self._states)
        numbers = metrics.counters
        for name, service in self._services.items():
            counters = service.counters
            numbers.update({f"{name}.{field}": getattr(counters, field) for field in counters.__slots__})
            numbers[f"{name}.answers"] += counters.cache_hits
            numbers[f"{name}.long_wakes"] = times.long[name]
        numbers["log.dropped"] = self.access_log.sink.dropped
        for clock, histogram in (("wall", times.wall), ("cpu", times.cpu)):
            buckets = zip((*BOUNDS, "more"), histogram.counts, strict=True)
            numbers.update({f"wakes.{clock} {bound}": number for bound, number in buckets})
            numbers[f"wakes.{clock} us"] = round(histogram.sum * 1e6)
            metrics.maxima[f"{clock} us"] = round(histogram.max * 1e6)
        self._slot.publish(metrics)


def state_of(connection: Connection) -> str:
    """The service and the state of a connection, as a key of `Metrics.gauges`."""
    return f"{connection.service}.{state_word(connection.waits_for)}"


def collect_garbage() -> None:
    """Collect cyclic garbage among new objects: called at each tick, in place of Python's automatic full collections.

    Those scan all objects; with full caches that takes tens of milliseconds, during which nothing is served. Here the objects
    that survive a collection are excluded from later ones (gc.freeze), except once in FULL_COLLECTION ticks.
    """
    if next(collections_done) % FULL_COLLECTION == 0:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


def freeze_survivors(phase: str, info: Mapping[str, int]) -> None:
    """One of gc.callbacks: exclude what survives an automatic collection of the middle generation from later ones.

    So a collection at a tick looks at few objects, however many were made since the last one.
    """
    if phase == "stop" and info["generation"] == 1:
        gc.freeze()


def run_worker(resources: Resources, scoreboard: Scoreboard, slot: Slot, sock: socket.socket, prepare: Callback) -> NoReturn:
    """Serve in this process, a new worker, until its supervisor wants it to exit, or until there is an error, which is logged.

    Exits, without what the supervisor has yet to do. sock: leads to the supervisor; prepare: called first.
    """
    status = 1
    try:
        prepare()
        for number in SIGNALS:  # a terminal sends ^C to all processes of the group; workers obey the supervisor only
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*SIGNALS} - {signal.SIGTERM})
        with errors_as(CannotStart, "cannot start a worker: "):
            faulthandler.enable(2)
            drop_privileges(resources.credentials)
            worker = Worker(resources, scoreboard, slot)
        worker.loop.on_signal(signal.SIGTERM, worker.leave)  # not `stop`: the supervisor may send STOPPING as well
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        gc.set_threshold(700, 10, 1000)  # automatic collections of the youngest generation stay as they are
        gc.callbacks.append(freeze_survivors)
        worker.loop.at_tick += [error_log.flush, collect_garbage]
        worker.run(sock)
        status = 0
    except CannotStart as error:
        log.error("%s", error)
    except BaseException:
        log.exception("unexpected error in a worker")
    finally:
        logging.shutdown()
        os._exit(status)
