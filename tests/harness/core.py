"""The core in this process: a loop in a thread with one service, single connections, and protocols that behave in some way."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Mapping, Sequence

from rawservers.core.bind import Endpoint, bind
from rawservers.core.connection import Connection
from rawservers.core.limits import Connections
from rawservers.core.listener import Listener
from rawservers.core.loop import Loop
from rawservers.core.peer import Clock, Peer
from rawservers.core.phases import Preambles
from rawservers.core.protocol import Chunk, Deadline, Protocol, ServiceSpec
from rawservers.core.transport import Transport
from tests.harness.waiting import DEADLINE, until


class Running:
    """A loop in a thread, with one service on a free port."""

    def __init__(
        self,
        protocol: type[Protocol],
        transport: Callable[..., Transport] = Transport,
        preambles: Preambles = (),
        connection: type[Connection] = Connection,
        max_per_address: int = 0,
        **deadlines: float,
    ) -> None:
        self.loop = Loop()
        self.reports: list[tuple[object, int]] = []
        self.begun: list[Protocol] = []
        self.service = service = ServiceSpec(
            "test",
            self.start,
            {Deadline[name.upper()]: seconds for name, seconds in deadlines.items()},
            lambda peer, record, sent, seconds: self.reports.append((record, sent)),
        )
        self.protocol = protocol
        (self.server,) = bind(Endpoint("127.0.0.1", 0))
        self.address = self.server.sock.getsockname()
        self.connections = Connections(self.loop.clock, 0, max_per_address)
        self.listener = Listener(self.server, service, self.loop, self.connections, transport, preambles, connection)
        self.loop.at_tick.append(self.listener.tick)
        self.thread = threading.Thread(target=self.run)

    def start(self, peer: Peer) -> Protocol:
        protocol = self.protocol(peer)  # type: ignore[call-arg]
        self.begun.append(protocol)
        return protocol

    def report(self, peer: Peer, record: object, sent: int, seconds: float) -> None:
        self.reports.append((record, sent))

    def run(self) -> None:
        self.listener.open()
        self.loop.run()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=DEADLINE)

    def call(self, function: Callable[[], object] = lambda: None) -> None:
        """Call it in the loop's thread, after all that is being done there, and wait for it."""
        called = threading.Event()

        def call() -> None:
            function()
            called.set()

        self.loop.call_soon_threadsafe(self.loop, call)
        assert called.wait(DEADLINE)

    def until_closed(self) -> None:
        """Wait until no connection is left, and all that closing one does has been done."""
        until(lambda: not len(self.connections), "no connection is left")
        self.call()

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.loop.call_soon_threadsafe(self.loop, self.loop.stop)
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()
        for connection in self.connections:
            connection.close()
        self.listener.close()
        self.loop.close()


class Waking(Peer):
    """A peer that calls `wake` whenever a protocol asks to be resumed."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__(("192.0.2.1", 40000), Clock())
        self._wake = wake

    def wake(self) -> None:
        self._wake()


class Recording(Protocol):
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.heard: list[tuple[bytes, bool]] = []

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        self.heard.append((data, urgent))
        return (b".",)


class Greedy(Protocol):
    """Says a byte for each that it was sent, one a call."""

    def __init__(self, peer: Peer) -> None:
        self.left = b""
        self.calls: list[str] = []

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        self.left += data
        self.calls.append("receive")
        return self.one()

    def resume(self) -> Sequence[Chunk]:
        self.calls.append("resume")
        return self.one()

    def one(self) -> Sequence[Chunk]:
        said, self.left = self.left[:1], self.left[1:]
        self.waiting = Deadline.TURN if self.left else Deadline.IDLE
        return (said,) if said else ()


class Pair:
    """A connection of a protocol, and its peer's socket, with a loop that nobody runs."""

    def __init__(
        self,
        protocol: Callable[[Peer], Protocol],
        deadlines: Mapping[Deadline, float] = {},
        report: Callable[..., None] = lambda *_: None,
        preambles: Preambles = (),
    ) -> None:
        self.loop = Loop()
        self.connections = Connections(self.loop.clock)
        ours, self.sock = socket.socketpair()
        self.sock.settimeout(DEADLINE)
        self.begun: list[Protocol] = []

        def start(peer: Peer) -> Protocol:
            self.begun.append(protocol(peer))
            return self.begun[-1]

        self.connection = Connection(
            Transport(fileno=ours.detach()),
            ("h", 1),
            ServiceSpec("test", start, deadlines, report),
            self.loop,
            self.connections.discard,
        )
        self.connections.add(self.connection)
        self.connection.introduce(preambles) if preambles else self.connection.begin()

    def give_turns(self) -> int:
        """Each that waits has one; how many had."""
        number = len(self.loop._turns)
        for _ in range(number):
            _, step = self.loop._turns.popleft()
            step()
        return number

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *failure: object) -> None:
        self.connection.close()
        self.sock.close()
        self.loop.close()


class Slow:
    """A source that does `steps` of work each time, for ever; `heard` is told of each."""

    def __init__(self, name: str, loop: Loop, steps: int, heard: list[str]) -> None:
        self.service = name
        self.loop = loop
        self.steps = steps
        self.heard = heard
        self.ours, self.theirs = socket.socketpair()
        loop.watch(self.ours.fileno(), self, select.EPOLLIN)
        self.theirs.send(b"x")

    def ready(self, events: int) -> None:
        self.heard.append(self.service)
        self.loop.clock.work += self.steps

    def failed(self) -> None:
        raise AssertionError

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def run_wakes(loop: Loop, number: int) -> list[int]:
    """Run so many wakes; how many events were handled by the end of each is what `count` says."""
    seen: list[int] = []

    def count() -> None:
        seen.append(loop.clock.epoch)
        if len(seen) == number:
            loop.stop()

    loop.at_wake_end.append(count)
    loop.run()
    return seen
