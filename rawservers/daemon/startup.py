"""Preparations before anything is served: process state, services, the access log, server sockets, descriptor limits."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from rawservers.core.bind import Endpoint, ServerSocket, bind
from rawservers.core.errors import os_error_text
from rawservers.core.peer import Clock
from rawservers.core.protocol import ServiceSpec
from rawservers.logs.access import open_target
from rawservers.services import SERVICES, GetStatus, Report, make_service, resolve_listeners
from rawservers.settings import Config, ListenConfig
from rawservers.status import Status

log = logging.getLogger("rawservers")

RESERVED_DESCRIPTORS = 64  # for everything that is neither a connection nor a cached open file

LOW_PORT_HINT = " (ports below 1024: start as root, use a systemd socket, or set net.ipv4.ip_unprivileged_port_start=0)"

Servers: TypeAlias = "dict[ListenConfig, list[ServerSocket]]"  # by listener, with its address in the normal form


class CannotStart(Exception):
    """The server cannot start or reload. The message is one line: what failed, and why."""


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


def make_services(config: Config, clock: Clock, report: Report, get_status: GetStatus) -> dict[str, ServiceSpec]:
    """The services of all listeners, by name.

    report: called at the end of each response, for the access log. Raises CannotStart, for example for an invalid header field.
    """
    services: dict[str, ServiceSpec] = {}
    for listen in resolve_listeners(config):
        name = listen.service
        if name not in SERVICES:
            raise CannotStart(f"unknown service {name!r} (known: {', '.join(SERVICES)})")
        try:
            services[name] = services.get(name) or make_service(name, config, clock, report, get_status)
        except (OSError, ValueError) as error:
            raise CannotStart(f"cannot serve {name} on {listen.address}: {os_error_text(error)}") from error
    return services


def validate(config: Config) -> None:
    """Make all services, before anything is bound, to find mistakes early. Raises CannotStart."""

    def no_status() -> Status:
        raise AssertionError("these services serve no requests")

    make_services(config, Clock(), lambda *_: None, no_status)


def bind_all(config: Config, existing: Mapping[ListenConfig, list[ServerSocket]] = {}) -> Servers:
    """Server sockets for all listeners; those in `existing` are reused.

    Raises CannotStart, after closing all sockets that it has bound.
    """
    servers: Servers = {}
    try:
        for listen in resolve_listeners(config):
            endpoint = Endpoint.parse(listen.address)
            key = ListenConfig(listen.service, str(endpoint))  # in the normal form: 80 and 127.0.0.1:80 are the same
            servers[key] = servers.get(key) or existing.get(key) or bind(endpoint)
    except (OSError, ValueError) as error:
        for server in all_servers({key: servers[key] for key in servers.keys() - existing.keys()}):
            server.close()
        low = isinstance(error, PermissionError) and not listen.address.startswith("unix:")
        raise CannotStart(f"cannot listen on {listen.address}: {os_error_text(error)}{LOW_PORT_HINT if low else ''}") from error
    for server in all_servers(servers):
        server.tune(config.send_time)  # a reload may have changed it
    return servers


def all_servers(servers: Servers) -> Iterable[ServerSocket]:
    """The server sockets of all listeners."""
    return (server for group in servers.values() for server in group)


def log_addresses(config: Config, servers: Servers) -> None:
    """Log a line for each server socket."""
    for listen, group in servers.items():
        for server in group:
            log.info("%s listening on %s", listen.service, SERVICES[listen.service].banner(config, server.address))


def open_access_log(config: Config) -> int:
    """A descriptor for writing the access log, -1 if it is off. Raises CannotStart."""
    try:
        return open_target(config.access_log)
    except OSError as error:
        raise CannotStart(f"cannot open the access log {config.access_log}: {os_error_text(error)}") from error


def close_access_log(fd: int) -> None:
    """Close it, unless it is off."""
    if fd >= 0:
        os.close(fd)


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
