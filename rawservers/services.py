"""The table of services, and the only file that imports both protocols.

What only some servers serve is imported when it is prepared: before the workers are forked, which so share it.

Another service is a class and a call:

    class Shout(Protocol):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[bytes]:
            return (data.upper(),)

    add_service("shout", lambda peer: Shout(), "127.0.0.1:7007", {Deadline.IDLE: 60})
    serve(Config(listen=(ListenConfig("shout", ":7007"),)))
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from os import fsencode
from typing import TYPE_CHECKING, Any, TypeAlias

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Deadline, Protocol, Refusal, ServiceSpec
from rawservers.core.record import Record
from rawservers.http.auth import Protection, Verify
from rawservers.http.cache import FreshnessClock, ResponseCache
from rawservers.http.conversation import Conversation
from rawservers.http.files import FileCache
from rawservers.http.health import Health
from rawservers.http.request import Request
from rawservers.http.response import Response
from rawservers.http.router import Router
from rawservers.http.site import Site
from rawservers.settings import WELCOME, Config, ListenConfig

if TYPE_CHECKING:
    from rawservers.sockets import Sockets
    from rawservers.status import Status
    from rawservers.telnet.session import Session

log = logging.getLogger("rawservers")

# Metrics are named SERVICE.COUNTER; those of "log" and "wakes" are of no service.
NAME = "(?!(?:log|wakes)$)[a-z][a-z0-9-]{0,30}"

Start: TypeAlias = Callable[[Peer], Protocol]
Report: TypeAlias = Callable[[Peer, object, int, float], None]  # peer, access record, bytes sent, seconds taken
GetStatus: TypeAlias = "Callable[[], Status]"
GetSockets: TypeAlias = "Callable[[], Future[Sockets]]"


class ServiceContext(Record):
    """What a service gets of the worker that it runs in.

    report: called at the end of each response, for the access log. users: the files of users of `Config.sites`, by path.
    is_stopping: whether a stop of the whole server was announced.
    """

    clock: Clock
    report: Report
    get_status: GetStatus
    get_sockets: GetSockets = Future
    users: Mapping[str, Any] = {}
    is_stopping: Callable[[], bool] = lambda: False


class Service(Record):
    """A row of the table.

    prepare:   called once in each worker; makes the function that starts a conversation. Raises OSError or ValueError
    address:   the default one; "": none
    deadlines: in seconds, or the names of the fields of Config that say them; those of the core excepted
    banner:    an address as it is logged at start-up
    is_logged: whether responses go to the access log
    refuse:    as `prepare`, for a peer that speaks without TLS where TLS is expected
    protocols: names for ALPN
    client_first: see ServiceSpec
    """

    prepare: Callable[[Config, ServiceContext], Start]
    address: str
    deadlines: Mapping[Deadline, float | str]
    banner: Callable[[Config, ListenConfig], str] = lambda config, listen: listen.address
    is_logged: bool = True
    refuse: Callable[[Config, ServiceContext], Start] = lambda config, context: lambda peer: Refusal()
    protocols: tuple[str, ...] = ()
    client_first: bool = False


def prepare_http(config: Config, context: ServiceContext) -> Start:
    """HTTP/1.0: files and handlers."""
    freshness = FreshnessClock(context.clock)
    cache = ResponseCache(freshness, config.answers, config.answer_bytes, bool(config.trusted_proxies))
    file_cache = FileCache(config.files, config.file_bytes, config.open_files)
    kinds: dict[str, Callable[..., Site]] = {}
    if any(site.root == WELCOME for site in config.sites):
        from rawservers.welcome.site import WelcomeSite

        kinds[WELCOME] = partial(WelcomeSite, config=config, get_sockets=context.get_sockets)
    verifiers: Mapping[str, Verify] = {}
    if any(site.auth for site in config.sites):
        from rawservers.http.users import make_verifiers

        verifiers = make_verifiers(context.users, freshness)
    health = Health(fsencode(config.health or ""), context.is_stopping)
    sites = [
        kinds.get(site.root, Site)(site, freshness, cache, file_cache, Protection(site.auth, verifiers), health)
        for site in config.sites
    ]
    router = Router(sites, config, cache)
    return lambda peer: Conversation(peer, router, config.requests)


def prepare_telnet(config: Config, context: ServiceContext) -> Start:
    """The line-based Telnet echo, or the line service `config.telnet_service` in its place."""
    from rawservers.telnet.echo import EchoSession
    from rawservers.telnet.session import Session

    def on_failure(failure: Exception) -> None:
        log.error("unexpected error in the telnet service", exc_info=failure)

    service = config.telnet_service
    make: Callable[..., Session] = EchoSession if service is None else partial(Session, service=service, on_failure=on_failure)
    return partial(make, longest_line=config.longest_line, greeting=config.telnet_greeting.encode())


def prepare_status(config: Config, context: ServiceContext) -> Start:
    """HTTP with one handler: the metrics of the server."""
    from rawservers.status import respond

    return prepare_http(Config(handlers=(("GET /", partial(respond, context.get_status, context.get_sockets)),)), context)


def is_local(address: str) -> bool:
    """Whether only this machine can reach a bound address."""
    return address.startswith(("127.", "[::1]:", "unix:"))


def refuse_plain_http(config: Config, context: ServiceContext) -> Start:
    """HTTP with one answer, without TLS."""

    def refuse(request: Request) -> Response:
        return Response(400, [("Content-Type", "text/plain")], b"This port expects TLS. Use https:// in the URL.\n")

    handlers = (("/", refuse),)
    return prepare_http(Config(handlers=handlers, requests=1, server_header=config.server_header), context)


def refuse_plain_telnet(config: Config, context: ServiceContext) -> Start:
    return lambda peer: Refusal(b"This port expects TLS (telnets).\r\n")


def http_banner(config: Config, listen: ListenConfig) -> str:
    roots = ", ".join("the welcome page" if site.root == WELCOME else site.root for site in config.sites)
    address = listen.address
    if address.startswith("unix:"):
        return f"{address} (serving {roots})"
    warning = "" if is_local(address) else f"; anyone who can reach {address} can read it"
    return f"{listen.name}://{address}/ (serving {roots}{warning})"


ALPN = ("http/1.1", "http/1.0")  # requests of both are answered
HTTP_DEADLINES = {Deadline.BODY: "body_time", Deadline.IDLE: "idle_time", Deadline.NONE: "function_time"}
CORE_DEADLINES = {Deadline.SEND: "send_time", Deadline.LINGER: "linger_time"}

SERVICES = {
    "http": Service(prepare_http, "127.0.0.1:8080", HTTP_DEADLINES, http_banner, True, refuse_plain_http, ALPN, True),
    "telnet": Service(prepare_telnet, "127.0.0.1:2323", {Deadline.IDLE: "telnet_idle_time"}, refuse=refuse_plain_telnet),
    "status": Service(
        prepare_status, "unix:/run/rawservers/status", HTTP_DEADLINES, is_logged=False, refuse=refuse_plain_http, protocols=ALPN
    ),
}
TLS_ADDRESSES = {"https": "127.0.0.1:8443", "telnets": "127.0.0.1:9923"}  # of http and telnet, with TLS
DEFAULT_LISTENERS = tuple(ListenConfig(name, SERVICES[name].address) for name in ("http", "telnet"))


def add_service(name: str, start: Start, address: str = "", deadlines: Mapping[Deadline, float | str] = {}) -> None:
    """Add a service, for `Config.listen`, for [[listen]] in configuration files, and for sockets from systemd.

    name: up to 31 lower-case letters, digits and hyphens, a letter first, but not "log" or "wakes". start: called with the
    Peer of each new connection, in the event loop of a worker; returns the Protocol object of the conversation. An exception in
    it closes that connection, and is logged. address: the default one of the service in configuration files, as text:
    HOST:PORT, [IPV6]:PORT, PORT, :PORT or unix:PATH; "": none. deadlines: for HEAD, BODY, IDLE and NONE, seconds, or the name
    of the field of Config that says them; 0 or absent: no limit. HEAD is by default that of the Config; SEND and LINGER always
    are.

    To be called before the server starts. It does not listen by itself. Raises ValueError if the name is taken or malformed.
    """
    if name in SERVICES or not re.fullmatch(NAME, name):
        raise ValueError(f"service name is {'taken' if name in SERVICES else 'malformed'}: {name!r}")
    SERVICES[name] = Service(lambda *_: start, address, deadlines)


def default_addresses() -> dict[str, str]:
    """The default address of each service, by name; "": none."""
    return {name: service.address for name, service in SERVICES.items()}


def resolve_listeners(config: Config) -> tuple[ListenConfig, ...]:
    """The listeners of `config`, or the default ones if it has None."""
    return DEFAULT_LISTENERS if config.listen is None else config.listen


def make_service(name: str, config: Config, context: ServiceContext, table: Mapping[str, Service] = SERVICES) -> ServiceSpec:
    """The service as the connections of one worker share it. Raises KeyError, OSError or ValueError."""
    service = table[name]
    times = {Deadline.HEAD: "head_time", **service.deadlines, **CORE_DEADLINES}  # HEAD: for preambles, too
    deadlines = {deadline: getattr(config, time) if isinstance(time, str) else time for deadline, time in times.items()}
    start = service.prepare(config, context)
    report: Report = context.report if service.is_logged else lambda *_: None
    # Handlers may take long: the connections behind one stay in the accept queue, for other workers.
    spec = ServiceSpec(name, start, deadlines, report, client_first=service.client_first and not config.handlers)
    if any(listen.tls and listen.service == name for listen in config.listen or ()):
        spec.refuse_plain = service.refuse(config, context)
    return spec
