"""Server sockets: socket, bind, listen. The only file that makes them.

A server socket binds a well-known port, and listens for as long as the server runs.

Options of the listening socket are inherited by every accepted one (on Linux), which saves calls per connection:
TCP_NODELAY, because answers leave in one piece and must not wait for the acknowledgement of the previous one; SO_OOBINLINE,
so that urgent data stays in its place; SO_KEEPALIVE and TCP_USER_TIMEOUT, so that the loss of a peer is noticed: the first one
while nothing is under way, the other one while something is.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from rawservers.core import unix
from rawservers.core.peer import peer_address

# Groups: descriptor, path, host, port.
ADDRESS = re.compile(r"fd:([0-9]{1,9})|unix:((?s:.+))|(?:(\[[^]]*]|[^:]*):)?([0-9]+)", re.ASCII)

# A host without a port: an IPv6 address, which has no brackets (the group) or some, an IPv4 address, or a name.
HOST = re.compile(
    r"((?=[^:]*:[^:]*:)[0-9A-Fa-f:.]+(?:%[\w.-]+)?)|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?]|[A-Za-z0-9._-]*[A-Za-z.][A-Za-z0-9._-]*",
    re.ASCII,
)

# Length of the accept queue: the kernel lowers it to net.core.somaxconn. A burst of connections is to be queued, not refused.
BACKLOG = 0x7FFFFFFF

# Seconds of silence before the first keepalive probe, and between two. By the system's defaults, 7200 and 75, a peer that has
# vanished would be noticed after two hours.
KEEP_IDLE, KEEP_INTERVAL = 60, 10


class Endpoint(NamedTuple):
    """An address to listen on: host (None: all interfaces, IPv4 and IPv6) and port (0: a free one), the path of a unix socket,
    or the descriptor of a socket that is listening already."""

    host: str | None = None
    port: int = 0
    path: str | None = None
    fd: int | None = None

    @classmethod
    def parse(cls, text: str, port: str = "PORT") -> Endpoint:
        """HOST:PORT, [IPV6]:PORT, PORT (loopback), :PORT (everywhere), unix:PATH or fd:N. Raises ValueError with a message.

        port: the one that the message for a host without a port suggests.
        """
        if not (match := ADDRESS.fullmatch(text)):
            if found := written_host(text):
                raise ValueError(f"not an address: {text!r}: add a port: {found}:{port}")
            raise ValueError(f"not an address: {text!r} (HOST:PORT, [IPV6]:PORT, PORT, :PORT or unix:PATH)")
        fd, path, host, number = match.groups()
        if fd or path:
            return cls(path=path, fd=int(fd) if fd else None)
        if len(number) > 9 or int(number) > 65535:
            raise ValueError(f"not a port: {number[:20]} (the highest is 65535)")
        return cls("127.0.0.1" if host is None else host.strip("[]") or None, int(number))

    def __str__(self) -> str:
        if self.fd is not None:
            return f"fd:{self.fd}"
        if self.path is not None:
            return f"unix:{self.path}"
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def written_host(text: str) -> str:
    """A host as it stands before a port: an IPv6 address gets brackets. "" if `text` is none, or has a port."""
    found = HOST.fullmatch(text)
    return f"[{text}]" if found and found[1] else text if found else ""


class ServerSocket:
    """A bound socket that listens, with the options that accepted sockets inherit.

    owned: whether this server has bound it, so that only its own workers accept from it. address: the bound one, as text; port:
    0 for a unix socket.
    """

    def __init__(self, sock: socket.socket, owned: bool = True) -> None:
        name = sock.getsockname()
        is_unix = sock.family == socket.AF_UNIX
        sock.setblocking(False)
        self.sock, self.owned = sock, owned
        self.address = str(Endpoint(path=name) if is_unix else Endpoint(*peer_address(name)))
        self.port: int = 0 if is_unix else name[1]
        self._path = name if owned and is_unix else ""
        self._inode = os.lstat(name).st_ino if self._path else 0
        if not is_unix:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_INTERVAL)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def tune(self, user_timeout: float) -> None:
        """Set the TCP_USER_TIMEOUT that accepted sockets inherit, in seconds (0: the system's default)."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout * 1000))

    def set_access(self, mode: int | None, uid: int, gid: int) -> None:
        """Set mode (None: unchanged), user and group (-1: unchanged) of a unix socket's file. Raises OSError."""
        if self._path:
            unix.set_access(self._path, self._inode, mode, uid, gid)

    def close(self) -> None:
        """Close the socket in this process, and remove a unix socket's file, unless another server has replaced it."""
        self.sock.close()
        path, self._path = self._path, ""
        if path:
            unix.remove(path, self._inode)


def bind(endpoint: Endpoint, make: Callable[..., socket.socket] = socket.socket) -> list[ServerSocket]:
    """Server sockets for `endpoint`: one, or one for each address of a host name that has several. make: makes the sockets.

    Raises OSError, and ValueError for a descriptor that is not a listening stream socket.
    """
    if endpoint.fd is not None:
        return [ServerSocket(_inherit(endpoint.fd, make), owned=False)]
    if endpoint.path is not None:
        with unix.locked(endpoint.path):
            unix.remove_stale(endpoint.path)
            return [_bind(make, socket.AF_UNIX, endpoint.path)]
    if endpoint.host is None and socket.has_dualstack_ipv6():
        return [_bind(make, socket.AF_INET6, ("::", endpoint.port), dual=True)]
    host = endpoint.host or "0.0.0.0"  # noqa: S104  # as asked for, by ":PORT"
    name = host.encode() if host.isascii() else host  # text loads the tables of IDNA
    servers: list[ServerSocket] = []
    try:
        for family, *_, address in socket.getaddrinfo(name, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            if servers and endpoint.port == 0:  # the same port for all addresses of the name
                address = (address[0], servers[0].sock.getsockname()[1], *address[2:])
            servers.append(_bind(make, family, address))
    except OSError:
        for server in servers:
            server.close()
        raise
    return servers


def _inherit(fd: int, make: Callable[..., socket.socket]) -> socket.socket:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise ValueError("not a socket")
    sock = make(fileno=fd)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise ValueError("not a stream socket that listens")
    sock.set_inheritable(False)
    return sock


def _bind(make: Callable[..., socket.socket], family: int, address: Any, dual: bool = False) -> ServerSocket:
    """dual: for an IPv6 socket, whether it accepts IPv4 connections as well."""
    sock = make(family, socket.SOCK_STREAM)
    try:
        # SO_REUSEADDR: a restart need not wait for the TIME_WAIT of old connections. Not SO_REUSEPORT: a second server on
        # the same port must fail, instead of getting a share of the connections.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        if family == socket.AF_UNIX:
            os.fchmod(sock.fileno(), 0o755)  # the mode of the file, less the umask: others may not connect
        sock.bind(address)
        server = ServerSocket(sock)  # sets its options before the first connection
        sock.listen(BACKLOG)
        return server
    except OSError:
        sock.close()
        raise
