"""Connections that are accepted together: each is read before the first is answered, and none gets what is stale."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rawservers.core import listener
from rawservers.core.bind import Endpoint, bind
from rawservers.core.connection import Connection
from rawservers.core.limits import Connections
from rawservers.core.listener import ACCEPT_STEPS, Listener
from rawservers.core.loop import STEPS_PER_CHECK, Loop
from rawservers.core.protocol import Chunk, Closing, Deadline, Protocol, ServiceSpec
from rawservers.core.transfer import SMALL_SIZE
from rawservers.core.transport import Transport
from rawservers.services import ServiceContext, make_service
from rawservers.settings import Config, SiteConfig
from tests.harness.core import Recording
from tests.harness.sockets import receive_all
from tests.harness.waiting import DEADLINE, until

BATCH = STEPS_PER_CHECK // ACCEPT_STEPS + 1
OLD = 1_000_000_000
GET = b"GET /f HTTP/1.0\r\n\r\n"


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow it is, the time for accepting is enough."""
    monkeypatch.setattr(listener, "ACCEPT_TIME", DEADLINE)
    monkeypatch.setattr(listener, "WAKE_TIME", DEADLINE)


class Listening:
    """A listener, with a loop that nobody runs. events: receives and conversations begun, in order; transport: hooks."""

    def __init__(
        self,
        service: ServiceSpec,
        loop: Loop | None = None,
        connection: type[Connection] = Connection,
        max_total: int = 0,
        max_per_address: int = 0,
    ) -> None:
        self.loop = loop or Loop()
        self.events: list[str] = []
        self.before_receive: Callable[[int], object] = lambda number: None
        self.connections = Connections(self.loop.clock, max_total, max_per_address)
        listening = self

        class Noted(Transport):
            def recv(self, size: int, flags: int = 0) -> bytes:
                listening.before_receive(listening.events.count("receive"))
                listening.events.append("receive")
                return super().recv(size, flags)

        begin = service.start

        def start(peer: Any) -> Protocol:
            self.events.append("start")
            return begin(peer)

        (self.server,) = bind(Endpoint("127.0.0.1", 0))
        self.service, service.start = service, start
        self.listener = Listener(self.server, self.service, self.loop, self.connections, Noted, (), connection)
        self.listener.open()

    def connect(self, *said: bytes) -> list[socket.socket]:
        """A connection for each of these, which has said it."""
        socks = [socket.create_connection(self.server.sock.getsockname(), DEADLINE) for _ in said]
        for sock, data in zip(socks, said, strict=True):
            sock.sendall(data)
        return socks

    def accept(self) -> None:
        self.loop._set_clock()  # the wake begins now
        self.listener.ready(select.EPOLLIN)

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *failure: object) -> None:
        for connection in self.connections:
            connection.close()
        self.listener.close()
        self.loop.close()


class Short(Recording):
    """Says one word, and goes."""

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        self.closing = Closing.CLOSE
        return (b"<" + data + b">",)

    def end(self) -> Sequence[Chunk]:
        self.closing = Closing.CLOSE
        return (b"<end>",)


def spec(protocol: Callable[[Any], Protocol], client_first: bool = True) -> ServiceSpec:
    return ServiceSpec("test", protocol, {}, lambda *_: None, client_first=client_first)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[tuple[Listening, Path]]:
    """A listener of a site with one old file."""
    loop = Loop()
    path = tmp_path / "f"
    rewrite(path, b"old")
    until(lambda: os.stat(path).st_ctime < time.time() - 0.1, "the file is old enough")
    config = Config(sites=(SiteConfig(str(tmp_path)),))
    context = ServiceContext(loop.clock, lambda *_: None, lambda: pytest.fail("it asks for the status"))
    with Listening(make_service("http", config, context), loop) as listening:
        yield listening, path


def rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (OLD, OLD))


def bodies(socks: Sequence[socket.socket]) -> list[bytes]:
    found = []
    for sock in socks:
        found.append(receive_all(sock).partition(b"\r\n\r\n")[2])
        sock.close()
    return found


def test_a_batch_is_read_before_its_first_conversation_begins() -> None:
    with Listening(spec(Short)) as listening:
        epoch = listening.loop.clock.epoch
        socks = listening.connect(*[b"%d" % number for number in range(3)])
        listening.accept()
        assert listening.events == ["receive"] * 3 + ["start"] * 3
        assert listening.loop.clock.epoch == epoch + 1
        assert [receive_all(sock) for sock in socks] == [b"<0>", b"<1>", b"<2>"]
        for sock in socks:
            sock.close()


def test_a_batch_is_begun_when_the_time_is_looked_at() -> None:
    with Listening(spec(Short)) as listening:
        socks = listening.connect(*[b"x"] * (2 * BATCH + 1))
        listening.accept()
        once = ["receive"] * BATCH + ["start"] * BATCH
        assert listening.events == [*once, *once, "receive", "start"]
        assert [receive_all(sock) for sock in socks] == [b"<x>"] * len(socks)
        for sock in socks:
            sock.close()


def test_a_service_that_speaks_first_does_not_wait_for_input() -> None:
    class Greeting(Short):
        greeting = b"hello"

    with Listening(spec(Greeting, client_first=False)) as listening:
        socks = listening.connect(b"x", b"y")
        listening.accept()
        assert listening.events == ["start", "receive"] * 2
        assert [receive_all(sock) for sock in socks] == [b"hello<x>", b"hello<y>"]
        for sock in socks:
            sock.close()


def test_a_greeting_comes_before_the_answer_to_what_was_received_before_it() -> None:
    class Greeting(Short):
        greeting = b"hello"

    with Listening(spec(Greeting)) as listening:
        (sock,) = listening.connect(b"x")
        listening.accept()
        assert receive_all(sock) == b"hello<x>"
        sock.close()


def test_one_that_has_not_spoken_yet_is_awaited() -> None:
    with Listening(spec(Short)) as listening:
        early, late = listening.connect(b"x", b"")
        listening.accept()
        assert receive_all(early) == b"<x>"
        (connection,) = listening.connections
        assert connection._events == select.EPOLLIN | select.EPOLLPRI
        late.sendall(b"y")
        connection.ready(select.EPOLLIN)
        assert receive_all(late) == b"<y>"
        early.close()
        late.close()


def test_a_long_message_is_read_whole_before_the_conversation_begins() -> None:
    long = b"x" * (SMALL_SIZE + 1000)
    with Listening(spec(Short)) as listening:
        (sock,) = listening.connect(long)
        listening.accept()
        assert listening.events == ["receive", "receive", "start"]
        assert receive_all(sock) == b"<" + long + b">"
        sock.close()


def test_a_peer_that_has_gone_costs_no_conversation() -> None:
    """A FIN without a byte before it, and a RST."""
    with Listening(spec(Short)) as listening:
        ended, reset, served = listening.connect(b"", b"", b"x")
        ended.shutdown(socket.SHUT_WR)
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.close()
        listening.accept()
        assert listening.events == ["receive"] * 3 + ["start"]
        assert receive_all(ended) == b""
        assert receive_all(served) == b"<x>"
        assert (len(listening.connections), listening.service.counters.accepted) == (0, 3)
        ended.close()
        served.close()


def test_what_was_received_waits_until_the_conversation_reads() -> None:
    class Waiting(Recording):
        waiting = Deadline.NONE

        def resume(self) -> Sequence[Chunk]:
            self.waiting = Deadline.IDLE
            return ()

    begun: list[Waiting] = []
    with Listening(spec(lambda peer: begun.append(Waiting(peer)) or begun[-1])) as listening:  # type: ignore[func-returns-value]
        (sock,) = listening.connect(b"x")
        listening.accept()
        assert begun[0].heard == []
        begun[0].peer.wake()
        listening.loop.ready(select.EPOLLIN)
        for _ in range(2):  # it resumes, then it reads
            _, call = listening.loop._turns.popleft()
            call()
        assert begun[0].heard == [(b"x", False)]
        sock.close()


def test_a_failing_conversation_costs_only_its_own_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(Short):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            if data == b"bad":
                raise ValueError
            return super().receive(data)

    with Listening(spec(Bad)) as listening:
        bad, good = listening.connect(b"bad", b"good")
        listening.accept()
        assert (receive_all(bad), receive_all(good)) == (b"", b"<good>")
        assert len(listening.connections) == 0
        bad.close()
        good.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize(("max_total", "max_per_address"), [(1, 0), (0, 1)])
def test_a_limit_holds_for_connections_that_last_not_for_those_of_one_batch(max_total: int, max_per_address: int) -> None:
    """Each of these ends with its answer, and so makes room for the next."""
    with Listening(spec(Short), None, Connection, max_total, max_per_address) as listening:
        socks = listening.connect(b"1", b"2", b"3")
        listening.accept()
        assert [receive_all(sock) for sock in socks] == [b"<1>", b"<2>", b"<3>"]
        assert listening.service.counters.rejected == 0
        for sock in socks:
            sock.close()


def test_without_descriptors_a_batch_is_begun_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers may free some."""
    with Listening(spec(Short)) as listening:
        socks = listening.connect(b"1", b"2")
        accept = socket.socket._accept  # type: ignore[attr-defined]
        failures = [OSError(24, "Too many open files")]

        class Crowded:
            def __getattr__(self, name: str) -> Any:
                return getattr(listening.server.sock, name)

            def _accept(self) -> Any:
                if failures and "receive" in listening.events:
                    raise failures.pop()
                return accept(listening.server.sock)

        monkeypatch.setattr(listening.listener, "_sock", Crowded())
        listening.accept()
        assert [receive_all(sock) for sock in socks] == [b"<1>", b"<2>"]
        assert listening.events == ["receive", "start"] * 2
        for sock in socks:
            sock.close()


def test_no_answer_is_older_than_its_request(http: tuple[Listening, Path]) -> None:
    """Whoever sends a request after a change gets what was changed, also if others of its batch were received before that."""
    listening, path = http
    last = BATCH + 1

    def change(received: int) -> None:
        if received in {1, last}:  # the second of a batch, and the second of the next one
            rewrite(path, b"new %d" % received)

    for _ in range(3):  # then its response is cached
        socks = listening.connect(GET)
        listening.accept()
        assert bodies(socks) == [b"old"]
    listening.events.clear()
    listening.before_receive = change
    socks = listening.connect(*[GET] * (last + 1))
    listening.accept()
    answers = bodies(socks)
    assert answers[1:BATCH] == [b"new 1"] * (BATCH - 1)
    assert answers[last] == b"new %d" % last


def test_one_stat_serves_a_batch(http: tuple[Listening, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Made after the last of it was received."""
    listening, _ = http
    lstat = os.lstat

    def noted(name: bytes) -> os.stat_result:
        listening.events.append("stat")
        return lstat(name)

    monkeypatch.setattr(os, "lstat", noted)
    for _ in range(3):
        socks = listening.connect(GET)
        listening.accept()
        assert bodies(socks) == [b"old"]
    listening.events.clear()
    socks = listening.connect(*[GET] * BATCH)
    listening.accept()
    assert bodies(socks) == [b"old"] * BATCH
    assert listening.events == ["receive"] * BATCH + ["start", "stat"] + ["start"] * (BATCH - 1)


def test_a_class_with_a_beginning_of_its_own_is_left_to_itself() -> None:
    """As that of TLS, whose first bytes are no request."""

    class Own(Connection):
        def begin(self, rest: bytes = b"") -> None:
            super().begin(rest)

    with Listening(spec(Short), connection=Own) as listening:
        (sock,) = listening.connect(b"x")
        listening.accept()
        assert listening.events == ["start", "receive"]
        assert receive_all(sock) == b"<x>"
        sock.close()


@pytest.mark.parametrize("closes", [False, True])
def test_a_batch_that_takes_long_goes_on_in_turns(closes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each conversation has much to do, the time is looked at after each."""

    class Busy(Short):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.steps = STEPS_PER_CHECK + 1
            return super().receive(data, urgent)

    monkeypatch.setattr(listener, "ACCEPT_TIME", 0.0)
    with Listening(spec(Busy)) as listening:
        socks = listening.connect(b"x", b"y", b"z")
        listening.accept()
        assert listening.events == ["receive"] * 3 + ["start"]
        listening.listener._begin_heard(0.0)
        assert listening.events == ["receive"] * 3 + ["start"] * 2
        assert len(listening.loop._early_turns) == 1  # for all that are left
        if closes:
            listening.listener.close()
            assert listening.events.count("start") == 3
        epoch = listening.loop.clock.epoch
        while listening.loop._early_turns:
            _, call = listening.loop._early_turns.popleft()
            call()
        assert listening.events == ["receive"] * 3 + ["start"] * 3
        assert (listening.loop.clock.epoch > epoch) != closes
        assert [receive_all(sock) for sock in socks] == [b"<x>", b"<y>", b"<z>"]
        for sock in socks:
            sock.close()
