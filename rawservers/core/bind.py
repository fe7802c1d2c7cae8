"""Server sockets: socket, bind, listen. The only file that makes them.

A server socket binds a well-known port, and listens for as long as the server runs.

Options of the listening socket are inherited by every accepted one (on Linux), which saves calls per connection:
TCP_NODELAY, because answers leave in one piece and must not wait for the acknowledgement of the previous one; SO_OOBINLINE,
so that urgent data stays in its place; SO_KEEPALIVE and TCP_USER_TIMEOUT, so that the loss of a peer is noticed.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from rawservers.core.peer import peer_address

log = logging.getLogger("rawservers")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to listen on: host (None: all interfaces, IPv4 and IPv6) and port (0: a free one), the path of a unix socket,
    or the descriptor of a socket that is listening already."""

    host: str | None = None
    port: int = 0
    path: str | None = None
    fd: int | None = None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """HOST:PORT, [IPV6]:PORT, PORT (loopback), :PORT (everywhere), unix:PATH or fd:N. Raises ValueError with a message."""
        if match := re.fullmatch("fd:([0-9]{1,9})", text, re.ASCII):
            return cls(fd=int(match[1]))
        if text.startswith("unix:"):
            if text == "unix:":
                raise ValueError("unix: wants a path behind it")
            return cls(path=text.removeprefix("unix:"))
        match = re.fullmatch(r"(?:(?P<host>\[[^]]*]|[^:]*)(?P<colon>:))?(?P<port>[0-9]+)", text, re.ASCII)
        if match is None:
            raise ValueError(f"not an address: {text!r} (HOST:PORT, [IPV6]:PORT, PORT, :PORT, unix:PATH or fd:N)")
        port = int(match["port"])
        if port > 65535:
            raise ValueError(f"not a port: {port} (the highest is 65535)")
        if not match["colon"]:
            return cls("127.0.0.1", port)
        return cls(match["host"].strip("[]") or None, port)

    def __str__(self) -> str:
        if self.fd is not None:
            return f"fd:{self.fd}"
        if self.path is not None:
            return f"unix:{self.path}"
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class ServerSocket:
    """A socket that is bound and listens.

    owned: whether this server has bound it, so that only its own workers accept from it. address: the bound one, as text.
    """

    def __init__(self, sock: socket.socket, owned: bool = True) -> None:
        self.sock = sock
        self.owned = owned
        host, port = peer_address(sock.getsockname())
        self.address = host if sock.family == socket.AF_UNIX else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._path = sock.getsockname() if owned and sock.family == socket.AF_UNIX else None
        self._inode = os.stat(self._path).st_ino if self._path else 0

    def tune(self, user_timeout: float) -> None:
        """Set the options that accepted sockets inherit. user_timeout: TCP_USER_TIMEOUT, in seconds."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout * 1000))

    def close(self) -> None:
        """Close the socket in this process, and remove a unix socket's file, unless another server has replaced it."""
        self.sock.close()
        path, self._path = self._path, None
        if path:
            try:
                if os.stat(path).st_ino == self._inode:
                    os.unlink(path)
            except OSError as error:
                log.debug("cannot remove %s: %s", path, error.strerror)


def bind(endpoint: Endpoint, user_timeout: float = 0) -> list[ServerSocket]:
    """Server sockets for `endpoint`: one, or one for each address of a host name that has several.

    user_timeout: see `ServerSocket.tune` (0: the system's default). Raises OSError, and ValueError for a descriptor that is
    not a listening stream socket.
    """
    servers = _bind(endpoint)
    for server in servers:
        server.tune(user_timeout)
    return servers


def _bind(endpoint: Endpoint) -> list[ServerSocket]:
    if endpoint.fd is not None:
        return [ServerSocket(_inherit(endpoint.fd), owned=False)]
    if endpoint.path is not None:
        return [ServerSocket(_bind_unix(endpoint.path))]
    if endpoint.host is None:
        if socket.has_dualstack_ipv6():
            return [ServerSocket(_bind_tcp(socket.AF_INET6, ("::", endpoint.port), dual=True))]
        return [ServerSocket(_bind_tcp(socket.AF_INET, ("0.0.0.0", endpoint.port)))]  # noqa: S104  # as asked for, by ":PORT"
    servers: list[ServerSocket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            if servers and endpoint.port == 0:  # the same port for all addresses of the name
                address = (address[0], servers[0].sock.getsockname()[1], *address[2:])
            servers.append(ServerSocket(_bind_tcp(family, address)))
    except OSError:
        for server in servers:
            server.close()
        raise
    return servers


def _inherit(fd: int) -> socket.socket:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise ValueError("not a socket")
    sock = socket.socket(fileno=fd)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise ValueError("not a stream socket that listens")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _bind_tcp(family: int, address: tuple[object, ...], dual: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # SO_REUSEADDR: a restart need not wait for the TIME_WAIT of old connections. Not SO_REUSEPORT: a second server on
        # the same port must fail, instead of getting a share of the connections.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
    """Remove the file of a unix socket that no process listens on any more, because its server was killed."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return  # bind will fail with EADDRINUSE
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # the accept queue of a live server may be full
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            return


def _listen(sock: socket.socket) -> socket.socket:
    sock.listen(_backlog())
    sock.setblocking(False)
    return sock


def _backlog() -> int:
    """The length of the accept queue: the maximum of the system, so that a burst of connections is queued, not refused."""
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return socket.SOMAXCONN
