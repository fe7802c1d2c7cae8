"""RFC 867 as a third service over the same core: it speaks first and hangs up, before it has heard anything.

python3 -m tests.servers.daytime
"""

import logging
import time

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Closing, Protocol, ServiceSpec
from rawservers.daemon.worker import serve
from rawservers.services import SERVICES, Report, core_deadlines
from rawservers.settings import Config, ListenConfig


class Daytime(Protocol):
    closing = Closing.LINGER  # "any data received is thrown away"

    def __init__(self, peer: Peer) -> None:
        self.greeting = time.strftime("%A, %B %d, %Y %H:%M:%S-UTC\r\n", time.gmtime(peer.clock.time)).encode()


def daytime(config: Config, clock: Clock, report: Report) -> ServiceSpec:
    return ServiceSpec("daytime", Daytime, core_deadlines(config), report)


SERVICES["daytime"] = daytime

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    serve(Config(listen=(ListenConfig("daytime", "127.0.0.1:0"),)))
