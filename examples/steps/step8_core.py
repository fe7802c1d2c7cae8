"""The same server on the core of rawservers: the protocol is bytes in, bytes out, and the core does all the rest.

python3 -m examples.steps.step8_core 2323
"""

import sys
from collections.abc import Sequence
from itertools import takewhile

from rawservers import Closing, Config, Deadline, ListenConfig, Peer, Protocol, add_service, serve

LONGEST = 4096  # bytes of a line


class Repeater(Protocol):
    def __init__(self, peer: Peer) -> None:
        self.rest = b""

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[bytes]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.steps += 1 + len(lines)
        short = [*takewhile(lambda line: len(line) <= LONGEST, lines)]
        if len(short) < len(lines) or len(self.rest) > LONGEST:
            self.closing = Closing.LINGER
        return [b"you said: " + line.rstrip(b"\r") + b"\r\n" for line in short]


add_service("repeater", Repeater, deadlines={Deadline.IDLE: 60})

if __name__ == "__main__":
    serve(Config(listen=(ListenConfig("repeater", f"127.0.0.1:{sys.argv[1]}"),), trace=True))
