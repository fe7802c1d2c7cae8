"""RFC 867: a third service, that speaks first and hangs up. The whole command, with a configuration file that names it.

python3 -m tests.servers.daytime
"""

import time

from rawservers import Closing, Peer, Protocol, add_service, cli


class Daytime(Protocol):
    closing = Closing.LINGER  # "any data received is thrown away"

    def __init__(self, peer: Peer) -> None:
        self.greeting = time.strftime("%A, %B %d, %Y %H:%M:%S-UTC\r\n", time.gmtime(peer.clock.time)).encode()


add_service("daytime", Daytime, "127.0.0.1:1313")

if __name__ == "__main__":
    raise SystemExit(cli.main(["-c", "tests/servers/daytime.toml"]))
