"""A service with a bug: it raises when it is told to, and when it starts on a port of its own. For the test of the core.

python3 -m tests.servers.faulty
"""

import logging
from collections.abc import Sequence

from rawservers import Config, ListenConfig, Peer, Protocol, add_service, serve
from rawservers.core.protocol import Chunk


class Faulty(Protocol):
    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        if data == b"raise\n":
            raise RuntimeError("as told")
        return (data,)


def stillborn(peer: Peer) -> Protocol:
    raise RuntimeError("at the start")


add_service("faulty", lambda peer: Faulty())
add_service("unborn", stillborn)

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    serve(Config(listen=(ListenConfig("faulty", "127.0.0.1:0"), ListenConfig("unborn", "127.0.0.1:0"))))
