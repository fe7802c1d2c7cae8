"""The Daytime Protocol (RFC 867), a service that speaks first and hangs up: the command `rawservers` with one service more.

python3 -m examples.daytime -c examples/daytime.toml     # then: nc 127.0.0.1 1313
"""

import sys
import time

from rawservers import Closing, Peer, Protocol, add_service, cli


class Daytime(Protocol):
    closing = Closing.LINGER  # "any data received is thrown away"

    def __init__(self, peer: Peer) -> None:
        self.greeting = time.strftime("%A, %B %d, %Y %H:%M:%S-UTC\r\n", time.gmtime(peer.clock.time)).encode()


add_service("daytime", Daytime, "127.0.0.1:1313")

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
