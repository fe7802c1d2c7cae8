"""What happens before anything is served: the surroundings, descriptors, the access log and the server sockets."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from rawservers.core.bind import Endpoint, ServerSocket, bind
from rawservers.core.connection import ServiceSpec
from rawservers.core.errors import os_error_text
from rawservers.core.peer import Clock
from rawservers.logs.access import open_target
from rawservers.services import SERVICES, Report, of_requests
from rawservers.settings import Config, ListenConfig
from rawservers.status import Page, Status

log = logging.getLogger("rawservers")

RESERVE = 64  # descriptors for everything that is neither a connection nor a large file kept open

LOW_PORT = (
    " (a port below 1024 is root's: start as root, through a systemd socket, or after"
    " sysctl net.ipv4.ip_unprivileged_port_start=0)"
)

Servers: TypeAlias = "dict[ListenConfig, list[ServerSocket]]"  # for each of Config.listen


class CannotStart(Exception):
    """What could not be done, and why, in one line."""


def normalise() -> None:
    """Whatever the surroundings were that this process began in, have them as it expects them."""
    for fd in range(3):  # closed, it would be the number of the next socket, which would take what is printed
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(os.umask(0o022) | 0o022)  # neither sockets nor logs are for everybody to write to


def descriptors() -> list[int]:
    """What is open in this process, but for its standard input, output and error."""
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]


def services(config: Config, clock: Clock, report: Report, look: Callable[[], Status]) -> dict[str, ServiceSpec]:
    """The services that `config` asks for, by name. Raises CannotStart for what cannot be served, such as a bad header."""

    def status(config: Config, clock: Clock, report: Report) -> ServiceSpec:
        return ServiceSpec("status", Page(look).start, of_requests(config), lambda *_: None)

    table = SERVICES | {"status": status}
    made: dict[str, ServiceSpec] = {}
    for listen in config.listen:
        name = listen.service
        if name not in table:
            raise CannotStart(f"no such service: {name} (there are {', '.join(table)})")
        try:
            made[name] = made.get(name) or table[name](config, clock, report)
        except (OSError, ValueError) as error:
            raise CannotStart(f"cannot serve {name} on {listen.address}: {os_error_text(error)}") from error
    return made


def rehearse(config: Config) -> dict[str, ServiceSpec]:
    """What `services` gives, or raises, for banners and before anything is bound; not to be served."""

    def nothing() -> Status:
        raise AssertionError("a rehearsal has no public")

    return services(config, Clock(), lambda *_: None, nothing)


def bind_all(config: Config, known: Mapping[ListenConfig, list[ServerSocket]] = {}) -> Servers:
    """Server sockets for all of `config.listen`; those that are known are taken over. CannotStart leaves none behind."""
    servers: Servers = {}
    try:
        for listen in dict.fromkeys(config.listen):
            endpoint = Endpoint.parse(listen.address)
            key = ListenConfig(
                listen.service, str(endpoint)
            )  # not the address as it was written: 80 and 127.0.0.1:80 are the same
            servers[key] = servers.get(key) or known.get(key) or bind(endpoint, config.send_time)
    except (OSError, ValueError) as error:
        for key in servers.keys() - known.keys():
            for server in servers[key]:
                server.close()
        low = isinstance(error, PermissionError) and not listen.address.startswith("unix:")
        raise CannotStart(f"cannot listen on {listen.address}: {os_error_text(error)}{LOW_PORT if low else ''}") from error
    for server in all_of(servers):
        server.tune(config.send_time)  # which may be another than when it was bound
    return servers


def all_of(servers: Servers) -> Iterable[ServerSocket]:
    return (server for group in servers.values() for server in group)


def announce(services: Mapping[str, ServiceSpec], servers: Servers) -> None:
    """Log what is served where."""
    for listen, group in servers.items():
        for server in group:
            log.info("%s listening on %s", listen.service, services[listen.service].banner(server.address))


def open_log(config: Config) -> int:
    """A descriptor to write the access log to. Raises CannotStart."""
    try:
        return open_target(config.access_log)
    except OSError as error:
        raise CannotStart(f"cannot write the access log {config.access_log}: {os_error_text(error)}") from error


def close_log(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def raise_descriptor_limit(config: Config) -> None:
    """Each connection takes a descriptor, and the usual limit of 1024 is there for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if room(config) < config.connections:
        log.warning("only %d connections at once, not %d: more descriptors are not allowed", room(config), config.connections)
    elif not config.connections and room(config) == 1:
        log.warning("only 1 connection at once: http.open_files is for %d files, all descriptors there are", config.open_files)


def room(config: Config) -> int:
    """How many connections a worker may have, by its configuration and the descriptors it is allowed."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(1, allowed - config.open_files - RESERVE)
    return min(config.connections or most, most)


def shares(config: Config) -> dict[str, int]:
    """How many connections each service may have. Each of HTTP and Telnet by default half of all, if both are given."""
    total = room(config)
    wanted = {"http": config.http_connections, "telnet": config.telnet_connections}
    default = max(1, total // 2) if wanted.keys() <= {listen.service for listen in config.listen} else total
    return {name: min(number or default, total) for name, number in wanted.items()}
