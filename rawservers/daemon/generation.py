"""What the workers of a generation share: the configuration, the server sockets, the access log."""

from __future__ import annotations

from collections.abc import Collection
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


@dataclass(slots=True, eq=False)
class Resources:
    """access_log: a descriptor, -1 if it is off; credentials: of the workers, None: unchanged."""

    config: Config
    servers: Servers
    access_log: int
    credentials: Credentials | None

    def close(self, others: Collection[Resources], in_worker: bool = False) -> None:
        """Close the access log, and the server sockets that no other generation uses.

        in_worker: in this process only; the files of unix sockets stay.
        """
        close_access_log(self.access_log)
        for listen, group in self.servers.items():
            for server in group if all(listen not in other.servers for other in others) else ():
                if in_worker:
                    server.sock.close()
                else:
                    server.close()


def prepare(config: Config, existing: Servers) -> Resources:
    """The resources of a new generation, which uses `existing` server sockets where their addresses are the same.

    Raises CannotStart, after closing all that it has opened.
    """
    validate(config)
    credentials = look_up_user(config.user)
    access_log = open_access_log(config)
    try:
        servers = bind_all(config, existing)
    except CannotStart:
        close_access_log(access_log)
        raise
    raise_descriptor_limit(config)
    return Resources(config, servers, access_log, credentials)
