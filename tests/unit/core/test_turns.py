"""Nobody who asks for little waits behind somebody who asks for much: steps of work are counted, and turns are taken."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from rawservers.core import listener
from rawservers.core.bind import Endpoint, bind
from rawservers.core.connection import BYTES_PER_STEP, LARGE, RECEIVE_SIZE, SMALL_SIZE, Connection
from rawservers.core.limits import RECENT, SLOW_BODY, Connections, EvictionRank
from rawservers.core.listener import ACCEPT_STEPS, Listener
from rawservers.core.loop import STEPS_PER_CHECK, Loop
from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Chunk, Closing, Deadline, Protocol, ResponseEnd, Urgent
from rawservers.core.wakes import BOUNDS, LONG, WakeTimes
from rawservers.daemon.startup import connection_shares
from rawservers.daemon.worker import GarbageCollector
from rawservers.http import conversation
from rawservers.http import router as routing
from rawservers.http.conversation import ANSWER_STEPS, LOOKUP_STEPS, STEPS
from rawservers.http.request import Request
from rawservers.http.response import Response
from rawservers.http.router import HANDLER_STEPS
from rawservers.settings import Config, ListenConfig, SiteConfig
from tests.harness.server import DEADLINE, Server, receive_all, receive_until, until
from tests.unit.core.test_connection import Running
from tests.unit.http.test_conversation import Client, router

GET = b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n"
MISS = b"HEAD /nope HTTP/1.1\r\nHost: h\r\n\r\n"


# The budget of a conversation


@pytest.fixture
def site(tmp_path: Path) -> tuple[Clock, routing.Router]:
    (tmp_path / "f").write_bytes(b"content of f\n")
    os.utime(tmp_path / "f", (1_000_000_000, 1_000_000_000))
    clock = Clock(now=100.0, time=time.time() + 3600)
    calls: list[str] = []

    def count(request: Request) -> Response:
        calls.append(request.target)
        return Response(200, (), b"called")

    return clock, router(clock, SiteConfig(str(tmp_path)), handlers=(("/fn", count),))


@pytest.mark.parametrize(
    ("request_", "most"),
    [
        (MISS, STEPS + ANSWER_STEPS),
        (GET, STEPS + ANSWER_STEPS),
        (b"GET /fn HTTP/1.1\r\nHost: h\r\n\r\n", HANDLER_STEPS + ANSWER_STEPS + LOOKUP_STEPS),
        (b"GET /f HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1,3-4\r\n\r\n", STEPS + ANSWER_STEPS),
    ],
)
def test_a_call_does_no_more_than_its_steps(site: tuple[Clock, routing.Router], request_: bytes, most: int) -> None:
    clock, answering = site
    client = Client(answering, clock)
    client.take(client.conversation.receive(request_ * 500))
    calls = 1
    while client.conversation.waiting is Deadline.TURN:
        assert 0 < clock.work <= most
        clock.work = 0
        client.take(client.conversation.resume())
        calls += 1
    assert len(client.replies()) == 500
    assert client.conversation.waiting is Deadline.IDLE
    assert calls >= 500 * LOOKUP_STEPS // STEPS


def test_each_piece_of_an_answer_is_a_step(tmp_path: Path) -> None:
    """Ranges of a large file are sent by a system call or two each."""
    (tmp_path / "large").write_bytes(bytes(100_000))
    clock = Clock(now=100.0, time=time.time() + 3600)
    client = Client(router(clock, SiteConfig(str(tmp_path))), clock)
    spans = ",".join(f"{number * 10}-{number * 10}" for number in range(16))
    client.take(client.conversation.receive(f"GET /large HTTP/1.1\r\nHost: h\r\nRange: bytes={spans}\r\n\r\n".encode() * 10))
    turns = 1
    while client.conversation.waiting is Deadline.TURN:
        client.take(client.conversation.resume())
        turns += 1
    assert [reply.status for reply in client.replies()] == [206] * 10
    assert turns >= 5


def test_each_call_of_a_function_has_a_turn_of_its_own(site: tuple[Clock, routing.Router]) -> None:
    clock, answering = site
    client = Client(answering, clock)
    client.take(client.conversation.receive(b"GET /fn HTTP/1.1\r\nHost: h\r\n\r\n" * 5))
    turns = 1
    while client.conversation.waiting is Deadline.TURN:
        assert len(client.replies()) == turns
        client.take(client.conversation.resume())
        turns += 1
    assert turns == len(client.replies()) == 5


@pytest.mark.parametrize("cut", range(1, len(MISS)))
def test_a_rest_at_every_cut_of_a_pipeline(
    site: tuple[Clock, routing.Router], monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    clock, answering = site
    monkeypatch.setattr(conversation, "STEPS", 1)
    data = MISS * 3 + GET
    whole = Client(answering, clock).send(data)
    parts = Client(answering, clock).send(data[:cut], data[cut : 2 * cut], data[2 * cut :])
    assert parts.said == whole.said
    assert len(whole.replies()) == 4


# The turns of connections


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


def test_who_rests_gets_all_said_in_turns() -> None:
    with Running(Greedy) as running, running.connect() as sock:
        sock.sendall(b"0123456789")
        assert receive_until(sock, b"9") == b"0123456789"
        sock.sendall(b"abc")
        assert receive_until(sock, b"c") == b"abc"
        sock.sendall(b"x")
        assert receive_until(sock, b"x") == b"x"
        assert running.begun[0].calls.count("resume") == 9 + 2  # type: ignore[attr-defined]


def test_the_fin_comes_after_what_rests() -> None:
    with Running(Greedy) as running, running.connect() as sock:
        sock.sendall(b"z" * 1000)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
        assert received == b"z" * 1000
        until(lambda: not running.connections, "it is closed")


def test_who_ends_the_conversation_has_no_more_turns() -> None:
    class Ending(Greedy):
        def one(self) -> Sequence[Chunk]:
            self.waiting = Deadline.TURN
            self.closing = Closing.CLOSE
            return (b"the last word",)

    with Running(Ending) as running, running.connect() as sock:
        sock.sendall(b"x")
        assert receive_all(sock) == b"the last word"
        until(lambda: not running.connections, "it is closed")
        assert running.begun[0].calls == ["receive"]  # type: ignore[attr-defined]


class Pair:
    """A connection of a protocol, and its peer's socket, with a loop that nobody runs."""

    def __init__(self, protocol: Callable[[Peer], Protocol]) -> None:
        from rawservers.core.connection import ServiceSpec

        self.loop = Loop()
        self.connections: Connections[Connection] = Connections(self.loop.clock)
        ours, self.sock = socket.socketpair()
        self.sock.settimeout(DEADLINE)
        self.begun: list[Protocol] = []

        def start(peer: Peer) -> Protocol:
            self.begun.append(protocol(peer))
            return self.begun[-1]

        self.connection = Connection(
            ours, ("h", 1), ServiceSpec("test", start, {}, lambda *_: None), self.loop, self.connections
        )
        self.connection.begin()

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


def test_who_rests_is_not_read_and_stands_in_the_queue_once() -> None:
    with Pair(Greedy) as pair:
        (protocol,) = pair.begun
        pair.sock.sendall(b"abc")
        pair.connection.ready(select.EPOLLIN)
        pair.sock.sendall(b"def")
        assert pair.sock.recv(9) == b"a"
        assert len(pair.loop._turns) == 1
        pair.connection.peer.wake()
        pair.loop.ready(select.EPOLLIN)  # a wake-up makes no second place in the queue
        assert len(pair.loop._turns) == 1
        assert (pair.give_turns(), pair.sock.recv(9)) == (1, b"b")
        assert (pair.give_turns(), pair.sock.recv(9)) == (1, b"c")
        assert pair.give_turns() == 0
        assert protocol.calls == ["receive", "resume", "resume"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [10, SMALL_SIZE - 1, SMALL_SIZE, 5_000, RECEIVE_SIZE])
def test_much_input_and_output_is_counted_whatever_the_protocol_makes_of_it(size: int) -> None:
    """What is answered at once, from memory say, is work, too: the loop has to look at the time when it does much of it."""

    class Quick(Greedy):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return (bytes(size), ResponseEnd("record")) if data == b"out" else (b".",)

    with Pair(Quick) as pair:
        for _ in range(2):  # with room for little, and for more
            before = pair.loop.clock.work
            pair.sock.sendall(b"i" * size)
            pair.connection.ready(select.EPOLLIN)
            assert pair.loop.clock.work - before == (size // BYTES_PER_STEP if size >= SMALL_SIZE else 0)
            assert pair.sock.recv(9) == b"."
        before = pair.loop.clock.work
        pair.sock.sendall(b"out")
        pair.connection.ready(select.EPOLLIN)
        assert pair.loop.clock.work - before == (size // BYTES_PER_STEP if size > LARGE else 0)


def test_who_had_to_rest_is_read_in_turn_until_it_is_modest() -> None:
    with Pair(Greedy) as pair:
        pair.sock.sendall(b"ab")
        pair.connection.ready(select.EPOLLIN)
        assert pair.give_turns() == 1  # and now it waits for more
        pair.sock.sendall(b"c")
        pair.connection.ready(select.EPOLLIN)
        assert len(pair.begun[0].calls) == 2  # type: ignore[attr-defined]  # not read at once
        assert pair.give_turns() == 1
        assert pair.begun[0].calls[2:] == ["receive"]  # type: ignore[attr-defined]
        pair.sock.sendall(b"d")
        pair.connection.ready(select.EPOLLIN)  # it was modest: it is read at once again
        assert pair.begun[0].calls[2:] == ["receive", "receive"]  # type: ignore[attr-defined]
        assert pair.give_turns() == 0


def test_who_rests_and_is_not_read_by_its_peer_has_no_turn() -> None:
    class Flood(Greedy):
        def one(self) -> Sequence[Chunk]:
            self.waiting = Deadline.TURN
            return (b"x" * (1 << 20),)

    with Pair(Flood) as pair:
        pair.sock.sendall(b"go")
        pair.connection.ready(select.EPOLLIN)
        for _ in range(100):
            pair.give_turns()
        assert len(pair.begun[0].calls) <= 2  # type: ignore[attr-defined]  # what was said last has not left
        assert pair.give_turns() == 0


def test_of_many_urgent_bytes_the_last_is_marked_and_all_leave_together() -> None:
    class Synching(Greedy):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            return (b"\xff", Urgent(b"\xf2")) * 8192

    with Running(Synching) as running, running.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sent: list[int] = []
        send_some = Connection._send_some

        def counting(connection: Connection, share: int) -> int:
            sent.append(send_some(connection, share))
            return sent[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "_send_some", counting)
            sock.sendall(b"x")
            received = b""
            while len(received) < 16384:
                received += sock.recv(65536)
        assert received == b"\xff\xf2" * 8192
        assert len(sent) <= 4


# The loop's wakes


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


def always_late(loop: Loop) -> Callable[[], bool]:
    """What says that the wake is late whenever it is asked."""

    def is_late() -> bool:
        loop.clock.work = 0
        return True

    return is_late


def run_wakes(loop: Loop, number: int) -> list[int]:
    """Run so many wakes; how many events were handled by the end of each is what `count` says."""
    seen: list[int] = []

    def count() -> None:
        seen.append(loop.clock.epoch)
        if len(seen) == number:
            loop.stop()

    loop.after_poll.append(count)
    loop.run()
    return seen


def test_a_late_wake_leaves_the_rest_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """All were reported by one poll: those that are left are not reported again, and nobody is handled twice."""
    loop = Loop()
    heard: list[str] = []
    slow = [Slow(str(number), loop, STEPS_PER_CHECK + 1, heard) for number in range(10)]
    monkeypatch.setattr(loop, "is_late", always_late(loop))
    run_wakes(loop, 10)
    assert sorted(heard) == sorted(map(str, range(10)))
    for source in slow:
        source.close()
    loop.close()


def test_the_time_is_looked_at_only_when_work_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    heard: list[str] = []
    sources = [Slow(str(number), loop, steps, heard) for number, steps in enumerate([0] * 30 + [STEPS_PER_CHECK // 2] * 5)]
    looked: list[int] = []

    def is_late() -> bool:
        looked.append(loop.clock.work)
        loop.clock.work = 0
        return False

    monkeypatch.setattr(loop, "is_late", is_late)
    run_wakes(loop, 1)
    assert len(heard) == 35
    assert looked == [STEPS_PER_CHECK // 2 * 3]
    for source in sources:
        source.close()
    loop.close()


def test_turns_are_taken_in_order_and_one_that_comes_again_stands_behind() -> None:
    loop = Loop()
    heard: list[str] = []

    def take(name: str, times: int) -> None:
        heard.append(name)
        if times > 1:
            loop.call_in_turn(loop, lambda: take(name, times - 1))

    for name in "abc":
        loop.call_in_turn(loop, lambda name=name: take(name, 3))  # type: ignore[misc]
    run_wakes(loop, 3)
    assert "".join(heard) == "abcabcabc"
    loop.close()


def test_a_turn_that_fails_costs_its_source_alone() -> None:
    class Failing(Slow):
        failures = 0

        def failed(self) -> None:
            self.failures += 1

    loop = Loop()
    source = Failing("x", loop, 0, [])
    done: list[int] = []
    loop.call_in_turn(source, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    loop.call_in_turn(source, lambda: done.append(1))
    run_wakes(loop, 2)
    assert (source.failures, done) == (1, [1])
    source.close()
    loop.close()


def test_an_event_for_a_closed_descriptor_is_not_taken_for_its_successor() -> None:
    """Both are reported; the first one closes the second, whose number a new source gets within the wake."""
    loop = Loop()
    heard: list[str] = []
    pairs = [socket.socketpair() for _ in range(3)]

    class First(Slow):
        def ready(self, events: int) -> None:
            if not heard:
                old = next(source for source in sources if source is not self)
                number = old.ours.fileno()
                loop.discard(number)
                old.close()
                pairs.append(socket.socketpair())
                while all(end.fileno() != number for pair in pairs for end in pair):
                    pairs.append(socket.socketpair())
                new = next(end for pair in pairs for end in pair if end.fileno() == number)
                heard.append(self.service)
                loop.watch(number, Slow.__new__(Slow), select.EPOLLIN)
                loop._new_handlers[number].__dict__.update(service="new", loop=loop, steps=0, heard=heard, ours=new, theirs=new)
            self.ours.recv(1, socket.MSG_DONTWAIT) if self.theirs.fileno() >= 0 else None

    sources = [First("a", loop, 0, heard), First("b", loop, 0, heard)]
    run_wakes(loop, 1)
    assert len(heard) == 1  # the new source has heard nothing of what was the old one's
    for source in sources:
        source.close()
    for pair in pairs:
        for end in pair:
            end.close()
    loop.close()


# What is told of the wakes


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Loop, list[float]]]:
    """A loop, and the time that it reads, in a list of one."""
    loop = Loop()
    now = [loop.clock.now]
    monkeypatch.setattr("rawservers.core.loop.time.monotonic", lambda: now[0])
    yield loop, now
    loop.close()


def test_long_wakes_are_blamed_on_the_service_that_took_most(timed: tuple[Loop, list[float]]) -> None:
    loop, now = timed

    class Working(Slow):
        def ready(self, events: int) -> None:
            now[0] += self.steps / 1000
            self.ours.recv(1)

    sources = [Working("http", loop, 20, []), Working("telnet", loop, 45, []), Working("http", loop, 20, [])]
    run_wakes(loop, 1)
    assert loop.times.long == {"telnet": 1}
    assert loop.times.wall.counts[BOUNDS.index(0.1)] == 1
    assert loop.times.wall.max == pytest.approx(0.085)
    seconds, service = loop.times.slowest()
    assert (round(seconds, 3), service) == (0.085, "telnet")
    assert loop.times.slowest() == (0.0, "")
    for source in sources:
        source.close()


def test_a_long_turn_is_blamed_on_its_service(timed: tuple[Loop, list[float]]) -> None:
    loop, now = timed
    source = Slow("http", loop, 0, [])

    def work() -> None:
        now[0] += 2 * LONG

    loop.call_in_turn(source, work)
    run_wakes(loop, 2)
    assert loop.times.long == {"http": 1}
    source.close()


def test_the_histograms_have_every_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    times = WakeTimes()
    cpu = iter([1.0, 1.004])
    monkeypatch.setattr("rawservers.core.wakes.time.thread_time", lambda: next(cpu))
    times.short[:] = 10, 0.001
    times.add_short()
    times.add(0.002)  # is not worth a look at the processor time
    times.read_cpu()
    times.add(0.3)
    assert sum(times.wall.counts) == sum(times.cpu.counts) == 12
    assert times.wall.counts[BOUNDS.index(1.0)] == 1
    assert times.cpu.counts[BOUNDS.index(0.005)] == 1
    assert times.cpu.sum == pytest.approx(0.001 + 0.002 + 0.004)
    assert times.wall.sum == pytest.approx(0.303)


# The garbage collector


def test_what_has_lived_through_a_look_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("collect", "freeze", "unfreeze", "set_threshold"):
        monkeypatch.setattr(f"rawservers.daemon.worker.gc.{name}", lambda *_, name=name: calls.append(name))
    clock = Clock(now=100.0)
    collector = GarbageCollector(clock)
    collector()
    clock.now += GarbageCollector.EVERY - 1
    collector()
    assert calls == ["set_threshold", "collect", "freeze", "collect", "freeze"]
    clock.now += 1
    collector()
    assert calls[5:] == ["unfreeze", "collect", "freeze"]


@pytest.mark.parametrize("how", ["fin", "reset", "closing", "lingering", "hung up", "exception", "closed"])
def test_a_protocol_learns_of_the_end_once(how: str) -> None:
    class Ending(Protocol):
        ends = 0

        def __init__(self, peer: Peer) -> None:
            pass

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            if how == "exception":
                raise RuntimeError("as told")
            self.closing = Closing.LINGER if how == "lingering" else Closing.CLOSE
            return (b"x" * 1000,)

        def connection_lost(self) -> None:
            self.ends += 1

    with Running(Ending) as running:
        sock = running.connect()
        until(lambda: len(running.begun) == 1, "it has begun")
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif how in ("closing", "lingering", "exception"):
            sock.sendall(b"x")
        elif how == "closed":
            for connection in running.connections:
                running.loop.call_soon_threadsafe(connection, connection.close)
        elif how == "hung up":
            for connection in running.connections:
                running.loop.call_soon_threadsafe(connection, connection.hang_up)
        until(lambda: how in ("fin", "reset") or running.begun[0].ends == 1, "it has ended")  # type: ignore[attr-defined]
        sock.close()
        until(lambda: not running.connections, "it is closed")
    assert [protocol.ends for protocol in running.begun] == [1]  # type: ignore[attr-defined]


def test_an_exception_at_the_very_end_costs_nobody_else() -> None:
    class Failing(Protocol):
        def __init__(self, peer: Peer) -> None:
            pass

        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            if data == b"raise":
                raise RuntimeError("as told")
            return (data,)

        def connection_lost(self) -> None:
            raise RuntimeError("at the end, too")

    with Running(Failing) as running, running.connect() as other:
        with running.connect() as sock:
            sock.sendall(b"raise")
            assert receive_all(sock) == b""
        other.sendall(b"as before")
        assert receive_until(other, b"before") == b"as before"


# Room


class Held:
    """A connection that waits; for the books alone."""

    def __init__(self, name: str, why: EvictionRank | None, since: float, service: str = "http", unread: bool = False) -> None:
        self.name = name
        self.service = service
        self.timer_started = since
        self.eviction_rank = why
        self.unread = unread
        self.peer = Peer(("h", 1), Clock())

    def has_unread(self) -> bool:
        return self.unread


def evicted(books: Connections[Held], service: str = "http") -> str:
    """The names of those that go for new ones, in order."""
    names = ""
    while (held := books.evict(service)) is not None:
        names += held.name
        books.discard(held)
    return names


def test_who_goes_when_there_is_no_room() -> None:
    clock = Clock(now=1000.0)
    books: Connections[Held] = Connections(clock)
    long_ago, recently = clock.now - 60, clock.now - RECENT / 2
    for held in (
        Held("h", EvictionRank.HEAD, long_ago),
        Held("i", EvictionRank.IDLE, long_ago + 1),
        Held("j", EvictionRank.IDLE, long_ago + 2),
        Held("g", EvictionRank.HEAD, long_ago - 1),
        Held("l", EvictionRank.LINGERING, long_ago, unread=True),
        Held("k", EvictionRank.IDLE, recently),
        Held("m", EvictionRank.HEAD, recently),
        Held("b", EvictionRank.BODY, clock.now - SLOW_BODY),
        Held("c", EvictionRank.BODY, clock.now - SLOW_BODY + 1),  # not yet
        Held("n", EvictionRank.HEAD, clock.now),  # came in this very wake
        Held("u", EvictionRank.HEAD, long_ago, unread=True),  # is about to be heard
        Held("t", None, long_ago),
    ):
        books.add(held)
    assert evicted(books) == "ijlghkmb"


def test_who_has_spoken_since_it_was_looked_at_stays() -> None:
    clock = Clock(now=1000.0)
    books: Connections[Held] = Connections(clock)
    first, second, third = (Held(name, EvictionRank.IDLE, number) for number, name in enumerate("abc", 1))
    for held in (first, second, third):
        books.add(held)
    found = books.evict()
    assert found is first
    books.discard(first)
    second.timer_started = 500.0
    assert books.evict() is third


def test_all_are_looked_through_once_for_many_that_go() -> None:
    class Counting(Held):
        looked = 0

        @property
        def eviction_rank(self) -> EvictionRank:  # type: ignore[override]
            Counting.looked += 1
            return EvictionRank.IDLE

        @eviction_rank.setter
        def eviction_rank(self, value: object) -> None:
            pass

    clock = Clock(now=1000.0)
    books: Connections[Held] = Connections(clock)
    for number in range(1000):
        books.add(Counting(str(number), EvictionRank.IDLE, 1 + number / 1000))
    for _ in range(500):
        held = books.evict()
        assert held
        books.discard(held)
    assert Counting.looked <= 1000 + 500


def test_a_service_has_its_share_and_no_more() -> None:
    books: Connections[Held] = Connections(Clock(now=9.0), 10, 0, {"http": 6, "telnet": 6}, {"status": 2})
    for number in range(6):
        books.add(Held(f"t{number}", None, 1.0, "telnet"))
    assert books.free("telnet") <= 0
    assert books.free("http") == 4
    assert books.evict("telnet") is None
    kept = [Held(f"h{number}", EvictionRank.IDLE, 1.0 + number) for number in range(4)]
    for held in kept:
        books.add(held)
    assert books.free("http") <= 0
    assert books.free("daytime") <= 0  # it has no share, but there are no more in all
    assert books.free("status") == 2
    assert books.evict("http") is kept[0]
    assert books.evict("telnet") is None  # nobody else's place would be of any use
    status = Held("s", EvictionRank.IDLE, 1.0, "status")
    books.add(status)
    assert books.free("status") == 1
    assert books.evict("daytime") is not status


@pytest.mark.parametrize(
    ("listen", "connections", "http", "telnet", "expected"),
    [
        (("http", "telnet"), 1000, 0, 0, (500, 500)),
        (("http",), 1000, 0, 0, (1000, 1000)),
        (("http", "telnet"), 1000, 900, 0, (900, 500)),
        (("http", "telnet"), 1000, 5000, 1, (1000, 1)),
        (("http", "telnet", "status"), 1, 0, 0, (1, 1)),
    ],
)
def test_shares(listen: Sequence[str], connections: int, http: int, telnet: int, expected: tuple[int, int]) -> None:
    config = Config(
        listen=tuple(ListenConfig(name, "0") for name in listen),
        connections=connections,
        http_connections=http,
        telnet_connections=telnet,
        open_files=0,
    )
    assert tuple(connection_shares(config).values()) == expected


def test_a_burst_is_accepted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its time is over, the others stay in the kernel's queue, which tells of them again."""
    monkeypatch.setattr(listener, "ACCEPT_TIME", -1.0)
    with Pair(Greedy) as pair:
        (server,) = bind(Endpoint("127.0.0.1", 0))
        listening = Listener(server, pair.connection._service, pair.loop, pair.connections)
        socks = [socket.create_connection(server.sock.getsockname(), DEADLINE) for _ in range(30)]
        listening.ready(select.EPOLLIN)
        assert len(pair.connections) - 1 == STEPS_PER_CHECK // ACCEPT_STEPS + 1
        listening.ready(select.EPOLLIN)  # it goes on at the end of each wake, the next one first
        (go_on,) = pair.loop.after_poll
        go_on()
        assert len(pair.connections) - 1 == STEPS_PER_CHECK // ACCEPT_STEPS + 1
        while pair.loop.after_poll:
            pair.loop.clock.now += 1
            pair.loop.clock.work = 0
            before = len(pair.connections)
            pair.loop.after_poll[0]()
            assert len(pair.connections) - before <= STEPS_PER_CHECK // ACCEPT_STEPS + 1
        assert len(pair.connections) - 1 == 30
        for connection in pair.connections:
            connection.close()
        for sock in socks:
            sock.close()
        server.close()


def test_two_listeners_share_the_time_of_a_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them takes the other has not got in the same wake; then it comes first in the next."""
    now = [1000.0]

    def monotonic() -> float:
        now[0] += 0.002  # each look at the time
        return now[0]

    with Pair(Greedy) as pair:
        service = pair.connection._service
        servers = [bind(Endpoint("127.0.0.1", 0))[0] for _ in range(2)]
        listening = [Listener(server, service, pair.loop, pair.connections) for server in servers]
        socks = [socket.create_connection(server.sock.getsockname(), DEADLINE) for server in servers for _ in range(200)]
        monkeypatch.setattr("rawservers.core.listener.time.monotonic", monotonic)
        accepted: list[Listener] = []
        accept = Listener._accept

        def noted(self: Listener, most: int) -> None:
            accepted.append(self)
            accept(self, most)

        monkeypatch.setattr(Listener, "_accept", noted)
        for each in listening:
            pair.loop.clock.now = now[0]
            each.ready(select.EPOLLIN)
        assert pair.loop.backlogged == 2
        accepted.clear()
        for _ in range(4):
            pair.loop.clock.now = now[0]
            for callback in pair.loop.after_poll:
                callback()
            assert now[0] - pair.loop.clock.now <= listener.WAKE_TIME + 0.003
        assert set(accepted) == set(listening)  # neither is forgotten
        monkeypatch.undo()
        for connection in pair.connections:
            connection.close()
        for sock in socks:
            sock.close()
        for server in servers:
            server.close()


# Live


def configured(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rawservers.toml"
    path.write_text(text)
    return path


def get(server: Server) -> bytes:
    with server.connect() as sock:
        sock.sendall(b"GET /f HTTP/1.0\r\n\r\n")
        return receive_until(sock, b"content of f\n")


def test_silent_sessions_leave_room_for_gets(folder: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, "[limits]\nconnections = 20\n")
    with Server(folder, "--http", "0", "--telnet", "0", "-c", config, "--access-log", "off") as server:
        silent = [server.connect("telnet") for _ in range(20)]
        for _ in range(12):
            assert get(server).startswith(b"HTTP/1.0 200 ")
        for sock in silent:
            sock.close()


def test_unfinished_heads_make_room_for_finished_ones(folder: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, "[limits]\nconnections = 10\n")
    with Server(folder, "--http", "0", "--telnet", "off", "-c", config, "--access-log", "off") as server:
        slow = []
        for _ in range(30):
            slow.append(server.connect())
            slow[-1].sendall(b"GET /")
        for _ in range(20):
            assert get(server).startswith(b"HTTP/1.0 200 ")
        for sock in slow:
            sock.close()


def test_a_full_server_whose_connections_are_idle_lets_everybody_in(folder: Path, tmp_path: Path) -> None:
    """Also when all have become idle in this very wake."""
    config = configured(tmp_path, "[limits]\nconnections = 3\n")
    with Server(folder, "--http", "0", "--telnet", "off", "-c", config, "--access-log", "off") as server:
        kept = []
        for _ in range(40):
            kept.append(server.connect())
            kept[-1].settimeout(0.9)  # less than a tick
            kept[-1].sendall(GET)
            receive_until(kept[-1], b"content of f\n")
        for sock in kept:
            sock.close()


def test_the_longest_idle_goes_first(folder: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, "[limits]\nconnections = 3\n")
    with Server(folder, "--http", "0", "--telnet", "off", "-c", config, "--access-log", "off") as server:
        kept = []
        for _ in range(2):
            kept.append(server.connect())
            kept[-1].sendall(GET)
            receive_until(kept[-1], b"content of f\n")
        head = server.connect()
        head.sendall(b"GET /f HTTP/1.1\r\n")
        assert get(server).startswith(b"HTTP/1.0 200 ")
        assert kept[0].recv(1) == b""  # the oldest
        head.sendall(b"Host: h\r\n\r\n")
        assert receive_until(head, b"content of f\n").startswith(b"HTTP/1.0 200 ")
        for sock in (*kept, head):
            sock.close()
