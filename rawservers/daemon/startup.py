"""Preparations before anything is served: process state, services, and the resources that the workers of a generation share."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

from rawservers.core.bind import Endpoint, ServerSocket, bind
from rawservers.core.errors import os_error_text
from rawservers.core.peer import Clock
from rawservers.core.protocol import ServiceSpec
from rawservers.daemon.privileges import Credentials, look_up_user
from rawservers.daemon.scoreboard import Metrics, make_status
from rawservers.logs.access import open_target
from rawservers.services import SERVICES, GetSockets, GetStatus, Report, make_service, resolve_listeners
from rawservers.settings import Config, ListenConfig

log = logging.getLogger("rawservers")

RESERVED_DESCRIPTORS = 64  # for everything that is neither a connection nor a cached open file

LOW_PORT_HINT = " (ports below 1024: start as root, use a systemd socket, or set net.ipv4.ip_unprivileged_port_start=0)"

Servers: TypeAlias = "dict[ServerSocket, ListenConfig]"  # with the listener of each, whose address is in the normal form


class CannotStart(Exception):
    """The server cannot start or reload. The message is one line: what failed, and why."""


@contextlib.contextmanager
def errors_as(kind: type[Exception], prefix: str = "") -> Iterator[None]:
    """A context, also a decorator, that turns an OSError or ValueError into a `kind`, with its text behind `prefix`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise kind(f"{prefix}{os_error_text(error)}") from error


def sanitize_process_state() -> None:
    """Open descriptors 0 to 2, unblock all signals, and tighten the umask."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free one: else the next socket, where output would go
        pass
    os.close(fd)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(os.umask(0o022) | 0o022)  # unix sockets and logs must not be writable by other users


def open_descriptors() -> list[int]:
    """The open descriptors of this process, without 0 to 2."""
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]


def make_services(
    config: Config, clock: Clock, report: Report, get_status: GetStatus, get_sockets: GetSockets = Future
) -> dict[str, ServiceSpec]:
    """The services of all listeners, by name.

    report: called at the end of each response, for the access log. Raises CannotStart, for example for an invalid header field.
    """
    services: dict[str, ServiceSpec] = {}
    for listen in resolve_listeners(config):
        name = listen.service
        if name not in SERVICES:
            raise CannotStart(f"unknown service {name!r} (known: {', '.join(SERVICES)})")
        with errors_as(CannotStart, f"cannot serve {name} on {listen.address}: "):
            services[name] = services.get(name) or make_service(name, config, clock, report, get_status, get_sockets)
    return services


def validate(config: Config) -> None:
    """Make all services, before anything is bound, to find mistakes early. Raises CannotStart."""
    make_services(config, Clock(), lambda *_: None, lambda: make_status(Metrics(), 0.0))


def bind_all(config: Config, existing: Mapping[ServerSocket, ListenConfig] = {}) -> Servers:
    """Server sockets for all listeners; those in `existing` are reused.

    Raises CannotStart, after closing all sockets that it has bound.
    """
    servers: Servers = {}
    make: Callable[..., socket.socket] = socket.socket
    if config.trace:
        from rawservers.logs.trace import traced_server_socket as make  # here, since it is seldom used
    try:
        for listen in resolve_listeners(config):
            endpoint = Endpoint.parse(listen.address)
            key = ListenConfig(listen.service, str(endpoint))  # in the normal form: 80 and 127.0.0.1:80 are the same
            if key not in servers.values():
                group = [server for server, other in existing.items() if other == key] or bind(endpoint, make)
                servers |= dict.fromkeys(group, key)
    except (OSError, ValueError) as error:
        for server in servers.keys() - existing.keys():
            server.close()
        low = isinstance(error, PermissionError) and not listen.address.startswith("unix:")
        raise CannotStart(f"cannot listen on {listen.address}: {os_error_text(error)}{LOW_PORT_HINT if low else ''}") from error
    for server in servers:
        server.tune(config.send_time)  # a reload may have changed it
    return servers


@dataclass(slots=True, eq=False)
class Resources:
    """What the workers of a generation share. access_log: a descriptor, -1 if it is off; credentials: None: unchanged."""

    config: Config
    servers: Servers
    access_log: int
    credentials: Credentials | None

    @classmethod
    def prepare(cls, config: Config, existing: Mapping[ServerSocket, ListenConfig] = {}) -> Resources:
        """Those for this configuration. They use `existing` server sockets where the addresses are the same.

        Raises CannotStart, after closing all that it has opened.
        """
        validate(config)
        with errors_as(CannotStart, f"cannot run as {config.user}: "):
            credentials = look_up_user(config.user)
        with errors_as(CannotStart, f"cannot open the access log {config.access_log}: "):
            resources = cls(config, {}, open_target(config.access_log), credentials)
        try:
            resources.servers = bind_all(config, existing)
        except CannotStart:
            resources.close()
            raise
        raise_descriptor_limit(config)
        return resources

    def log_addresses(self) -> None:
        """Log a line for each server socket."""
        for server, listen in self.servers.items():
            log.info("%s listening on %s", listen.service, SERVICES[listen.service].banner(self.config, server.address))

    def close(self, others: Collection[Resources] = (), in_worker: bool = False) -> None:
        """Close the access log, and the server sockets that no other generation uses.

        in_worker: in this process only; the files of unix sockets stay.
        """
        if self.access_log >= 0:
            os.close(self.access_log)
        for server in self.servers.keys() - {server for other in others for server in other.servers}:
            (server.sock if in_worker else server).close()


def raise_descriptor_limit(config: Config) -> None:
    """Raise RLIMIT_NOFILE to its hard limit, and warn if that is too low for `config`.

    The usual soft limit, 1024, is for programs that use select().
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = max_connections(config)
    if allowed < config.connections:
        log.warning("limits.connections reduced from %d to %d: descriptor limit too low", config.connections, allowed)
    elif not config.connections and allowed == 1:
        log.warning("limits.connections is 1: http.open_files = %d leaves no other descriptors", config.open_files)


def max_connections(config: Config) -> int:
    """Connections that a worker may have, by its configuration and its descriptor limit; at least 1."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(1, descriptors - config.open_files - RESERVED_DESCRIPTORS)
    return min(config.connections or highest, highest)


def connection_shares(config: Config) -> dict[str, int]:
    """Connections that each service may have in a worker. Default: half of all for HTTP and Telnet each, if both are served."""
    total = max_connections(config)
    configured = {"http": config.http_connections, "telnet": config.telnet_connections}
    default = max(1, total // 2) if configured.keys() <= {listen.service for listen in resolve_listeners(config)} else total
    return {name: min(number or default, total) for name, number in configured.items()}
