"""The table of services: name -> function that makes its ServiceSpec. The only file that imports both protocols.

A third protocol takes one more function and one more row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from rawservers.core.connection import ServiceSpec
from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Deadline, Protocol
from rawservers.http.cache import FreshnessClock, ResponseCache
from rawservers.http.conversation import Conversation
from rawservers.http.files import FileCache
from rawservers.http.router import Router
from rawservers.http.site import Site
from rawservers.settings import Config, SiteConfig
from rawservers.telnet.echo import EchoSession
from rawservers.telnet.session import Session

log = logging.getLogger("rawservers")

Report: TypeAlias = Callable[[Peer, object, int, float], None]  # peer, access record, bytes sent, seconds taken


def http(config: Config, clock: Clock, report: Report) -> ServiceSpec:
    """HTTP/1.0: files and handlers."""
    freshness = FreshnessClock(clock)
    cache = ResponseCache(freshness, config.answers, config.answer_bytes)
    file_cache = FileCache(config.files, config.file_bytes, config.open_files)
    sites = [(site.hosts, Site(site, freshness, cache, file_cache)) for site in config.sites or (SiteConfig(),)]
    router = Router(sites, config.handlers, cache, config.body_limit, config.server_header)
    roots = ", ".join(site.root for site in config.sites) or "the welcome page"

    def start(peer: Peer) -> Protocol:
        return Conversation(peer, router, config.requests)

    def banner(address: str) -> str:
        return f"{address if address.startswith('unix:') else f'http://{address}/'} (serving {roots})"

    return ServiceSpec("http", start, http_deadlines(config), report, banner)


def telnet(config: Config, clock: Clock, report: Report) -> ServiceSpec:
    """The line-based Telnet echo, or the line service `config.telnet_service` in its place."""
    service = config.telnet_service
    greeting = config.telnet_greeting.encode()

    def report_failure(failure: Exception) -> None:
        log.error("unexpected error in the telnet service", exc_info=failure)

    def start(peer: Peer) -> Protocol:
        if service is None:
            return EchoSession(peer, longest_line=config.longest_line, greeting=greeting)
        return Session(peer, service, longest_line=config.longest_line, greeting=greeting, on_failure=report_failure)

    return ServiceSpec("telnet", start, {Deadline.IDLE: config.telnet_idle_time} | core_deadlines(config), report)


def http_deadlines(config: Config) -> dict[Deadline, float]:
    """The deadlines of all services over HTTP, in seconds."""
    times = {Deadline.HEAD: config.head_time, Deadline.BODY: config.body_time, Deadline.IDLE: config.idle_time}
    return times | core_deadlines(config)


def core_deadlines(config: Config) -> dict[Deadline, float]:
    """The deadlines that the core sets for every service, in seconds."""
    return {Deadline.SEND: config.send_time, Deadline.LINGER: config.linger_time}


SERVICES: dict[str, Callable[[Config, Clock, Report], ServiceSpec]] = {"http": http, "telnet": telnet}
