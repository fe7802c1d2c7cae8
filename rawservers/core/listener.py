"""A listener: accepts the connections of one server socket.

Each accept takes one established connection off the socket's queue and gives it a socket of its own, with the same local port
and the peer's ephemeral one: four numbers that no other connection has at the same time.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from rawservers.core.bind import ServerSocket
from rawservers.core.connection import Connection
from rawservers.core.limits import Connections
from rawservers.core.loop import EVENTS_TIME, STEPS_PER_CHECK, TURNS_TIME, Loop
from rawservers.core.peer import peer_address
from rawservers.core.phases import Preamble
from rawservers.core.protocol import ServiceSpec
from rawservers.core.transport import Transport

log = logging.getLogger("rawservers")

# Several processes may poll the same server socket; with EPOLLEXCLUSIVE the kernel wakes one of them, not all.
LISTEN_EVENTS = select.EPOLLIN | select.EPOLLEXCLUSIVE

ACCEPTS_PER_WAKE = 256
ACCEPT_TIME = 0.008  # seconds of a wake for accepting, so that a burst of new connections does not delay the open ones
WAKE_TIME = EVENTS_TIME + TURNS_TIME + ACCEPT_TIME  # seconds of a wake after which no listener accepts
ACCEPT_STEPS = 8  # steps of work for an accept
PAUSE_TIME = 1.0  # seconds without accepting after an accept that failed for lack of descriptors or memory
EVICT_BATCH = 32  # connections closed after such a failure
EVICT_INTERVAL = 0.05  # seconds between two searches for a connection to close, at capacity
MAX_BACKLOG = 65536  # more than any accept queue holds

# Errors of the one connection that accept took off the queue, see accept(2). All others (EMFILE, ENFILE, ENOBUFS, ENOMEM) are
# lasting conditions of this process or system.
TRANSIENT_ERRNOS = {
    errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENONET, errno.ENOPROTOOPT,
    errno.EOPNOTSUPP, errno.EPERM, errno.EPROTO, errno.ETIMEDOUT,
}  # fmt: skip


class ListenerState(Enum):
    """What a listener is doing. BACKLOG, FULL: see `Listener._wake_ended`; PAUSED: accept has failed, see `Listener._pause`."""

    ACCEPTING = auto()
    BACKLOG = auto()
    FULL = auto()
    PAUSED = auto()
    CLOSED = auto()


WATCHING = {ListenerState.ACCEPTING, ListenerState.BACKLOG}  # states in which epoll reports new connections


class Listener:
    """An event handler of the loop: accepts the connections of one server socket.

    transport: the class of their sockets; preambles: make what comes before each conversation.
    """

    def __init__(
        self,
        server: ServerSocket,
        service: ServiceSpec,
        loop: Loop,
        connections: Connections[Connection],
        transport: type[Transport] = Transport,
        preambles: Sequence[Callable[[], Preamble]] = (),
    ) -> None:
        self.service = service.name
        self._service = service
        self._server = server
        self._sock = server.sock
        self._family = int(server.sock.family)
        self._loop = loop
        self._connections = connections
        self._transport = transport
        self._preambles = preambles
        self._state = ListenerState.CLOSED
        self._timer = 0  # of the state
        self._accept_barred = (
            0.0  # clock.now of the wake at whose end no more is accepted: it has a tick, or its time is used up
        )

    def __repr__(self) -> str:
        return f"{self.service} listener on {self._server.address}"

    def open(self) -> None:
        """Start to accept."""
        self._enter(ListenerState.ACCEPTING)

    def _enter(self, state: ListenerState) -> None:
        """Change the state, the events watched for, and the callback at the end of each wake."""
        loop = self._loop
        loop.cancel(self._timer)
        loop.unfinished_accepts += (state is ListenerState.BACKLOG) - (self._state is ListenerState.BACKLOG)
        loop.at_wake_end = [callback for callback in loop.at_wake_end if callback != self._wake_ended]
        if state in (ListenerState.BACKLOG, ListenerState.FULL):
            loop.at_wake_end.append(self._wake_ended)  # behind those of other listeners, which so come first in the next wake
        if (state in WATCHING) != (self._state in WATCHING):  # epoll_ctl(2) takes no change of EPOLLEXCLUSIVE
            loop.watch(self._sock.fileno(), self, LISTEN_EVENTS if state in WATCHING else 0)
        self._state = state

    def ready(self, events: int) -> None:
        if self._state is ListenerState.ACCEPTING:
            self._accept(ACCEPTS_PER_WAKE)

    def failed(self) -> None:
        pass  # the listener stays

    def _accept(self, most: int, unlimited: bool = False) -> None:
        """Accept up to `most` of the connections in the queue, for ACCEPT_TIME unless `unlimited`.

        If that was not enough, accepting goes on at the end of each wake: in a flood of connections the queue must not become
        ever longer, with honest clients at its end. All listeners together stop WAKE_TIME after the beginning of a wake.
        """
        clock, connections = self._loop.clock, self._connections
        end = min(time.monotonic() + ACCEPT_TIME, clock.now + WAKE_TIME)
        work_at_check = clock.work
        free = connections.free(self.service)
        for _ in range(most):
            if free <= 0 and (free := connections.free(self.service)) <= 0:
                if not self._has_queued():
                    break
                if not self._make_room(self.service):
                    if connections.evictable_soon:
                        return  # level-triggered: reported again in the next wake
                    return self._wait_for_capacity()
            free -= 1
            clock.work += ACCEPT_STEPS
            try:
                # socket.accept() without its Enum conversions, which take as long as all the rest of it.
                fd, address = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in TRANSIENT_ERRNOS:
                    continue
                return self._pause(error)
            self._begin(fd, address)
            if clock.work - work_at_check > STEPS_PER_CHECK and not unlimited:
                if time.monotonic() > end:
                    self._accept_barred = clock.now
                    return self._enter(ListenerState.BACKLOG)
                work_at_check = clock.work
        if self._state is ListenerState.BACKLOG:
            self._enter(ListenerState.ACCEPTING)

    def _begin(self, fd: int, address: tuple[Any, ...] | str) -> None:
        """Begin a connection with the socket `fd`, which was accepted from `address`."""
        sock = self._transport(self._family, socket.SOCK_STREAM, 0, fd)
        peer = peer_address(address)
        if not self._connections.allows(peer[0]):
            self._service.counters.rejected += 1
            return sock.close()
        self._service.counters.accepted += 1
        self._loop.clock.epoch += 1  # this peer's request may be younger than the wake's poll
        connection = Connection(sock, peer, self._service, self._loop, self._connections, self._preambles)
        self._loop.call_isolated(connection, connection.begin)

    def _wake_ended(self) -> None:
        """BACKLOG: go on accepting, if the wake has time left. FULL: accept again, if there is room now."""
        clock = self._loop.clock
        if self._state is ListenerState.FULL:
            if self._connections.free(self.service) > 0:
                self._enter(ListenerState.ACCEPTING)
        elif clock.now > self._accept_barred and time.monotonic() <= clock.now + WAKE_TIME:
            self._accept(ACCEPTS_PER_WAKE)

    def _pause(self, error: OSError) -> None:
        """Stop accepting for PAUSE_TIME: level-triggered, the socket would be reported in every wake, in vain."""
        evicted = sum(self._make_room("") for _ in range(EVICT_BATCH))
        log.warning(
            "cannot accept %s connections: %s; pausing; connections closed to make room: %d",
            self.service, error.strerror, evicted,
        )  # fmt: skip
        self._enter(ListenerState.PAUSED)
        self._timer = self._loop.call_at(self._loop.clock.now + PAUSE_TIME, self, self._resume)

    def _resume(self) -> None:
        if self._state is ListenerState.PAUSED:
            self.open()

    def _make_room(self, service: str) -> bool:
        """Close one connection in favour of a new one of `service` ("": of any service); whether there was one to close."""
        connection = self._connections.evict(service)
        if connection is not None:
            self._loop.call_isolated(connection, connection.close)
        return connection is not None

    def _wait_for_capacity(self) -> None:
        """Stop accepting until a connection can be added; clients stay in the accept queue, or go to other workers."""
        self._enter(ListenerState.FULL)
        self._timer = self._loop.call_at(self._loop.clock.now + EVICT_INTERVAL, self, self._search_again)

    def _search_again(self) -> None:
        """A connection may have become idle meanwhile: try to make room."""
        if self._state is ListenerState.FULL and (
            self._connections.free(self.service) > 0 or not self._make_room(self.service)
        ):
            self._wait_for_capacity()

    def tick(self) -> None:
        """At each tick: accept connections whose EPOLLEXCLUSIVE wake-up went to a full worker."""
        self._accept_barred = self._loop.clock.now  # a tick takes long enough by itself
        if self._state is ListenerState.ACCEPTING and self._has_queued():
            self._accept(ACCEPTS_PER_WAKE)

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
            self._accept(MAX_BACKLOG, unlimited=True)
        self._enter(ListenerState.CLOSED)
        self._sock.close()
