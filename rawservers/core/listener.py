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

# Several processes may wait for the same server socket; the kernel then wakes one of them, not all.
LISTEN_EVENTS = select.EPOLLIN | select.EPOLLEXCLUSIVE

ACCEPTS_PER_WAKE = 256
ACCEPT_TIME = 0.008  # seconds of a wake for accepting: a burst of new connections must not keep the present ones waiting
WAKE_TIME = EVENTS_TIME + TURNS_TIME + ACCEPT_TIME  # seconds of a wake after which nobody accepts any more
ACCEPT_STEPS = 8  # of work that a connection takes which says nothing yet
PAUSE = 0.1  # seconds without accepting, at the least, after the system has refused a descriptor or memory
EVICT_BATCH = 32  # connections closed each time to make room
RETRY = 0.05  # seconds between two looks for a connection to close, while somebody waits for room
QUEUE = 65536  # more than any backlog holds

# What accept reports of the one connection it took off the queue, see accept(2); the next may be well. All else (EMFILE,
# ENFILE, ENOBUFS, ENOMEM) is about ourselves.
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
        self._paused = 0.0  # when accepting was paused; 0.0: it is not
        self._at_capacity = False  # there is no room, and somebody waits for it
        self._has_backlog = False  # ACCEPT_TIME was not enough for the queue: it goes on at the end of each wake
        self._backlog_at = 0.0  # clock.now of the last wake with an accept, or a tick: not again in the same one
        self._tried = 0.0  # when room was last tried to be made

    def __repr__(self) -> str:
        return f"{self.service} listener on {self._server.address}"

    def open(self) -> None:
        """Begin to accept."""
        self._loop.watch(self._sock.fileno(), self, LISTEN_EVENTS)

    def ready(self, events: int) -> None:
        if not self._has_backlog:
            self._accept(ACCEPTS_PER_WAKE)

    def failed(self) -> None:
        pass  # the listener stays, whatever happened

    def _accept(self, most: int, unlimited: bool = False) -> None:
        """Accept up to `most` of the connections in the queue, for ACCEPT_TIME unless `unlimited`.

        If that was not enough it goes on at the end of each wake: in a flood the queue must not become ever longer, since
        honest peers stand at its end. All listeners together end a wake WAKE_TIME after its beginning, and then go on with
        the one that has waited longest.
        """
        if self._has_backlog:
            self._has_backlog = False
            self._loop.backlogged -= 1
            self._loop.after_poll = [callback for callback in self._loop.after_poll if callback != self._accept_backlog]
        clock = self._loop.clock
        end = min(time.monotonic() + ACCEPT_TIME, clock.now + WAKE_TIME)
        looked = clock.work
        free = self._connections.free(self.service)
        for _ in range(most):
            if free <= 0 and (free := self._connections.free(self.service)) <= 0:
                if not self._is_awaited():
                    return
                if not self._make_room(self.service):
                    if self._connections.evictable_soon:
                        return  # the kernel tells of it again
                    return self._wait_for_capacity()
            free -= 1
            clock.work += ACCEPT_STEPS
            try:
                # What the socket's own accept() does, but for its enums, which take as long as all the rest of it.
                fd, address = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in TRANSIENT_ERRNOS:
                    continue
                return self._pause(error)
            self._begin(socket.SocketType(self._family, socket.SOCK_STREAM, 0, fd), peer_address(address))
            if clock.work - looked > STEPS_PER_CHECK and not unlimited:
                if time.monotonic() > end:
                    self._has_backlog = True
                    self._loop.backlogged += 1
                    self._backlog_at = clock.now
                    return self._loop.after_poll.append(self._accept_backlog)
                looked = clock.work

    def _accept_backlog(self) -> None:
        clock = self._loop.clock
        if self._sock.fileno() < 0 or clock.now <= self._backlog_at or time.monotonic() > clock.now + WAKE_TIME:
            return  # closed; it has accepted in this very wake; or another listener has taken the time
        self._accept(ACCEPTS_PER_WAKE)

    def _begin(self, sock: socket.SocketType, peer: Address) -> None:
        if not self._connections.allows(peer[0]):
            self._service.counters.rejected += 1
            return sock.close()
        self._service.counters.accepted += 1
        self._loop.clock.epoch += 1  # this peer may have spoken later than the wake's poll
        connection = Connection(sock, peer, self._service, self._loop, self._connections)
        self._loop.call_isolated(connection, connection.begin)

    def _pause(self, error: OSError) -> None:
        """Stop accepting for a moment: the queue would report itself ready for ever, and nothing could be done about it."""
        shed = sum(self._make_room("") for _ in range(EVICT_BATCH))
        log.warning(
            "cannot accept for %s: %s; pausing; connections closed to make room: %d", self.service, error.strerror, shed
        )
        self._paused = self._loop.clock.now
        self._loop.watch(self._sock.fileno(), self, 0)

    def _make_room(self, service: str) -> bool:
        """Close a connection that waits, for a new one of `service`, or of any; whether there was one."""
        connection = self._connections.evict(service)
        if connection is None:
            return False
        self._loop.call_isolated(connection, connection.close)
        return True

    def _wait_for_capacity(self) -> None:
        """Stop accepting until there is room for one more; the queue, or another process, has the others meanwhile."""
        if not self._at_capacity:
            self._at_capacity = True
            self._tried = self._loop.clock.now
            self._loop.after_poll.append(self._check_capacity)
        self._loop.watch(self._sock.fileno(), self, 0)

    def _check_capacity(self) -> None:
        now = self._loop.clock.now
        if self._sock.fileno() >= 0 and self._connections.free(self.service) <= 0:
            if now - self._tried >= RETRY:
                self._tried = now
                self._make_room(self.service)
            else:
                self._loop.tick_within(RETRY)  # somebody may have become idle in this wake
        if self._sock.fileno() < 0 or self._connections.free(self.service) > 0:
            self._at_capacity = False
            self._loop.after_poll = [callback for callback in self._loop.after_poll if callback != self._check_capacity]
            if self._sock.fileno() >= 0 and not self._paused:
                self.open()

    def tick(self) -> None:
        """Once a second: end a pause, and accept connections whose EPOLLEXCLUSIVE wake-up went to a full worker."""
        if self._sock.fileno() < 0:
            return
        self._backlog_at = self._loop.clock.now  # a tick takes long enough by itself
        if self._paused and self._loop.clock.now - self._paused >= PAUSE:
            self._paused = 0.0
            self.open()
        if not (self._paused or self._at_capacity or self._has_backlog) and self._is_awaited():
            self._accept(ACCEPTS_PER_WAKE)

    def _is_awaited(self) -> bool:
        """Whether there is somebody in the queue."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Stop accepting, in this process, once what is queued was taken (if nobody else is there to take it)."""
        if self._sock.fileno() < 0:
            return
        if self._server.owned:
            self._accept(QUEUE, unlimited=True)
        self._loop.watch(self._sock.fileno(), self, 0)
        self._sock.close()
