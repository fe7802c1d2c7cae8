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

from rawservers.core.bind import ServerSocket
from rawservers.core.connection import Connection, ServiceSpec
from rawservers.core.limits import Connections
from rawservers.core.loop import EVENTS_TIME, STEPS_PER_CHECK, TURNS_TIME, Loop
from rawservers.core.peer import Address, peer_address

log = logging.getLogger("rawservers")

# Several processes may poll the same server socket; with EPOLLEXCLUSIVE the kernel wakes one of them, not all.
LISTEN_EVENTS = select.EPOLLIN | select.EPOLLEXCLUSIVE

ACCEPTS_PER_WAKE = 256
ACCEPT_TIME = 0.008  # seconds of a wake for accepting, so that a burst of new connections does not delay the open ones
WAKE_TIME = EVENTS_TIME + TURNS_TIME + ACCEPT_TIME  # seconds of a wake after which no listener accepts
ACCEPT_STEPS = 8  # steps of work for an accept
PAUSE_TIME = 0.1  # seconds without accepting, at least, after an accept that failed for lack of descriptors or memory
EVICT_BATCH = 32  # connections closed after such a failure
EVICT_INTERVAL = 0.05  # seconds between two searches for a connection to close, at capacity
MAX_BACKLOG = 65536  # more than any accept queue holds

# Errors of the one connection that accept took off the queue, see accept(2). All others (EMFILE, ENFILE, ENOBUFS, ENOMEM) are
# lasting conditions of this process or system.
TRANSIENT_ERRNOS = {
    errno.ECONNABORTED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENONET,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EPROTO,
    errno.ETIMEDOUT,
}


class Listener:
    """An event handler of the loop: accepts the connections of one server socket."""

    def __init__(self, server: ServerSocket, service: ServiceSpec, loop: Loop, connections: Connections[Connection]) -> None:
        self.service = service.name
        self._service = service
        self._server = server
        self._sock = server.sock
        self._family = int(server.sock.family)
        self._loop = loop
        self._connections = connections
        self._paused_at = 0.0  # 0.0: not paused
        self._at_capacity = False  # no connection can be added, and the accept queue is not empty
        self._accept_unfinished = False  # ACCEPT_TIME was not enough for the queue: accepting goes on at the end of each wake
        self._accept_barred = (
            0.0  # clock.now of the wake at whose end no more is accepted: it has a tick, or its time is used up
        )
        self._evicted_at = 0.0  # when a connection to close was last searched for

    def __repr__(self) -> str:
        return f"{self.service} listener on {self._server.address}"

    def open(self) -> None:
        """Start to accept."""
        self._loop.watch(self._sock.fileno(), self, LISTEN_EVENTS)

    def ready(self, events: int) -> None:
        if not self._accept_unfinished:
            self._accept(ACCEPTS_PER_WAKE)

    def failed(self) -> None:
        pass  # the listener stays

    def _accept(self, most: int, unlimited: bool = False) -> None:
        """Accept up to `most` of the connections in the queue, for ACCEPT_TIME unless `unlimited`.

        If that was not enough, accepting goes on at the end of each wake: in a flood of connections the queue must not become
        ever longer, with honest clients at its end. All listeners together stop WAKE_TIME after the beginning of a wake.
        At the end of the next one, the listener that has waited longest comes first, since each that accepts moves to the end
        of `at_wake_end`.
        """
        if self._accept_unfinished:
            self._accept_unfinished = False
            self._loop.unfinished_accepts -= 1
            self._loop.at_wake_end = [callback for callback in self._loop.at_wake_end if callback != self._accept_backlog]
        clock = self._loop.clock
        end = min(time.monotonic() + ACCEPT_TIME, clock.now + WAKE_TIME)
        work_at_check = clock.work
        free = self._connections.free(self.service)
        for _ in range(most):
            if free <= 0 and (free := self._connections.free(self.service)) <= 0:
                if not self._has_queued():
                    return
                if not self._make_room(self.service):
                    if self._connections.evictable_soon:
                        return  # level-triggered: reported again in the next wake
                    return self._wait_for_capacity()
            free -= 1
            clock.work += ACCEPT_STEPS
            try:
                # socket.accept() without its Enum conversions, which take as long as all the rest of it.
                fd, address = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in TRANSIENT_ERRNOS:
                    continue
                return self._pause(error)
            self._begin(socket.SocketType(self._family, socket.SOCK_STREAM, 0, fd), peer_address(address))
            if clock.work - work_at_check > STEPS_PER_CHECK and not unlimited:
                if time.monotonic() > end:
                    self._accept_unfinished = True
                    self._loop.unfinished_accepts += 1
                    self._accept_barred = clock.now
                    return self._loop.at_wake_end.append(self._accept_backlog)
                work_at_check = clock.work

    def _accept_backlog(self) -> None:
        clock = self._loop.clock
        if self._sock.fileno() < 0 or clock.now <= self._accept_barred or time.monotonic() > clock.now + WAKE_TIME:
            return  # closed; it has accepted in this wake already; or the time is used up by other listeners
        self._accept(ACCEPTS_PER_WAKE)

    def _begin(self, sock: socket.SocketType, peer: Address) -> None:
        if not self._connections.allows(peer[0]):
            self._service.counters.rejected += 1
            return sock.close()
        self._service.counters.accepted += 1
        self._loop.clock.epoch += 1  # this peer's request may be younger than the wake's poll
        connection = Connection(sock, peer, self._service, self._loop, self._connections)
        self._loop.call_isolated(connection, connection.begin)

    def _pause(self, error: OSError) -> None:
        """Stop accepting for PAUSE_TIME: level-triggered, the socket would be reported in every wake, in vain."""
        evicted = sum(self._make_room("") for _ in range(EVICT_BATCH))
        log.warning(
            "cannot accept %s connections: %s; pausing; connections closed to make room: %d",
            self.service,
            error.strerror,
            evicted,
        )
        self._paused_at = self._loop.clock.now
        self._loop.watch(self._sock.fileno(), self, 0)

    def _make_room(self, service: str) -> bool:
        """Close one connection in favour of a new one of `service` ("": of any service); whether there was one to close."""
        connection = self._connections.evict(service)
        if connection is None:
            return False
        self._loop.call_isolated(connection, connection.close)
        return True

    def _wait_for_capacity(self) -> None:
        """Stop accepting until a connection can be added; clients stay in the accept queue, or go to other workers."""
        if not self._at_capacity:
            self._at_capacity = True
            self._evicted_at = self._loop.clock.now
            self._loop.at_wake_end.append(self._check_capacity)
        self._loop.watch(self._sock.fileno(), self, 0)

    def _check_capacity(self) -> None:
        now = self._loop.clock.now
        if self._sock.fileno() >= 0 and self._connections.free(self.service) <= 0:
            if now - self._evicted_at >= EVICT_INTERVAL:
                self._evicted_at = now
                self._make_room(self.service)
            else:
                self._loop.tick_within(EVICT_INTERVAL)  # a wake by then, to search again: a connection may become idle
        if self._sock.fileno() < 0 or self._connections.free(self.service) > 0:
            self._at_capacity = False
            self._loop.at_wake_end = [callback for callback in self._loop.at_wake_end if callback != self._check_capacity]
            if self._sock.fileno() >= 0 and not self._paused_at:
                self.open()

    def tick(self) -> None:
        """At each tick: end a pause, and accept connections whose EPOLLEXCLUSIVE wake-up went to a full worker."""
        if self._sock.fileno() < 0:
            return
        self._accept_barred = self._loop.clock.now  # a tick takes long enough by itself
        if self._paused_at and self._loop.clock.now - self._paused_at >= PAUSE_TIME:
            self._paused_at = 0.0
            self.open()
        if not (self._paused_at or self._at_capacity or self._accept_unfinished) and self._has_queued():
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
        self._loop.watch(self._sock.fileno(), self, 0)
        self._sock.close()
