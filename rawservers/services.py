"""The table: service name -> how one conversation starts. The only file that knows both protocols.

A third protocol is one more function and one more row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from rawservers.core.connection import ServiceSpec
from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Deadline, Protocol
from rawservers.http.cache import ResponseCache
from rawservers.http.conversation import Conversation
from rawservers.http.files import FileCache
from rawservers.http.router import Router
from rawservers.http.site import Site
from rawservers.settings import Config, SiteConfig
from rawservers.telnet.session import Echo, echo

log = logging.getLogger("rawservers")

Report: TypeAlias = Callable[[Peer, object, int, float], None]


def http(config: Config, clock: Clock, report: Report) -> ServiceSpec:
    """HTTP/1.0 from files and handlers."""
    cache = ResponseCache(clock, config.answers, config.answer_bytes)
    file_cache = FileCache(config.files, config.file_bytes, config.open_files)
    sites = [(site.hosts, Site(site, clock, cache, file_cache)) for site in config.sites or (SiteConfig(),)]
    router = Router(sites, config.handlers, cache, config.body_limit, config.server_header)
    roots = ", ".join(site.root for site in config.sites) or "the welcome page"

    def start(peer: Peer) -> Protocol:
        return Conversation(peer, router, config.requests, router.respond_to_error)

    def banner(address: str) -> str:
        return f"{address if address.startswith('unix:') else f'http://{address}/'} (serving {roots})"

    return ServiceSpec("http", start, of_requests(config), report, banner)


def telnet(config: Config, clock: Clock, report: Report) -> ServiceSpec:
    """The line-based Telnet echo, or a service of lines in its place."""
    service = config.telnet_service or echo
    greeting = config.telnet_greeting.encode()

    def report_failure(failure: Exception) -> None:
        log.error("the telnet service has failed", exc_info=failure)

    def start(peer: Peer) -> Protocol:
        return Echo(peer, service, longest=config.longest_line, greeting=greeting, failed=report_failure)

    return ServiceSpec("telnet", start, {Deadline.IDLE: config.telnet_idle_time} | ending(config), report)


def of_requests(config: Config) -> dict[Deadline, float]:
    """The deadlines of whatever is spoken over HTTP."""
    return {Deadline.HEAD: config.head_time, Deadline.BODY: config.body_time, Deadline.IDLE: config.idle_time} | ending(config)


def ending(config: Config) -> dict[Deadline, float]:
    """The deadlines that the core sets by itself, whatever is spoken."""
    return {Deadline.SEND: config.send_time, Deadline.LINGER: config.linger_time}


SERVICES: dict[str, Callable[[Config, Clock, Report], ServiceSpec]] = {"http": http, "telnet": telnet}
