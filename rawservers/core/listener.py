"""A server socket: socket, bind, listen, accept. The only file that makes a socket.

A server socket binds a well-known port, listens, and is up day and night. Each accept takes one established connection
off its queue and gives it a socket of its own, with the same local port and the peer's ephemeral one: four numbers that
no other connection has at the same time.

What is set on the listening socket is inherited by every accepted one (on Linux), which saves calls per connection:
TCP_NODELAY, because answers leave in one piece and must not wait for an acknowledgement of the one before; SO_OOBINLINE,
so that urgent data stays in its place; SO_KEEPALIVE and TCP_USER_TIMEOUT, so that a peer whose cable was cut is noticed.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from rawservers.core.connection import READ, Connection, Service, name_of
from rawservers.core.loop import Loop

log = logging.getLogger("rawservers")

ACCEPTS_PER_WAKE = 64  # so that a burst of new connections does not keep the present ones waiting
PAUSE = 0.1  # seconds without accepting, at the least, after the system has refused a descriptor or memory
SHED = 32  # idle connections given up for it each time
QUEUE = 65536  # more than any backlog holds

# What accept reports of the one connection it took off the queue, see accept(2); the next may be well. All else (EMFILE,
# ENFILE, ENOBUFS, ENOMEM) is about ourselves.
PASSING = {
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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen: a host (None: every interface, IPv4 and IPv6) and a port (0: any free one), or a unix socket's path."""

    host: str | None = None
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """HOST:PORT, [IPV6]:PORT, PORT (loopback), :PORT (every interface) or unix:PATH. ValueError says what is wrong."""
        if text.startswith("unix:"):
            if text == "unix:":
                raise ValueError("unix: wants a path behind it")
            return cls(path=text.removeprefix("unix:"))
        match = re.fullmatch(r"(?:(?P<host>\[[^]]*]|[^:]*)(?P<colon>:))?(?P<port>[0-9]+)", text, re.ASCII)
        if match is None:
            raise ValueError(f"not an address: {text!r} (HOST:PORT, [IPV6]:PORT, PORT, :PORT or unix:PATH)")
        port = int(match["port"])
        if port > 65535:
            raise ValueError(f"not a port: {port} (the highest is 65535)")
        if not match["colon"]:
            return cls("127.0.0.1", port)
        return cls(match["host"].strip("[]") or None, port)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def bind(endpoint: Endpoint, user_timeout: float = 0) -> list[socket.socket]:
    """Listening sockets for `endpoint`: one, or one for each address of a host name that has several.

    user_timeout: seconds after which unacknowledged data ends a connection (0: the system's default). OSError when refused.
    """
    if endpoint.path is not None:
        return [_bind_unix(endpoint.path)]
    if endpoint.host is None:
        if socket.has_dualstack_ipv6():
            return [_bind_tcp(socket.AF_INET6, ("::", endpoint.port), user_timeout, dual=True)]
        return [_bind_tcp(socket.AF_INET, ("0.0.0.0", endpoint.port), user_timeout)]
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            if sockets and endpoint.port == 0:  # the same free port for each address of the name
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_bind_tcp(family, address, user_timeout))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_tcp(family: int, address: tuple[object, ...], user_timeout: float, dual: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # SO_REUSEADDR: a restart need not wait for the old connections' TIME_WAIT. Not SO_REUSEPORT: a second server on
        # the same port must be an error, not a silent sharer.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout * 1000))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        sock.bind(address)
        return _listen(sock)
    except OSError:
        sock.close()
        raise


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        return _listen(sock)
    except OSError:
        sock.close()
        raise


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more (its server was killed, say); a live one is left to its owner."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return  # bind will say that the address is in use
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _listen(sock: socket.socket) -> socket.socket:
    sock.listen(_backlog())
    sock.setblocking(False)
    return sock


def _backlog() -> int:
    """Connections the kernel may hold ready for accept: as many as it allows, so that a burst is queued, not refused."""
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return socket.SOMAXCONN


class Listener:
    """A source of the loop: accepts the connections of one server socket, and keeps the set of them."""

    def __init__(self, sock: socket.socket, service: Service, loop: Loop) -> None:
        self.service = service
        self.connections: set[Connection] = set()
        self._sock = sock
        self._loop = loop
        self._path = sock.getsockname() if sock.family == socket.AF_UNIX else None
        self._inode = os.stat(self._path).st_ino if self._path else 0
        self._paused = 0.0  # when accepting was paused; 0.0: it is not

    def __repr__(self) -> str:
        return f"{self.service.name} listener on {self.address}"

    @property
    def address(self) -> str:
        """The real address: what a client is to connect to."""
        host, port = name_of(self._sock.getsockname())
        if self._path:
            return host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def open(self) -> None:
        """Begin to accept."""
        self._loop.watch(self._sock.fileno(), self, READ)

    def ready(self, events: int) -> None:
        self._accept(ACCEPTS_PER_WAKE)

    def failed(self) -> None:
        pass  # the listener stays, whatever happened

    def _accept(self, most: int) -> None:
        """Accept up to `most` of the connections in the queue."""
        for _ in range(most):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in PASSING:
                    continue
                return self._pause(error)
            self._loop.clock.wake += 1  # this peer may have spoken later than the wake's poll
            connection = Connection(sock, name_of(address), self.service, self._loop, self.connections)
            self._loop.guard(connection, connection.begin)

    def _pause(self, error: OSError) -> None:
        """Stop accepting for a moment: the queue would report itself ready for ever, and nothing could be done about it."""
        expendable = sorted((c for c in self.connections if c.expendable), key=lambda c: c.since)[:SHED]
        log.warning(
            "cannot accept for %s: %s; pausing, and closing %d idle connections",
            self.service.name,
            error.strerror,
            len(expendable),
        )
        self._paused = self._loop.clock.now
        self._loop.watch(self._sock.fileno(), self, 0)
        for connection in expendable:
            self._loop.guard(connection, connection.close)

    def tick(self) -> None:
        """Once a second: the connections' deadlines, and the end of a pause."""
        for connection in tuple(self.connections):
            self._loop.guard(connection, connection.tick)
        if self._paused and self._loop.clock.now - self._paused >= PAUSE and self._sock.fileno() >= 0:
            self._paused = 0.0
            self.open()

    def close(self) -> None:
        """Take what is queued (nobody else will), then stop listening. The connections live on."""
        if self._sock.fileno() < 0:
            return
        self._accept(QUEUE)
        self._loop.watch(self._sock.fileno(), self, 0)
        self._sock.close()
        if self._path:
            self._unlink(self._path)

    def _unlink(self, path: str) -> None:
        try:
            if os.stat(path).st_ino == self._inode:  # not another server's, put there since
                os.unlink(path)
        except OSError as error:
            log.debug("cannot remove %s: %s", path, error.strerror)
