"""A countdown that sends a line a second, unasked: a protocol with a timer, and the same as a body of HTTP. No thread waits.

python3 -m examples.countdown 2323 8080     # then: nc 127.0.0.1 2323, or curl -N http://127.0.0.1:8080/countdown
"""

import logging
import sys
from collections.abc import Iterator, Sequence

from rawservers import Closing, Config, ListenConfig, Peer, Protocol, Request, Response, add_service, serve

FIRST, PAUSE = 10, 1.0  # seconds


class Countdown(Protocol):
    def __init__(self, peer: Peer) -> None:
        self.peer, self.number = peer, FIRST
        self.greeting = b"%d\r\n" % FIRST
        peer.call_later(PAUSE)

    def resume(self) -> Sequence[bytes]:
        """The time has come."""
        self.number -= 1
        if self.number:
            self.peer.call_later(PAUSE)
        else:
            self.closing = Closing.LINGER
        return (b"%d\r\n" % self.number,)


def respond(request: Request) -> Response:
    def lines() -> Iterator[str | float]:
        for number in range(FIRST, -1, -1):
            yield f"{number}\n"
            yield PAUSE if number else 0.0

    return Response(200, {"Content-Type": "text/plain; charset=utf-8"}, lines())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    add_service("countdown", Countdown)
    listen = ListenConfig("countdown", f"127.0.0.1:{sys.argv[1]}"), ListenConfig("http", f"127.0.0.1:{sys.argv[2]}")
    serve(Config(listen=listen, handlers=(("GET /countdown", respond),)))
