"""A listener: accepts the connections of one server socket.

Each accept takes one established connection off the socket's queue and gives it a socket of its own, with the same local port
and the peer's ephemeral one: four numbers that no other connection has at the same time.
"""

from __future__ import annotations

import errno
import logging
import math
import select
import socket
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

from rawservers.core.bind import ServerSocket
from rawservers.core.connection import Connection
from rawservers.core.errors import os_error_text
from rawservers.core.limits import Connections
from rawservers.core.loop import EVENTS_TIME, STEPS_PER_CHECK, TURNS_TIME, EventHandler, Loop
from rawservers.core.networks import NOBODY, Networks
from rawservers.core.peer import peer_address
from rawservers.core.phases import Preambles
from rawservers.core.protocol import ServiceSpec
from rawservers.core.proxy import ProxyHeader
from rawservers.core.transport import Transport

log = logging.getLogger("rawservers")

# Several processes may poll the same server socket; with EPOLLEXCLUSIVE the kernel wakes one of them, not all.
LISTEN_EVENTS = select.EPOLLIN | select.EPOLLEXCLUSIVE

STREAM = int(socket.SOCK_STREAM)
ACCEPTS_PER_WAKE = 256
ACCEPT_TIME = 0.004  # seconds of a wake for accepting, so that a burst of new connections does not delay the open ones
WAKE_TIME = EVENTS_TIME + TURNS_TIME + ACCEPT_TIME  # seconds of a wake after which no listener accepts
ACCEPT_STEPS = 8  # steps of work for an accept
EVICT_BATCH = 32  # connections closed after an accept that failed for lack of descriptors or memory
MAX_BACKLOG = 65536  # more than any accept queue holds

# Errors of the one connection that accept took off the queue, see accept(2). All others (EMFILE, ENFILE, ENOBUFS, ENOMEM) are
# lasting conditions of this process or system.
TRANSIENT_ERRNOS = {
    errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENONET, errno.ENOPROTOOPT,
    errno.EOPNOTSUPP, errno.EPERM, errno.EPROTO, errno.ETIMEDOUT,
}  # fmt: skip


class ListenerState(Enum):
    """What a listener is doing.

    ACCEPTING: epoll reports new connections. BACKLOG: one look at the accept queue was not enough, and it goes on at the end of
    each wake. FULL: no connection can be added; clients stay in the accept queue, or go to other workers. PAUSED: accept has
    failed, or epoll_ctl, for lack of descriptors or memory.
    """

    ACCEPTING, BACKLOG, FULL, PAUSED, CLOSED = range(5)


ACCEPTING, BACKLOG, FULL, PAUSED, CLOSED = ListenerState
WATCHING = {ACCEPTING, BACKLOG}  # states in which epoll reports new connections
NEVER = math.inf
MAX_WAIT = 0.1  # seconds that a backlog waits for a wake with time left
RETRY_TIMES = {FULL: 0.05, PAUSED: 1.0}  # seconds after which a listener in this state tries again


class Listener(EventHandler):
    """An event handler of the loop: accepts the connections of one server socket.

    transport: makes their sockets; preambles: make what comes before each conversation; connection: the class of the
    connections; proxies: peers that begin with a PROXY header.
    """

    def __init__(
        self, server: ServerSocket, service: ServiceSpec, loop: Loop, connections: Connections,
        transport: Callable[..., Transport] = Transport, preambles: Preambles = (), connection: type[Connection] = Connection,
        proxies: Networks = NOBODY,
    ) -> None:  # fmt: skip
        self._service, self.service = service, service.name
        self._server, self._sock, self._family = server, server.sock, int(server.sock.family)
        self._loop, self._connections, self._on_close = loop, connections, connections.discard
        self._transport, self._preambles, self._connection = transport, preambles, connection
        self._proxies, self._has_preambles = proxies, bool(preambles or proxies)
        # A class with a `begin` of its own has something before the conversation.
        self._hears_first = service.client_first and not self._has_preambles and connection.begin is Connection.begin
        self._heard: list[Connection] = []  # accepted and read, but not begun
        self._has_turn = False  # asked for, to begin them
        self._state = CLOSED
        self._timer = 0  # of the state
        # clock.now of the wake at whose end no more is accepted: it has a tick, or its time is used up; and of the last accept.
        self._accept_barred = self._accepted_at = 0.0

    def __repr__(self) -> str:
        return f"{self.service} listener on {self._server.address}"

    def open(self) -> None:
        """Start to accept."""
        self._enter(ACCEPTING)

    def _enter(self, state: ListenerState) -> None:
        """Change the state, the events watched for, the callback at the end of each wake, and the timer."""
        loop = self._loop
        if (state in WATCHING) != (self._state in WATCHING):  # epoll_ctl(2) takes no change of EPOLLEXCLUSIVE
            try:
                loop.watch(self._sock.fileno(), self, LISTEN_EVENTS if state in WATCHING else 0)
            except OSError as error:
                log.warning("cannot accept on %r: %s; pausing", self, os_error_text(error))
                state = PAUSED
        loop.at_wake_end = [callback for callback in loop.at_wake_end if callback != self._wake_ended]
        if state in (BACKLOG, FULL):
            loop.at_wake_end.append(self._wake_ended)  # behind those of other listeners, which so come first in the next wake
        loop.cancel(self._timer)
        if state in RETRY_TIMES:
            self._timer = loop.call_at(loop.clock.now + RETRY_TIMES[state], self, self._retry)
        self._state = state

    def ready(self, events: int) -> None:
        if self._state is ACCEPTING:
            self._accept()

    def _accept(self, unlimited: bool = False) -> None:
        """Accept connections in the queue: up to ACCEPTS_PER_WAKE, for ACCEPT_TIME, or `unlimited`."""
        end = NEVER if unlimited else min(time.monotonic() + ACCEPT_TIME, self._loop.clock.now + WAKE_TIME)
        self._accept_queued(end)
        self._begin_heard(end)

    def _accept_queued(self, end: float) -> None:
        """The same, without the conversations of the last connections.

        If that was not enough, accepting goes on at the end of each wake: in a flood of connections the queue must not become
        ever longer, with honest clients at its end. All listeners together stop WAKE_TIME after the beginning of a wake.
        """
        clock, connections = self._loop.clock, self._connections
        work_at_check, self._accepted_at = clock.work, clock.now
        free = connections.free(self.service)
        for _ in range(MAX_BACKLOG if end == NEVER else ACCEPTS_PER_WAKE):
            if free <= 0:
                self._begin_heard()  # which may end some
                if (free := connections.free(self.service)) <= 0 and not self._has_queued():
                    break
                if free <= 0 and not self._make_room(self.service):
                    # Level-triggered: a connection in the queue is reported again in the next wake.
                    return None if connections.evictable_soon else self._enter(FULL)
            free -= 1
            clock.work += ACCEPT_STEPS
            try:
                # socket.accept() without its Enum conversions, which take as long as all the rest of it.
                fd, address = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in TRANSIENT_ERRNOS or self._begin_heard():
                    continue
                if self._has_queued():
                    return self._pause(error)
                break  # accept(2) takes a descriptor before it looks at the queue
            self._begin(fd, address)
            if clock.work - work_at_check > STEPS_PER_CHECK:
                self._begin_heard(end)
                if time.monotonic() > end:
                    self._accept_barred = clock.now
                    return self._enter(BACKLOG)
                work_at_check = clock.work
        if self._state is BACKLOG:
            self._enter(ACCEPTING)

    def _begin(self, fd: int, address: tuple[Any, ...] | str) -> None:
        """Begin a connection with the socket `fd`, which was accepted from `address`; or only read it, see `_begin_heard`."""
        sock, service = self._transport(self._family, STREAM, 0, fd), self._service
        peer, allows = peer_address(address), self._connections.allows
        if not allows(peer[0]) and not (self._begin_heard() and allows(peer[0])):
            service.counters.rejected += 1
            return sock.close()
        service.counters.accepted += 1
        connection = self._connection(sock, peer, service, self._loop, self._on_close)
        self._connections.add(connection)
        if self._hears_first:
            self._heard.append(connection)
            return self._loop.call_isolated(connection, connection.hear)
        begin = partial(self._introduce, connection) if self._has_preambles else connection.begin
        self._loop.call_isolated(connection, begin)

    def _begin_heard(self, end: float = NEVER) -> bool:
        """Begin the conversations of the connections that were read; whether there were any.

        They share one freshness epoch: all their input had arrived before it begins, so a stat made in it is younger.
        Those that are left at `end` wait for a turn.
        """
        heard, self._heard = self._heard, []
        clock = self._loop.clock
        if heard:
            clock.epoch += 1
        work_at_check = clock.work
        for number, connection in enumerate(heard, 1):
            self._loop.call_isolated(connection, connection.begin_heard)
            if clock.work - work_at_check > STEPS_PER_CHECK:
                if number < len(heard) and time.monotonic() > end:
                    self._heard = heard[number:]
                    if not self._has_turn:
                        self._has_turn = True
                        self._loop.call_in_early_turn(self, self._begin_rest)
                    break
                work_at_check = clock.work
        return bool(heard)

    def _begin_rest(self) -> None:
        self._has_turn = False
        self._begin_heard(time.monotonic() + TURNS_TIME)

    def _introduce(self, connection: Connection) -> None:
        """Begin with the preambles that this connection must have."""
        preambles = (ProxyHeader, *self._preambles) if connection.host in self._proxies else self._preambles
        connection.introduce(preambles) if preambles else connection.begin()

    def _wake_ended(self) -> None:
        """BACKLOG: go on accepting, if the wake has time left, or none had for MAX_WAIT. FULL: accept, if there is room now."""
        now = self._loop.clock.now
        has_time = time.monotonic() <= now + WAKE_TIME or now > self._accepted_at + MAX_WAIT
        if self._state is BACKLOG and now > self._accept_barred and has_time:
            self._accept()
        elif self._state is FULL and self._connections.free(self.service) > 0:
            self._enter(ACCEPTING)

    def _pause(self, error: OSError) -> None:
        """Stop accepting for a while: level-triggered, the socket would be reported in every wake, in vain."""
        evicted = sum(self._make_room("") for _ in range(EVICT_BATCH))
        text = "cannot accept %s connections: %s; pausing; connections closed to make room: %d"
        log.warning(text, self.service, error.strerror, evicted)
        self._enter(PAUSED)

    def _retry(self) -> None:
        """PAUSED: accept again. FULL: try to make room, since a connection may have become idle meanwhile."""
        if self._state is PAUSED:
            self.open()
        elif self._state is FULL:
            if self._connections.free(self.service) <= 0 and self._has_queued():
                self._make_room(self.service)
            self._enter(FULL)

    def _make_room(self, service: str) -> bool:
        """Close one connection in favour of a new one of `service` ("": of any service); whether there was one to close."""
        if connection := self._connections.evict(service):
            self._loop.call_isolated(connection, connection.evict)
        return connection is not None

    def tick(self) -> None:
        """At each tick: accept connections whose EPOLLEXCLUSIVE wake-up went to a full worker."""
        self._accept_barred = self._loop.clock.now  # a tick takes long enough by itself
        self.ready(select.EPOLLIN)

    def _has_queued(self) -> bool:
        """Whether the accept queue holds a connection."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Stop accepting in this process. The queue of a socket that this server has bound is emptied first."""
        if self._sock.fileno() < 0:
            return
        if self._server.owned:
            self._accept(unlimited=True)
        self._begin_heard()
        self._enter(CLOSED)
        self._sock.close()
