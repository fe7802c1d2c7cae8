"""The table: service name -> how one conversation starts. The only file that knows both protocols.

A third protocol is one more function and one more row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from rawservers.config import Config
from rawservers.core.connection import Service
from rawservers.core.protocol import Clock, Peer, Protocol
from rawservers.http.conversation import Conversation
from rawservers.http.response import Stamp
from rawservers.http.site import Site
from rawservers.telnet.echo import Echo

Report: TypeAlias = Callable[[Peer, object, int, float], None]


def http(config: Config, clock: Clock, report: Report) -> Service:
    """HTTP/1.0 from a folder's files."""
    site = Site(config.folder, clock)
    stamp = Stamp()

    def start(peer: Peer) -> Protocol:
        return Conversation(peer, site.respond, site.recall, stamp, config.requests)

    def banner(address: str) -> str:
        return f"{address if address.startswith('unix:') else f'http://{address}/'} (serving {config.folder})"

    deadlines = {"head": config.head_time, "body": config.body_time, "idle": config.idle_time} | ending(config)
    return Service("http", start, deadlines, report, banner)


def telnet(config: Config, clock: Clock, report: Report) -> Service:
    """The line-based Telnet echo."""

    def start(peer: Peer) -> Protocol:
        return Echo(peer, longest=config.longest_line)

    return Service("telnet", start, {"idle": config.telnet_idle_time} | ending(config), report)


def ending(config: Config) -> dict[str, float]:
    """The deadlines that the core sets by itself, whatever is spoken."""
    return {"send": config.send_time, "linger": config.linger_time}


SERVICES: dict[str, Callable[[Config, Clock, Report], Service]] = {"http": http, "telnet": telnet}
