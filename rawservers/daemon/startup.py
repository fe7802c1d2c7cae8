"""Preparations before anything is served: process state, services, and the resources that the workers of a generation share."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from rawservers.config.checks import check_directory, check_log_file
from rawservers.core.bind import Endpoint, ServerSocket, bind
from rawservers.core.errors import os_error_text
from rawservers.core.peer import Clock
from rawservers.core.protocol import ServiceSpec
from rawservers.core.record import replace
from rawservers.daemon.privileges import Credentials, look_up_owner, look_up_user
from rawservers.daemon.scoreboard import Metrics, make_status
from rawservers.logs.access import open_target
from rawservers.services import DEFAULT_LISTENERS, SERVICES, Service, ServiceContext, is_local, make_service, resolve_listeners
from rawservers.settings import WELCOME, Config, ConfigError, ListenConfig, TLSConfig

if TYPE_CHECKING:
    from ssl import SSLContext

log = logging.getLogger("rawservers")

# Modules that a worker imports only when it needs them. Its user may not be allowed to read them.
IMPORTED_LATE = ("hashlib", "ipaddress", "json")
IMPORTED_FOR_SOCKETS = ("rawservers.daemon.socket_table",)  # for the table of them
IMPORTED_FOR_TRACE = ("rawservers.core.trace_tls", "rawservers.logs.trace")

RESERVED_DESCRIPTORS = 64  # for everything that is neither a connection nor a cached open file

# Signals that would end the process, and mean nothing to it; not those of a fault in it, which dump core.
IGNORED = {
    signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR, signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
}  # fmt: skip
EARLY = {signal.SIGHUP, signal.SIGUSR1}  # wait until the supervisor has handlers for them; `__main__` blocks them at once

SANDBOX_HINT = (
    " (systemd has passed no socket for it, and the unit may open none: enable a socket unit, or remove the listener)"
)
IN_USE_HINTS = {  # for the default addresses, by service
    "http": " (choose another port with -p)",
    "telnet": " (choose another port with --telnet, or do without: --telnet off)",
}
LOW_PORT_HINT = " (ports below 1024: start as root, use a systemd socket, or set net.ipv4.ip_unprivileged_port_start=0)"

Servers: TypeAlias = "dict[ServerSocket, ListenConfig]"  # with the listener of each, whose address is in the normal form


TLSContexts: TypeAlias = "dict[tuple[str, tuple[TLSConfig, ...]], SSLContext]"  # by service and certificates


class CannotStart(Exception):
    """The server cannot start or reload. The message is one line: what failed, and why."""


class NotRunning(CannotStart):
    """There is no server to ask."""


@contextlib.contextmanager
def errors_as(kind: type[Exception], prefix: str = "", suffix: str = "") -> Iterator[None]:
    """A context, also a decorator, that turns an OSError, ValueError or ConfigError into a `kind`, its text within these."""
    try:
        yield
    except (OSError, ValueError, ConfigError) as error:
        raise kind(f"{prefix}{os_error_text(error)}{suffix}".replace("\n", "; ")) from error


def sanitize_process_state() -> None:
    """Open descriptors 0 to 2, tighten the umask, ignore the signals IGNORED, and unblock all but EARLY."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free one: else the next socket, where output would go
        pass
    os.close(fd)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, EARLY)
    os.umask(os.umask(0o022) | 0o022)  # unix sockets and logs must not be writable by other users


def open_descriptors() -> list[int]:
    """The open descriptors of this process, without 0 to 2."""
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]


def make_services(config: Config, context: ServiceContext, table: Mapping[str, Service] = SERVICES) -> dict[str, ServiceSpec]:
    """The services of all listeners, by name. Raises CannotStart, for example for an invalid header field."""
    services: dict[str, ServiceSpec] = {}
    for listen in resolve_listeners(config):
        name = listen.service
        if name not in table:
            raise CannotStart(f"unknown service {name!r} (known: {', '.join(table)})")
        with errors_as(CannotStart, f"cannot serve {name} on {listen.address}: "):
            services[name] = services.get(name) or make_service(name, config, context, table)
    return services


def check_names(config: Config, table: Mapping[str, Service] = SERVICES) -> None:
    """Raise ValueError, which names the field, if a service or a document root does not exist, or there is no listener."""
    for number, listen in enumerate(config.listen or ()):
        if listen.service not in table:
            raise ValueError(f"listen[{number}].service: expected one of {', '.join(table)}, not {listen.service!r}")
    if not resolve_listeners(config):
        raise ValueError("listen: nothing to serve")
    for number, site in enumerate(config.sites):
        with errors_as(ValueError, f"sites[{number}].root: "):
            if site.root != WELCOME:
                check_directory(site.root)


def read_users(config: Config) -> Mapping[str, Any]:
    """The files of users. Raises ConfigError."""
    if not any(site.auth for site in config.sites):
        return {}
    from rawservers.http.users import read_all_users  # here, since most starts have no use for it

    return read_all_users(config.sites)


def validate(config: Config, table: Mapping[str, Service] = SERVICES) -> Mapping[str, Any]:
    """Make all services, before anything is bound, to find mistakes early. The files of users that were read for that.

    Raises CannotStart or ConfigError.
    """
    users = read_users(config)
    context = ServiceContext(Clock(), lambda *_: None, lambda: make_status(Metrics(), 0.0), users=users)
    make_services(config, context, table)
    return users


def load_contexts(config: Config, table: Mapping[str, Service] = SERVICES) -> TLSContexts:
    """The TLS contexts of all listeners. Raises CannotStart, with the file."""
    contexts: TLSContexts = {}
    warnings: set[str] = set()
    for listen in resolve_listeners(config):
        if listen.tls and (listen.service, listen.tls) not in contexts:
            import rawservers.core.tls  # noqa: F401  # here, since it loads OpenSSL, and before privileges are dropped
            from rawservers.core.certificates import Certificate, is_exposed, load_context, validity_warning

            certificates = [Certificate(each.certificate, each.key, each.hosts) for each in listen.tls]
            with errors_as(CannotStart, f"cannot serve {listen.name} on {listen.address}: "):
                context = load_context(certificates, table[listen.service].protocols)
                for each in certificates:
                    if is_exposed(key := each.key or each.path):
                        warnings.add(f"{key}: any user of this system can read this private key")
                    if warning := validity_warning(each.path, time.time()):
                        warnings.add(f"{each.path}: {warning}")
            contexts[listen.service, listen.tls] = context
    for warning in sorted(warnings):
        log.warning("%s", warning)
    return contexts


def check(config: Config) -> None:
    """Do what can be done of a start without an effect: for --check. Raises CannotStart or ConfigError."""
    validate(config)
    load_contexts(config)
    if config.access_log not in {"-", "off"}:
        with errors_as(CannotStart):
            check_log_file(config.access_log)
    for listen in resolve_listeners(config):
        path = Endpoint.parse(listen.address).path
        is_default = listen.address == SERVICES[listen.service].address  # the unit of systemd makes its directory
        if path and not is_default and not os.path.isdir(os.path.dirname(path) or "."):
            raise CannotStart(f"cannot listen on {listen.address}: no such directory")


def bind_all(
    config: Config, existing: Mapping[ServerSocket, ListenConfig] = {}, credentials: Credentials | None = None
) -> Servers:
    """Server sockets for all listeners; those in `existing` are reused. credentials: of the workers.

    Raises CannotStart, after closing all sockets that it has bound.
    """
    servers: Servers = {}
    make: Callable[..., socket.socket] = socket.socket
    if config.trace:
        from rawservers.logs.trace import traced_server_socket as make  # here, since it is seldom used
    try:
        for listen in resolve_listeners(config):
            endpoint = Endpoint.parse(listen.address)
            normal = replace(listen, address=str(endpoint))  # 80 and 127.0.0.1:80 are the same
            is_any = endpoint.fd is None and not (endpoint.path or endpoint.port)  # port 0: each time another one
            if is_any or not any(is_same(normal, other) for other in servers.values()):
                unused = [server for server, other in existing.items() if is_same(normal, other) and server not in servers]
                group = [server for server in unused if server.port == unused[0].port] or bind(endpoint, make)
                servers |= dict.fromkeys(group, normal)
                for server in group:
                    server.set_access(listen.mode, *look_up_owner(listen.owner, listen.group, credentials))
    except (OSError, ValueError) as error:
        for server in servers.keys() - existing.keys():
            server.close()
        hint = ""
        if isinstance(error, PermissionError) and not endpoint.path:
            hint = LOW_PORT_HINT
        elif isinstance(error, OSError) and error.errno == errno.EADDRINUSE and normal in DEFAULT_LISTENERS:
            hint = IN_USE_HINTS[listen.service]
        elif (
            isinstance(error, OSError)
            and error.errno == errno.EAFNOSUPPORT
            and not endpoint.path
            and os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())  # not if it was only inherited
        ):
            hint = SANDBOX_HINT
        raise CannotStart(f"cannot listen on {endpoint}: {os_error_text(error)}{hint}") from error
    for server in servers:
        server.tune(config.send_time)  # a reload may have changed it
    return servers


def is_same(one: ListenConfig, other: ListenConfig) -> bool:
    """Whether two listeners, whose addresses are in the normal form, are one socket of one service."""
    return (one.service, one.address) == (other.service, other.address)


class Resources:
    """What the workers of a generation share.

    access_log: a descriptor, -1 if it is off; credentials: None: unchanged; table: of the services, by name; source: the
    content of the configuration file, b"" if there is none; users: the files of users, by path, as they were read before the
    workers drop their privileges; contexts: for TLS, made before the workers, which so share the keys of session tickets.
    """

    def __init__(
        self,
        config: Config,
        servers: Servers,
        access_log: int,
        credentials: Credentials | None,
        table: Mapping[str, Service] = SERVICES,
        users: Mapping[str, Any] = {},
        contexts: Mapping[tuple[str, tuple[TLSConfig, ...]], SSLContext] = {},
    ) -> None:
        self.config, self.servers, self.access_log, self.credentials = config, servers, access_log, credentials
        self.table, self.source, self.users, self.contexts = table, b"", users, contexts

    @classmethod
    def prepare(
        cls,
        config: Config,
        existing: Mapping[ServerSocket, ListenConfig] = {},
        raise_limit: bool = True,
        table: Mapping[str, Service] = SERVICES,
    ) -> Resources:
        """Those for this configuration. They use `existing` server sockets where the addresses are the same.

        raise_limit: whether to raise this process's limit of open files.
        Raises CannotStart or ConfigError, after closing all that it has opened.
        """
        users = validate(config, table)
        contexts = load_contexts(config, table)
        with errors_as(CannotStart, f"cannot run as {config.user}: "):
            credentials = look_up_user(config.user)
        late: tuple[str, ...] = IMPORTED_FOR_SOCKETS if shows_sockets(config) else ()
        if config.telnet_service is not None:
            late += ("inspect",)
        if credentials:
            late += (*IMPORTED_LATE, *(IMPORTED_FOR_TRACE if config.trace else ()))
        for name in late:
            import_module(name)
        with errors_as(CannotStart, f"cannot open the access log {config.access_log}: "):
            resources = cls(config, {}, -1, credentials, table, users=users, contexts=contexts)
            resources.access_log = resources.open_log()
        try:
            resources.servers = servers = bind_all(config, existing, credentials)
        except CannotStart:
            resources.close()
            raise
        listen = tuple(replace(each, address=server.address) for server, each in servers.items())
        resources.config = replace(config, listen=listen)  # the bound addresses, for the welcome page
        if raise_limit:
            raise_descriptor_limit(config)
        return resources

    def open_log(self) -> int:
        """A new descriptor for the access log. Raises OSError."""
        return open_target(self.config.access_log, self.credentials[0] if self.credentials else 0)

    def log_addresses(self) -> None:
        """Log a line for each server socket, and a warning if passwords can be read on the way to it."""
        for server, listen in self.servers.items():
            bound = replace(listen, address=server.address)
            proxies = f" (with a PROXY header from {', '.join(listen.proxy_protocol)})" * bool(listen.proxy_protocol)
            log.info("%s listening on %s%s", listen.name, SERVICES[listen.service].banner(self.config, bound), proxies)
            if self.users and listen.service == "http" and not (listen.tls or is_local(server.address)):
                log.warning("passwords for http on %s are sent unencrypted: there is no TLS", server.address)

    def close(self, others: Collection[Resources] = (), in_worker: bool = False) -> None:
        """Close the access log, and the server sockets that no other generation uses.

        in_worker: in this process only; the files of unix sockets stay.
        """
        if self.access_log >= 0:
            os.close(self.access_log)
        for server in self.servers.keys() - {server for other in others for server in other.servers}:
            (server.sock if in_worker else server).close()


def shows_sockets(config: Config) -> bool:
    """Whether a service shows the table of all sockets: the status service, or the welcome page."""
    return any(listen.service == "status" for listen in resolve_listeners(config)) or any(
        site.root == WELCOME for site in config.sites
    )


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
