"""What one reading of the configuration has brought: services, sockets and a log, the same for all workers forked for it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from rawservers.core.connection import ServiceSpec
from rawservers.daemon.privileges import Identity, identity
from rawservers.daemon.startup import (
    CannotStart,
    Servers,
    bind_all,
    close_log,
    open_log,
    raise_descriptor_limit,
    rehearse,
)
from rawservers.settings import Config


@dataclass(slots=True)
class Generation:
    """What one reading of the configuration has brought: the same for all workers forked for it."""

    config: Config
    services: dict[str, ServiceSpec]
    servers: Servers
    access_log: int
    who: Identity | None
    begun: float

    @property
    def size(self) -> int:
        """How many workers it is to have."""
        return self.config.workers or len(os.sched_getaffinity(0))

    @property
    def summary(self) -> str:
        """What it serves, in a few words."""
        places = (f"{listen.service} on {server.address}" for listen, group in self.servers.items() for server in group)
        return ", ".join(places)

    def drop(self, heir: Generation | None) -> None:
        """Close what this one has and `heir` does not."""
        close_log(self.access_log)
        for listen, group in self.servers.items():
            if heir is None or listen not in heir.servers:
                for server in group:
                    server.close()


def prepare(config: Config, current: Generation | None) -> Generation:
    """All that a new generation needs; CannotStart leaves nothing behind."""
    services = rehearse(config)
    who = identity(config.user)
    access_log = open_log(config)
    try:
        servers = bind_all(config, current.servers if current else {})
    except CannotStart:
        close_log(access_log)
        raise
    raise_descriptor_limit(config)
    return Generation(config, services, servers, access_log, who, time.monotonic())
