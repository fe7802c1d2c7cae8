"""Generations: each start or reload makes one. Its configuration, sockets and log are the same for all its workers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from rawservers.daemon.privileges import Credentials, look_up_user
from rawservers.daemon.startup import (
    CannotStart,
    Servers,
    bind_all,
    close_access_log,
    open_access_log,
    raise_descriptor_limit,
    validate,
)
from rawservers.settings import Config


@dataclass(slots=True)
class Generation:
    """access_log: a descriptor, -1 if it is off; credentials: of the workers, None: unchanged; started_at: monotonic time."""

    config: Config
    servers: Servers
    access_log: int
    credentials: Credentials | None
    started_at: float

    @property
    def size(self) -> int:
        """The number of workers to run."""
        return self.config.workers or len(os.sched_getaffinity(0))

    @property
    def summary(self) -> str:
        """Its services and their addresses, on one line."""
        listeners = (f"{listen.service} on {server.address}" for listen, group in self.servers.items() for server in group)
        return ", ".join(listeners)

    def close(self, successor: Generation | None) -> None:
        """Close the access log, and the server sockets that `successor` does not use."""
        close_access_log(self.access_log)
        for listen, group in self.servers.items():
            if successor is None or listen not in successor.servers:
                for server in group:
                    server.close()


def prepare(config: Config, current: Generation | None) -> Generation:
    """A new generation, which shares the server sockets of `current` where their addresses are the same.

    Raises CannotStart, after closing all that it has opened.
    """
    validate(config)
    credentials = look_up_user(config.user)
    access_log = open_access_log(config)
    try:
        servers = bind_all(config, current.servers if current else {})
    except CannotStart:
        close_access_log(access_log)
        raise
    raise_descriptor_limit(config)
    return Generation(config, servers, access_log, credentials, time.monotonic())
